"""A small model in a Marian folder, and what it takes to change one."""

import dataclasses
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import safetensors.numpy

from transformer_jax import Transformer, TransformerConfig
from transformer_jax.decoding.search_config import SearchConfig
from transformer_jax.errors import UserError
from transformer_jax.interop.huggingface import PretrainedTransformer, load_pretrained

WORDS = ["red", "green", "blue", "cat", "dog", "house", "sees", "takes", "the", "small"]
PIECES = 30
CONFIG = TransformerConfig(
    vocab_size=PIECES + 3,
    width=20,
    num_heads=2,
    feed_forward_dim=28,
    encoder_layers=2,
    decoder_layers=3,
    decoder_num_heads=5,
    decoder_feed_forward_dim=12,
    dropout_rate=0.2,
    attention_dropout_rate=0.125,
    feed_forward_dropout_rate=0.25,
    activation="gelu_tanh",
    scaled_embedding=False,
    sinusoids="halves",
    norm_epsilon=1e-5,
    attention_bias=True,
    logits_bias=True,
)
SEARCH = SearchConfig(
    beam_size=3,
    length_rule="plain",
    length_penalty=0.7,
    early_stopping="full",
    max_length=17,
    suppressed=(0, 5),
    force_end=True,
)
SHARED = "model.shared.weight"
HEAD = "lm_head.weight"
EMBEDDINGS = {side: f"model.{side}.embed_tokens.weight" for side in ("encoder", "decoder")}
POSITIONS = {side: f"model.{side}.embed_positions.weight" for side in ("encoder", "decoder")}
TOKENS = np.array([[3, 7, 8, 9], [4, 5, 6, 1]])


def pretrained(tokenizer, search=SEARCH, **changes):
    """A model whose parameters are all different, biases and scales too."""
    config = dataclasses.replace(CONFIG, **changes)
    model = Transformer(config)
    shapes = jax.eval_shape(model.init, jax.random.key(0), TOKENS, TOKENS)["params"]
    rng = np.random.default_rng(0)
    params = jax.tree.map(lambda x: jnp.asarray(rng.normal(size=x.shape), jnp.float32), shapes)
    return PretrainedTransformer(config, model, params, tokenizer, search)


def edit(folder, name="config.json", **changes):
    path = folder / name
    old = json.loads(path.read_text()) if path.exists() else {}
    path.write_text(json.dumps(old | changes))


def drop(folder, name, *keys):
    old = json.loads((folder / name).read_text())
    (folder / name).write_text(json.dumps({k: v for k, v in old.items() if k not in keys}))


def generation(folder, **changes):
    edit(folder, "generation_config.json", **changes)


def tensors_in(folder):
    return safetensors.numpy.load_file(folder / "model.safetensors")


def write_tensors(folder, tensors):
    safetensors.numpy.save_file(tensors, folder / "model.safetensors")


def assert_params_equal(got, want):
    assert jax.tree.structure(got) == jax.tree.structure(want)
    jax.tree.map(np.testing.assert_array_equal, got, want)
    assert {x.dtype for x in jax.tree.leaves(got)} == {jnp.dtype("float32")}


def assert_loads(folder, own):
    assert_params_equal(load_pretrained(folder).params, own.params)


def message_of(folder, match=None):
    with pytest.raises(UserError, match=match) as caught:
        load_pretrained(folder)
    return str(caught.value)

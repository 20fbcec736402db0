"""Small encoders in folders, as runs and published models leave them."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np

from transformer_jax import BertConfig, save_pretrained
from transformer_jax.data.wordpiece import WordPieceTokenizer
from transformer_jax.interop.bert import PretrainedBert

WORDS = [f"w{letter}" for letter in "abcdefghijklmnop"]
CONFIG = BertConfig(50, 16, 2, 32, 2, max_positions=40)


def write_encoder(folder, kind, *, labels=(), seed=0, **changes):
    """A folder with a random model of this kind and its tokenizer; the model."""
    folder.mkdir(parents=True, exist_ok=True)
    tokenizer = WordPieceTokenizer.train(
        WORDS * 4, folder / "tokenizer.json", vocab_size=50, lowercase=True
    )
    config = dataclasses.replace(CONFIG, **changes)
    found = PretrainedBert(config, kind, {}, tokenizer, labels)
    tokens = jnp.zeros((1, 2), jnp.int32)
    shapes = jax.eval_shape(found.model.init, jax.random.key(0), tokens)["params"]
    rng = np.random.default_rng(seed)
    params = jax.tree.map(
        lambda x: jnp.asarray(rng.normal(size=x.shape, scale=0.4), jnp.float32), shapes
    )
    found = dataclasses.replace(found, params=params)
    save_pretrained(folder, found)
    return found


def alone(found, text, second=None):
    """The ids and the token types of a text, as they are alone in a row."""
    t = found.tokenizer
    parts = [[t.cls_id, *t.encode([text])[0].ids, t.sep_id]]
    if second is not None:
        parts.append([*t.encode([second])[0].ids, t.sep_id])
    ids = np.concatenate(parts).astype(np.int32)[None]
    types = np.repeat(np.arange(len(parts)), [len(part) for part in parts]).astype(np.int32)[None]
    return ids, types

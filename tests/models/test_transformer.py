"""The Transformer: packing, padding, incremental decoding, and its frozen parameter names."""

import dataclasses
import functools
import importlib.util
import json
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from transformer_jax import Transformer, TransformerConfig, chunked_attention
from transformer_jax.data.pipeline import Ragged, pack_pairs
from transformer_jax.objectives.losses import label_smoothed_cross_entropy

ROOT = Path(__file__).parents[2]
CONFIG = TransformerConfig(
    vocab_size=17, width=8, num_heads=2, feed_forward_dim=12, encoder_layers=2, decoder_layers=2
)
PAIRS = (([4, 5, 6], [7, 8]), ([9, 10], [11, 12, 13]), ([14], [15]))
CAPACITY = (10, 10)


@functools.cache
def model_and_params(config=CONFIG):
    model = Transformer(config)
    tokens = jnp.zeros((1, 2), jnp.int32)
    return model, jax.jit(model.init)(jax.random.key(0), tokens, tokens)["params"]


def batch_of(rows):
    source, target = (Ragged.from_lists(list(side)) for side in zip(*PAIRS, strict=True))
    rows = [np.asarray(row) for row in rows]
    return pack_pairs(source, target, rows, capacity=CAPACITY, bos_id=3, eos_id=1)


def logits_of(batch, params=None, model=None):
    default_model, default_params = model_and_params()
    return (model or default_model).apply(
        {"params": default_params if params is None else params},
        batch["source"],
        batch["target_inputs"],
        source_segments=batch["source_segments"],
        target_segments=batch["target_segments"],
        source_positions=batch["source_positions"],
        target_positions=batch["target_positions"],
    )


def test_packed_equals_unpacked_outputs_loss_and_gradients():
    _, params = model_and_params()

    def loss(params, batch):
        logits = logits_of(batch, params)
        total, weight = label_smoothed_cross_entropy(
            logits, batch["targets"], batch["target_segments"] != 0, smoothing=0.1
        )
        return total / weight, logits

    run = jax.jit(jax.value_and_grad(loss, has_aux=True))
    packed, alone = batch_of([[0, 1, 2]]), batch_of([[0], [1], [2]])
    (packed_loss, packed_logits), packed_gradients = run(params, packed)
    (alone_loss, alone_logits), alone_gradients = run(params, alone)
    for row in range(3):
        mine = packed["target_segments"][0] == row + 1
        there = alone["target_segments"][row] == 1
        np.testing.assert_allclose(packed_logits[0, mine], alone_logits[row, there], atol=1e-5)
    np.testing.assert_allclose(packed_loss, alone_loss, rtol=1e-6)
    norm = np.sqrt(sum(np.sum(g**2) for g in jax.tree.leaves(alone_gradients)))
    for got, want in zip(
        jax.tree.leaves(packed_gradients), jax.tree.leaves(alone_gradients), strict=True
    ):
        np.testing.assert_allclose(got, want, atol=1e-5 * norm)


def test_change_in_one_segment_leaves_the_others_bitwise_equal():
    run = jax.jit(logits_of)
    batch = batch_of([[0, 1, 2]])
    other = {name: value.copy() for name, value in batch.items()}
    other["source"][batch["source_segments"] == 2] = 16
    other["target_inputs"][batch["target_segments"] == 2] = 16
    before, after = run(batch), run(other)
    mine = batch["target_segments"] == 2
    others = (batch["target_segments"] != 0) & ~mine
    np.testing.assert_array_equal(before[others], after[others])
    assert (before[mine] != after[mine]).any()


def test_padding_content_and_future_tokens_change_nothing():
    run = jax.jit(logits_of)
    batch = batch_of([[0, 1], [2]])
    noisy = {name: value.copy() for name, value in batch.items()}
    noisy["source"][batch["source_segments"] == 0] = 16
    noisy["target_inputs"][batch["target_segments"] == 0] = 16
    real = batch["target_segments"] != 0
    np.testing.assert_array_equal(run(batch)[real], run(noisy)[real])
    noisy["target_inputs"][:, 2:] = 5
    np.testing.assert_array_equal(run(batch)[:, :2], run(noisy)[:, :2])


def test_padding_gets_no_gradient():
    model, params = model_and_params()
    batch = batch_of([[2]])

    def loss(params):
        logits = logits_of(
            batch | {"source": np.where(batch["source"] == 0, 16, batch["source"])}, params
        )
        return jnp.sum(
            jnp.where(batch["target_segments"][..., None] != 0, logits[..., :16], 0) ** 2
        )

    # Token 16 stands in the padding alone, and its own logit is left out of the loss.
    assert not jax.grad(loss)(params)["token_embedding"]["embedding"][16].any()


def test_incremental_decoding_equals_full_decoding():
    model, params = model_and_params()
    batch = batch_of([[0], [1]])
    want = logits_of(batch)
    valid = batch["source_segments"]
    encoded = model.apply({"params": params}, batch["source"], segments=valid, method="encode")
    memory = model.apply({"params": params}, encoded, method="memory")
    cache = model.apply({}, 2, 4, method="empty_cache")
    for i in range(3):
        logits, cache = model.apply(
            {"params": params}, batch["target_inputs"][:, i], memory, cache, i,
            source_valid=valid, method="decode_step",
        )  # fmt: skip
        np.testing.assert_allclose(logits, want[:, i], atol=1e-5)


@pytest.mark.parametrize("changes", [dict(unroll=True), dict(remat="full"), dict(remat="dots")])
def test_ways_to_run_the_stack_agree(changes):
    other = Transformer(dataclasses.replace(CONFIG, **changes))
    batch = batch_of([[0, 1, 2]])
    np.testing.assert_allclose(logits_of(batch, model=other), logits_of(batch), atol=1e-5)


def test_another_attention_function_is_used():
    other = Transformer(CONFIG, attention_fn=functools.partial(chunked_attention, chunk_size=3))
    batch = batch_of([[0, 1, 2]])
    np.testing.assert_allclose(logits_of(batch, model=other), logits_of(batch), atol=1e-5)


def test_segments_come_in_pairs():
    model, params = model_and_params()
    tokens = jnp.ones((1, 3), jnp.int32)
    with pytest.raises(ValueError, match="together"):
        model.apply({"params": params}, tokens, tokens, source_segments=tokens)


@pytest.mark.parametrize(
    "changes,message",
    [
        (dict(width=9), "multiple of"),
        (dict(num_heads=3), "multiple of"),
        (dict(encoder_layers=0), "encoder_layers=0"),
        (dict(dropout_rate=1.0), "dropout_rate=1.0"),
    ],
)
def test_impossible_sizes_are_refused(changes, message):
    with pytest.raises(ValueError, match=message):
        dataclasses.replace(CONFIG, **changes)


def shapes_of(config):
    tokens = jax.ShapeDtypeStruct((1, 2), jnp.int32)
    params = jax.eval_shape(Transformer(config).init, jax.random.key(0), tokens, tokens)["params"]
    leaves = jax.tree_util.tree_leaves_with_path(params)
    return {
        jax.tree_util.keystr(path, simple=True, separator="/"): list(leaf.shape)
        for path, leaf in leaves
    }


def shipped(name):
    spec = importlib.util.spec_from_file_location(name, ROOT / "configs" / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.get_config()


CONFIGS = sorted(path.stem for path in (ROOT / "configs").glob("trans*.py"))


@pytest.mark.parametrize("name", CONFIGS)
def test_parameter_names_and_shapes_are_those_of_the_golden_file(name):
    """The names are the checkpoint format; after an intended change, write the file anew."""
    golden = json.loads((Path(__file__).parent / "golden" / f"{name}.json").read_text())
    assert shapes_of(shipped(name).model) == golden


def test_base_and_big_have_the_papers_sizes():
    def millions(name):
        return sum(np.prod(shape) for shape in shapes_of(shipped(name).model).values()) / 1e6

    # Table 3 of the paper says 65 and 213 million, with a vocabulary of about 37,000.
    assert 62 < millions("transformer_base_wmt") < 66
    assert 208 < millions("transformer_big_wmt") < 216

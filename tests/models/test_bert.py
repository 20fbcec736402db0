"""BERT: packing, padding, gathered heads, shared and factorised parameters, frozen names."""

import dataclasses
import functools
import json
import math
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from transformer_jax.layers.attention import chunked_attention
from transformer_jax.models.bert import Bert, BertConfig
from transformer_jax.models.bert_pretraining import BertPretraining, Boundaries
from transformer_jax.models.heads import SpanBoundaryHead

BERT = BertConfig(
    vocab_size=17, width=8, num_heads=2, feed_forward_dim=12, num_layers=2, max_positions=6
)
ALBERT = dataclasses.replace(
    BERT, embedding_width=6, shared_layers=True, activation="gelu_tanh", first_position=2
)
CLS, SEP, OTHER = 2, 3, 16
# Tokens, their types, and the places that are predicted.
EXAMPLES = (
    ([CLS, 5, 6, SEP, 7, SEP], [0, 0, 0, 0, 1, 1], [1, 4]),
    ([CLS, 8, SEP], [0, 0, 0], [1]),
    ([CLS, 9, SEP, 10, SEP], [0, 0, 0, 1, 1], [3, 1]),
)
T, P, E = 16, 6, 4


def row_of(chosen, length):
    """The examples one after the other in one row; what is over is padding, and named by 0."""
    row = {name: [] for name in ("tokens", "segments", "positions", "token_types")}
    row |= {"masked_positions": [], "first_tokens": []}
    for number, (tokens, types, masked) in enumerate((EXAMPLES[i] for i in chosen), 1):
        start = len(row["tokens"])
        row["first_tokens"].append(start)
        row["masked_positions"] += [start + place for place in masked]
        row["tokens"] += tokens
        row["segments"] += [number] * len(tokens)
        row["positions"] += range(len(tokens))
        row["token_types"] += types
    sizes = {"masked_positions": P, "first_tokens": E}
    return {
        k: np.array(v + [0] * (sizes.get(k, length) - len(v)), np.int32) for k, v in row.items()
    }


def batch_of(*rows, length=T):
    rows = [row_of(chosen, length) for chosen in rows]
    return {name: np.stack([row[name] for row in rows]) for name in rows[0]}


@functools.cache
def random_params(config):
    """Far from their initial values, so that every parameter matters."""
    rng = np.random.default_rng(0)

    def draw(path, x):
        return rng.normal(float(path[-1].key == "scale"), 0.3, x.shape).astype(np.float32)

    return jax.tree_util.tree_map_with_path(draw, shapes_of(config))


def shapes_of(config):
    tokens = jax.ShapeDtypeStruct((1, 2), jnp.int32)
    return jax.eval_shape(BertPretraining(config).init, jax.random.key(0), tokens)["params"]


def named_shapes(tree):
    return {
        jax.tree_util.keystr(path, simple=True, separator="/"): list(leaf.shape)
        for path, leaf in jax.tree_util.tree_leaves_with_path(tree)
    }


def size_of(tree):
    return sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(tree))


def run(config, batch, params=None, model=None, **options):
    """Logits of the tokens and of the pairs."""
    params = random_params(config) if params is None else params
    return (model or BertPretraining(config)).apply({"params": params}, **batch, **options)


def hidden_of(config, batch, params=None, model=None, **options):
    params = (random_params(config) if params is None else params)["bert"]
    inputs = {k: v for k, v in batch.items() if k not in ("masked_positions", "first_tokens")}
    return (model or Bert(config)).apply({"params": params}, **inputs, **options)


@pytest.mark.parametrize("config", [BERT, ALBERT], ids=["bert", "albert"])
def test_packed_equals_unpacked_in_states_logits_and_gradients(config):
    packed, alone = batch_of([0, 1, 2]), batch_of([0], [1], [2], length=6)
    weights = np.random.default_rng(1).normal(size=config.vocab_size)

    @jax.jit
    def outputs(params, batch):
        tokens, pairs = run(config, batch, params)
        return hidden_of(config, batch, params), tokens, pairs

    @jax.jit
    def gradients(params, batch, mlm_weights, pair_weights):
        def loss(params):
            _, tokens, pairs = outputs(params, batch)
            picked = jnp.sum(jnp.sin(tokens) * weights * mlm_weights[..., None])
            return picked + jnp.sum(jnp.sin(pairs[..., 0]) * pair_weights)

        return jax.grad(loss)(params)

    params = random_params(config)
    states, tokens, pairs = outputs(params, packed)
    states_1, tokens_1, pairs_1 = outputs(params, alone)
    assert all(np.isfinite(x).all() for x in (states_1, tokens_1, pairs_1))
    counts = [len(masked) for _, _, masked in EXAMPLES]
    start = 0
    for i, count in enumerate(counts):
        there = packed["segments"][0] == i + 1
        here = alone["segments"][i] == 1
        np.testing.assert_allclose(states[0, there], states_1[i, here], atol=1e-5)
        np.testing.assert_allclose(tokens[0, start : start + count], tokens_1[i, :count], atol=1e-5)
        np.testing.assert_allclose(pairs[0, i], pairs_1[i, 0], atol=1e-5)
        start += count
    first = np.arange(P)
    got = gradients(params, packed, first[None] < start, np.arange(E)[None] < 3)
    want = gradients(
        params, alone, first < np.array(counts)[:, None], np.arange(E) < np.ones((3, 1))
    )
    norm = math.sqrt(sum(float(jnp.sum(g**2)) for g in jax.tree.leaves(want)))
    assert math.isfinite(norm) and norm > 1
    for g, w in zip(jax.tree.leaves(got), jax.tree.leaves(want), strict=True):
        np.testing.assert_allclose(g, w, atol=1e-5 * norm)


@pytest.mark.parametrize("config", [BERT, ALBERT], ids=["bert", "albert"])
def test_padding_content_changes_nothing(config):
    batch = batch_of([0, 1], [2])
    padding = batch["segments"] == 0
    noisy = {name: value.copy() for name, value in batch.items()}
    noisy["tokens"][padding] = OTHER
    noisy["token_types"][padding] = 1
    noisy["positions"][padding] = 5
    got, want = hidden_of(config, noisy), hidden_of(config, batch)
    np.testing.assert_array_equal(got[~padding], want[~padding])
    assert (got[padding] != want[padding]).any()
    for got, want in zip(run(config, noisy), run(config, batch), strict=True):
        np.testing.assert_array_equal(got[:, :1], want[:, :1])  # the others may name padding


def test_change_in_one_example_leaves_the_others_bitwise_equal():
    batch = batch_of([0, 1, 2])
    mine = batch["segments"] == 2
    other = batch | {"tokens": np.where(mine, OTHER, batch["tokens"])}
    before, after = hidden_of(BERT, batch), hidden_of(BERT, other)
    np.testing.assert_array_equal(before[~mine], after[~mine])
    assert (before[mine] != after[mine]).any(axis=-1).all()


@pytest.mark.parametrize("config", [BERT, ALBERT], ids=["bert", "albert"])
def test_gathered_logits_equal_all_logits_gathered(config):
    batch = batch_of([0, 1], [2, 1])
    gathered, pairs = run(config, batch)
    everywhere, pairs_too = run(config, batch | {"masked_positions": None})
    assert everywhere.shape == (2, T, config.vocab_size)
    for row, places in enumerate(batch["masked_positions"]):
        for i, place in enumerate(places):
            np.testing.assert_allclose(gathered[row, i], everywhere[row, place], atol=1e-5)
    np.testing.assert_array_equal(pairs, pairs_too)


@pytest.mark.parametrize("config", [BERT, ALBERT], ids=["bert", "albert"])
def test_masked_states_times_the_table_are_the_logits(config):
    batch, params = batch_of([0, 1, 2]), random_params(config)
    states = run(config, batch, method="states")
    table, bias, _ = BertPretraining(config).apply({"params": params}, method="tables")
    assert states.masked.shape == (1, P, config.embedding_width or config.width)
    assert table.shape == (config.vocab_size, states.masked.shape[-1])
    assert states.boundary is None
    np.testing.assert_array_equal(states.hidden, hidden_of(config, batch))
    tokens, pairs = run(config, batch)
    want = np.asarray(states.masked, np.float64) @ np.asarray(table, np.float64).T
    np.testing.assert_allclose(tokens, want + np.asarray(bias), atol=1e-5)
    np.testing.assert_array_equal(states.pairs, pairs)


def test_the_span_boundary_head_reads_both_ends_of_the_span():
    model = BertPretraining(BERT, span_boundary=True)
    batch = batch_of([0, 1, 2])
    shapes = jax.eval_shape(model.init, jax.random.key(0), batch["tokens"][:, :2])["params"]
    keys = iter(jax.random.split(jax.random.key(1), 100))
    params = jax.tree.map(lambda x: 0.3 * jax.random.normal(next(keys), x.shape), shapes)
    places = Boundaries(*(np.array([[3, 1], [5, 9], [0, 1]], np.int32)[:, None]))
    batch["masked_positions"] = np.array([[4, 7]], np.int32)
    states = model.apply({"params": params}, **batch, boundaries=places, method="states")
    head = SpanBoundaryHead(BERT.vocab_size, BERT.width)
    left, right = (states.hidden[:, x[0]] for x in places[:2])
    want = head.apply(
        {"params": params["span_boundary_head"]}, left, right, places.offsets, method="states"
    )
    np.testing.assert_allclose(states.boundary, want, atol=1e-6)
    _, _, bias = model.apply({"params": params}, method="tables")
    np.testing.assert_array_equal(bias, params["span_boundary_head"]["bias"])


def test_pooled_states_are_of_each_examples_first_token():
    batch, params = batch_of([0, 1, 2], [2, 0]), random_params(BERT)["bert"]
    hidden, places = hidden_of(BERT, batch), batch["first_tokens"]
    pooled = Bert(BERT).apply({"params": params}, hidden, places, method="pool")
    dense = params["pooler"]
    for row, firsts in enumerate(places):
        for i, place in enumerate(firsts):
            want = np.tanh(np.asarray(hidden)[row, place] @ dense["kernel"] + dense["bias"])
            np.testing.assert_allclose(pooled[row, i], want, atol=1e-5)


def test_what_is_not_given_has_its_default():
    tokens = np.array([[CLS, 5, 6, SEP], [CLS, 8, 9, SEP]], np.int32)
    got = run(BERT, {"tokens": tokens})
    given = dict(
        segments=np.ones_like(tokens),
        positions=np.arange(4)[None].repeat(2, 0),
        token_types=np.zeros_like(tokens),
        masked_positions=np.arange(4)[None].repeat(2, 0),
        first_tokens=np.zeros((2, 1), np.int32),
    )
    for g, w in zip(got, run(BERT, given | {"tokens": tokens}), strict=True):
        np.testing.assert_allclose(g, w, atol=1e-6)


def test_positions_that_begin_later_read_later_rows_of_the_table():
    batch, later = batch_of([0, 1, 2]), dataclasses.replace(BERT, first_position=2)
    params = random_params(later)
    table = params["bert"]["position_embedding"]["embedding"]
    assert table.shape == (8, 8)
    cut = params["bert"] | {"position_embedding": {"embedding": table[2:]}}
    got = hidden_of(later, batch, params)
    np.testing.assert_array_equal(got, hidden_of(BERT, batch, {"bert": cut}))


@pytest.mark.parametrize("config", [BERT, ALBERT], ids=["bert", "albert"])
@pytest.mark.parametrize("changes", [dict(unroll=True), dict(remat="full"), dict(remat="dots")])
def test_ways_to_run_the_stack_agree(config, changes):
    batch = batch_of([0, 1, 2])
    got = run(dataclasses.replace(config, **changes), batch, random_params(config))
    for g, w in zip(got, run(config, batch), strict=True):
        np.testing.assert_allclose(g, w, atol=1e-5)


def test_another_attention_function_is_used():
    seen = []

    def kernel(*inputs, **options):
        seen.append(inputs)
        return chunked_attention(*inputs, chunk_size=3, **options)

    batch = batch_of([0, 1, 2])
    got = run(BERT, batch, model=BertPretraining(BERT, attention_fn=kernel))
    assert seen
    for g, w in zip(got, run(BERT, batch), strict=True):
        np.testing.assert_allclose(g, w, atol=1e-5)


def test_embeddings_and_sublayers_are_dropped_and_the_layout_is_fixed_after_each():
    seen = []

    def constrain(x):
        seen.append(x)
        return x

    config = dataclasses.replace(BERT, dropout_rate=0.25, attention_dropout_rate=0.25, num_layers=1)
    params, batch = random_params(config), batch_of([0, 1, 2])
    model = Bert(config, constrain=constrain)
    rngs = {"dropout": jax.random.key(0)}
    whole = hidden_of(config, batch, params, model)
    dropped = hidden_of(config, batch, params, model, deterministic=False, rngs=rngs)
    embedded, embedded_dropped = (x for x in seen if not isinstance(x, jax.core.Tracer))
    zero = np.asarray(embedded_dropped) == 0
    assert 0.1 < zero.mean() < 0.4
    scaled = np.where(zero, 0, embedded / 0.75)
    np.testing.assert_allclose(embedded_dropped, scaled, rtol=1e-5)
    assert len(seen) > 2  # after the layer too
    assert (dropped != whole).any()
    other = hidden_of(
        config, batch, params, deterministic=False, rngs={"dropout": jax.random.key(1)}
    )
    assert (dropped != other).any()


def test_all_matrices_start_normally_with_the_given_deviation_and_biases_at_zero():
    config = dataclasses.replace(BERT, width=64, vocab_size=200, init_std=0.05, embedding_width=48)
    init = jax.jit(BertPretraining(config).init)
    params = init(jax.random.key(0), jnp.zeros((1, 2), int))["params"]
    for path, leaf in jax.tree_util.tree_leaves_with_path(params):
        kind = path[-1].key
        if kind in ("kernel", "embedding"):
            spread = leaf.std() / 0.05
            assert abs(spread - 1) < 4 / math.sqrt(2 * leaf.size), path
            assert leaf.size < 2000 or jnp.abs(leaf).max() > 3 * 0.05, path  # not truncated
        else:
            assert (leaf == (kind == "scale")).all(), path


def test_bf16_compute_keeps_float32_parameters_and_logits():
    config = dataclasses.replace(BERT, dtype="bfloat16")
    batch = batch_of([0, 1, 2])
    assert {leaf.dtype for leaf in jax.tree.leaves(shapes_of(config))} == {jnp.dtype("float32")}
    assert hidden_of(config, batch, random_params(BERT)).dtype == jnp.bfloat16
    for got, want in zip(run(config, batch, random_params(BERT)), run(BERT, batch), strict=True):
        assert got.dtype == jnp.float32
        np.testing.assert_allclose(got, want, atol=0.15)


def test_a_model_without_pooler_judges_no_pairs():
    config = dataclasses.replace(BERT, pooler=False)
    params, batch = random_params(config), batch_of([0])
    assert "pair_head" not in params and "pooler" not in params["bert"]
    assert run(config, batch)[1] is None
    with pytest.raises(ValueError, match="no pooler"):
        Bert(config).apply(
            {"params": params["bert"]}, jnp.ones((1, 2, 8)), jnp.zeros((1, 1), int), method="pool"
        )


def test_all_parameters_are_there_whatever_is_called_first():
    tokens = jnp.zeros((1, 2), jnp.int32)
    alone = jax.eval_shape(Bert(ALBERT).init, jax.random.key(0), tokens)["params"]
    assert named_shapes(alone) == named_shapes(shapes_of(ALBERT)["bert"])


def test_what_the_model_has_no_place_for_is_refused():
    config = dataclasses.replace(BERT, type_vocab_size=0)
    assert "type_embedding" not in shapes_of(config)["bert"]
    tokens = jnp.ones((1, 3), jnp.int32)
    with pytest.raises(ValueError, match="type_vocab_size=0"):
        run(config, {"tokens": tokens, "token_types": tokens})
    with pytest.raises(ValueError, match="7 tokens, but the model has 6 positions"):
        run(BERT, {"tokens": jnp.ones((1, 7), jnp.int32)})
    beyond = run(BERT, {"tokens": tokens, "positions": jnp.array([[4, 5, 6]])})[0]
    assert jnp.isnan(beyond).any()


@pytest.mark.parametrize(
    "changes,message",
    [
        (dict(num_heads=3), "multiple of"),
        (dict(num_layers=0), "num_layers=0"),
        (dict(embedding_width=0), "embedding_width=0"),
        (dict(max_positions=0), "max_positions=0"),
        (dict(type_vocab_size=-1), "type_vocab_size=-1"),
        (dict(first_position=-1), "first_position=-1"),
        (dict(dropout_rate=1.0), "dropout_rate=1.0"),
        (dict(attention_dropout_rate=-0.1), "attention_dropout_rate=-0.1"),
        (dict(init_std=0.0), "init_std=0.0"),
    ],
)
def test_impossible_sizes_are_refused(changes, message):
    with pytest.raises(ValueError, match=message):
        dataclasses.replace(BERT, **changes)


def test_factorised_embeddings_have_the_parameters_of_two_smaller_matrices():
    small, large = (
        shapes_of(dataclasses.replace(BERT, embedding_width=width))["bert"] for width in (3, None)
    )
    rows, width = 17 + 6 + 2, 8
    tables = ("token_embedding", "position_embedding", "type_embedding", "embedding_norm")
    parts = (*tables, "embedding_projection")
    assert size_of([small[name] for name in parts]) == rows * 3 + 2 * 3 + 3 * width + width
    assert size_of([large[name] for name in tables]) == rows * width + 2 * width
    assert "embedding_projection" not in large


def test_shared_layers_have_the_parameters_of_one():
    def encoder(layers, shared):
        config = dataclasses.replace(BERT, num_layers=layers, shared_layers=shared)
        return size_of(shapes_of(config)["bert"]["encoder"])

    d, f = 8, 12
    one = 4 * (d * d + d) + (d * f + f) + (f * d + d) + 4 * d
    assert encoder(5, shared=True) == encoder(1, shared=True) == one
    assert encoder(5, shared=False) == 5 * one


ALBERT_SIZES: dict = dict(
    vocab_size=30000, embedding_width=128, shared_layers=True, activation="gelu_tanh"
)
# Each with the millions of parameters that its paper gives: section 3 of arXiv:1810.04805, table 1
# of arXiv:1909.11942, table 3 of arXiv:1910.01108.
PUBLISHED = {
    "bert_base_pretraining": (BertConfig.base(), 110),
    "bert_large_pretraining": (BertConfig.large(), 340),
    "albert_base_pretraining": (BertConfig.base(**ALBERT_SIZES), 12),
    "albert_large_pretraining": (BertConfig.large(**ALBERT_SIZES), 18),
    "distilbert_pretraining": (BertConfig(num_layers=6, type_vocab_size=0, pooler=False), 66),
}


@pytest.mark.parametrize("name", PUBLISHED)
def test_published_models_have_the_papers_sizes(name):
    config, millions = PUBLISHED[name]
    np.testing.assert_allclose(size_of(shapes_of(config)) / 1e6, millions, rtol=0.025)


def test_tiny_has_the_papers_size():
    # Table 1 of arXiv:1908.08962 counts 4.4 million, without the head that scores tokens.
    assert 4.3e6 < size_of(shapes_of(BertConfig.tiny())["bert"]) < 4.5e6


@pytest.mark.parametrize("name", [name for name in PUBLISHED if "large" not in name])
def test_parameter_names_and_shapes_are_those_of_the_golden_file(name):
    """The names are the checkpoint format; after an intended change, write the file anew."""
    golden = json.loads((Path(__file__).parent / "golden" / f"{name}.json").read_text())
    assert named_shapes(shapes_of(PUBLISHED[name][0])) == golden

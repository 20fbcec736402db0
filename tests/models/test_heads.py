"""The heads against numpy in float64, one token at a time."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.special import erf

from transformer_jax.models.heads import (
    ChoiceHead,
    MlmHead,
    PairHead,
    SequenceHead,
    SpanBoundaryHead,
    SpanHead,
    TokenHead,
    gather_tokens,
)

B, T, P, D, WIDTH, V, C = 2, 5, 3, 8, 6, 11, 4
EPSILON = 1e-3  # large, so that it matters
ACTIVATIONS = {"gelu": lambda x: x * 0.5 * (1 + erf(x / np.sqrt(2))), "relu": lambda x: max(x, 0)}


def random(*shape, seed=0):
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


def random_params(module, *inputs):
    """Far from their initial values."""
    shapes = jax.eval_shape(module.init, jax.random.key(0), *inputs)["params"]
    rng = np.random.default_rng(7)
    return jax.tree.map(lambda x: rng.normal(0.5, 0.5, x.shape).astype(np.float32), shapes)


def dense(p, x):
    return np.float64(x) @ np.float64(p["kernel"]) + np.float64(p["bias"])


def transform(p, x, activation="gelu"):
    """Dense, activation, layer norm of one vector."""
    x = np.array([ACTIVATIONS[activation](value) for value in dense(p["dense"], x)])
    x = (x - x.mean()) / np.sqrt(((x - x.mean()) ** 2).mean() + EPSILON)
    return x * p["norm"]["scale"] + p["norm"]["bias"]


def test_gather_takes_the_named_states_of_each_row():
    x, places = random(B, T, D), np.array([[4, 0, 0], [1, 3, 2]])
    got = gather_tokens(x, places)
    for b in range(B):
        for p in range(P):
            np.testing.assert_array_equal(got[b, p], x[b, places[b, p]])


@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_mlm_head_equals_numpy(activation):
    head = MlmHead(V, WIDTH, activation=activation, norm_epsilon=EPSILON)
    x, table = random(B, P, D), random(V, WIDTH, seed=1)
    p = random_params(head, x, table)
    got = head.apply({"params": p}, x, table)
    states = head.apply({"params": p}, x, method="states")
    for b in range(B):
        for i in range(P):
            want = transform(p["transform"], x[b, i], activation)
            np.testing.assert_allclose(states[b, i], want, atol=1e-5)
            np.testing.assert_allclose(got[b, i], table @ want + p["bias"], atol=1e-5)


def test_span_boundary_head_equals_numpy():
    head = SpanBoundaryHead(V, WIDTH, norm_epsilon=EPSILON, max_span=4, position_width=5)
    left, right, table = random(B, P, D), random(B, P, D, seed=1), random(V, WIDTH, seed=2)
    offsets = np.array([[0, 1, 3], [2, 0, 1]])
    p = random_params(head, left, right, offsets, table)
    got = head.apply({"params": p}, left, right, offsets, table)
    for b in range(B):
        for i in range(P):
            place = p["position_embedding"]["embedding"][offsets[b, i]]
            x = transform(p["transform_1"], np.concatenate([left[b, i], right[b, i], place]))
            want = table @ transform(p["transform_2"], x) + p["bias"]
            np.testing.assert_allclose(got[b, i], want, atol=1e-5)
    beyond = head.apply({"params": p}, left, right, offsets + 1, table)
    assert jnp.isnan(beyond[0, 2]).all() and jnp.isfinite(beyond[1]).all()


def test_span_boundary_head_has_the_papers_sizes():
    head = SpanBoundaryHead(V, WIDTH)
    x, table = jnp.zeros((1, 1, D)), jnp.zeros((V, WIDTH))
    p = jax.eval_shape(head.init, jax.random.key(0), x, x, jnp.zeros((1, 1), int), table)["params"]
    assert p["position_embedding"]["embedding"].shape == (20, 200)
    assert p["transform_1"]["dense"]["kernel"].shape == (2 * D + 200, WIDTH)


@pytest.mark.parametrize(
    "head,shape,want_shape",
    [
        (PairHead(), (B, P, D), (B, P, 2)),
        (SequenceHead(C), (B, D), (B, C)),
        (SequenceHead(C), (B, P, D), (B, P, C)),
        (TokenHead(C), (B, T, D), (B, T, C)),
    ],
)
def test_classifiers_equal_numpy(head, shape, want_shape):
    x = random(*shape)
    p = random_params(head, x)
    got = head.apply({"params": p}, x)
    assert got.shape == want_shape
    np.testing.assert_allclose(got, dense(p["dense"], x), atol=1e-5)


def test_span_head_scores_starts_and_ends():
    head, x = SpanHead(), random(B, T, D)
    p = random_params(head, x)
    want = dense(p["dense"], x)
    for i, got in enumerate(head.apply({"params": p}, x)):
        assert got.shape == (B, T)
        np.testing.assert_allclose(got, want[..., i], atol=1e-5)


def test_choice_head_keeps_a_questions_choices_together():
    head, x = ChoiceHead(C), random(B, 2 * C, D)
    p = random_params(head, x)
    got = head.apply({"params": p}, x)
    assert got.shape == (B, 2, C)
    for b, q, c in np.ndindex(got.shape):
        want = dense(p["dense"], x[b, q * C + c])[0]
        np.testing.assert_allclose(got[b, q, c], want, atol=1e-5)


@pytest.mark.parametrize("make", [SequenceHead, TokenHead, ChoiceHead])
def test_dropout_is_of_what_enters_the_classifier(make):
    head, x = make(1, dropout_rate=0.4), jnp.ones((1, 20_000))
    x = x if make is SequenceHead else x[None]
    params = {"dense": {"kernel": jnp.ones((20_000, 1)) / 20_000, "bias": jnp.zeros(1)}}
    apply = jax.jit(
        lambda seed: head.apply(
            {"params": params}, x, deterministic=False, rngs={"dropout": jax.random.key(seed)}
        )
    )
    first, second = apply(0).item(), apply(1).item()
    assert first != second
    np.testing.assert_allclose([first, second], 1.0, atol=0.03)  # the mean stays
    np.testing.assert_allclose(head.apply({"params": params}, x), 1.0, rtol=1e-5)


@pytest.mark.parametrize(
    "head",
    [PairHead(), SequenceHead(C), TokenHead(C), SpanHead(), ChoiceHead(T)],
    ids=lambda head: type(head).__name__,
)
def test_logits_are_float32_and_start_small(head):
    x = jnp.ones((B, T, 500), jnp.bfloat16)
    logits, variables = head.init_with_output(jax.random.key(0), x)
    assert {leaf.dtype for leaf in jax.tree.leaves(logits)} == {jnp.dtype("float32")}
    kernel = variables["params"]["dense"]["kernel"]
    np.testing.assert_allclose(kernel.std(), 0.02, rtol=0.12)
    assert not variables["params"]["dense"]["bias"].any()


@pytest.mark.parametrize("make", [MlmHead, SpanBoundaryHead])
def test_tied_heads_compute_in_their_dtype_and_give_float32(make):
    x, table = random(B, P, D), random(V, WIDTH, seed=1)
    inputs = (x, table) if make is MlmHead else (x, x, np.zeros((B, P), int), table)
    p = random_params(make(V, WIDTH), *inputs)
    got = make(V, WIDTH, dtype=jnp.bfloat16).apply({"params": p}, *inputs)
    assert got.dtype == jnp.float32
    want = make(V, WIDTH).apply({"params": p}, *inputs)
    assert (got != want).any()
    np.testing.assert_allclose(got, want, atol=0.2)

"""The loss in chunks against the plain one: values, gradients, layouts, memory."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import NamedSharding, PartitionSpec

from transformer_jax.objectives.chunked_cross_entropy import (
    chunked_cross_entropy,
    chunked_token_accuracy,
)

B, P, V, D = 2, 7, 11, 5


def case(b=B, p=P, v=V, d=D, seed=0):
    """States, table, bias, targets, weights."""
    rng = np.random.default_rng(seed)
    floats = [jnp.float32(rng.normal(size=shape)) for shape in ((b, p, d), (v, d), (v,))]
    return *floats, jnp.int32(rng.integers(0, v, (b, p))), jnp.float32(rng.random((b, p)))


def numpy_loss(states, table, bias, targets, weights):
    """The same in float64, one prediction after the other."""
    total = 0.0
    x, t, c = (np.asarray(a, np.float64) for a in (states, table, bias))
    for place, target in np.ndenumerate(np.asarray(targets)):
        logits = t @ x[place] + c
        total += float(weights[place]) * (np.log(np.exp(logits).sum()) - logits[target])
    return total


def numpy_gradients(states, table, bias, targets, weights):
    """By states, table and bias, in float64: softmax minus one-hot."""
    x, t, c = (np.asarray(a, np.float64) for a in (states, table, bias))
    logits = np.einsum("bpd,vd->bpv", x, t) + c
    error = np.exp(logits) / np.exp(logits).sum(-1, keepdims=True)
    error = (error - np.eye(len(c))[np.asarray(targets)]) * np.asarray(weights)[..., None]
    return error @ t, np.einsum("bpv,bpd->vd", error, x), error.sum((0, 1))


def value_and_gradients(chunk_size):
    def loss(*args):
        return chunked_cross_entropy(*args, chunk_size=chunk_size)

    return jax.value_and_grad(loss, argnums=(0, 1, 2), has_aux=True)


def relative(got, want):
    return np.abs(np.asarray(got) - want).max() / np.abs(want).max()


@pytest.mark.parametrize("jit", [False, True])
@pytest.mark.parametrize("chunk_size", [1, 3, P, 100])  # 3 leaves a rest; 100 is more than all
def test_values_and_gradients_equal_the_plain_loss(chunk_size, jit):
    args = case()
    run = value_and_gradients(chunk_size)
    (total, weight), gradients = (jax.jit(run) if jit else run)(*args)
    np.testing.assert_allclose(total, numpy_loss(*args), rtol=1e-5)
    np.testing.assert_allclose(weight, np.float64(args[-1]).sum(), rtol=1e-6)
    for got, want in zip(gradients, numpy_gradients(*args), strict=True):
        assert relative(got, want) < 1e-5


def test_what_weighs_nothing_has_no_gradient():
    states, table, bias, targets, weights = case()
    weights = weights.at[:, 2].set(0.0)
    _, (by_states, _, _) = value_and_gradients(3)(states, table, bias, targets, weights)
    assert not by_states[:, 2].any()
    assert by_states[:, 3].any()


@pytest.mark.parametrize("chunk_size", [1, 3, P])
def test_accuracy_counts_weighted_hits(chunk_size):
    states, table, bias, targets, weights = case()
    best = np.argmax(np.einsum("bpd,vd->bpv", states, table) + bias, -1)
    targets = jnp.where(jnp.arange(P) % 2 == 0, best, targets)  # else hardly any is right
    got, weight = chunked_token_accuracy(
        states, table, bias, targets, weights, chunk_size=chunk_size
    )
    want = (np.float64(weights) * (best == np.asarray(targets))).sum()
    np.testing.assert_allclose(got, want, rtol=1e-6)
    np.testing.assert_allclose(weight, np.float64(weights).sum(), rtol=1e-6)
    assert 0 < want < weight


def test_product_of_bfloat16_states_adds_up_in_float32():
    states, table, bias, targets, weights = case(d=512)
    few = states.astype(jnp.bfloat16)
    rounded = [few.astype(jnp.float32), table.astype(jnp.bfloat16).astype(jnp.float32)]
    total, _ = chunked_cross_entropy(few, table, bias, targets, weights, chunk_size=3)
    np.testing.assert_allclose(total, numpy_loss(*rounded, bias, targets, weights), rtol=1e-5)
    assert total.dtype == jnp.float32


def test_memory_does_not_grow_with_the_positions():
    def temporaries(p, chunk_size):
        shapes = jax.eval_shape(lambda: case(b=4, p=p, v=2000, d=16))
        compiled = jax.jit(value_and_gradients(chunk_size)).lower(*shapes).compile()
        return compiled.memory_analysis().temp_size_in_bytes

    logits = 4 * 32 * 2000 * 4  # bytes of [B,P,V] with P 32
    assert temporaries(32, 32) > logits  # all in one chunk: the plain loss
    assert temporaries(32, 2) < 0.5 * logits
    assert temporaries(128, 2) - temporaries(32, 2) < 0.25 * logits


@pytest.mark.parametrize("data, model", [(8, 1), (4, 2)])
def test_split_batches_and_tables_stay_where_they_are(data, model):
    auto = (jax.sharding.AxisType.Auto,) * 2
    mesh = jax.make_mesh((data, model), ("data", "model"), axis_types=auto)
    args = case(b=8, v=12)
    axes = (("data",), ("model",), ("model",), ("data",), ("data",))
    layouts = [NamedSharding(mesh, PartitionSpec(*names)) for names in axes]
    whole = NamedSharding(mesh, PartitionSpec())
    results = ((whole, whole), tuple(layouts[:3]))
    run = jax.jit(value_and_gradients(3), in_shardings=layouts, out_shardings=results)
    (total, _), gradients = run(*map(jax.device_put, args, layouts))
    np.testing.assert_allclose(total, numpy_loss(*args), rtol=1e-5)
    for got, want in zip(gradients, numpy_gradients(*args), strict=True):
        assert relative(got, want) < 1e-5
    text = run.lower(*args).compile().as_text()
    assert "all-reduce" in text
    assert "all-gather" not in text and "all-to-all" not in text


def test_a_chunk_of_nothing_is_refused():
    with pytest.raises(ValueError, match="chunk_size=0"):
        chunked_cross_entropy(*case(), chunk_size=0)

"""Attention against an independent reference, and its laws."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from transformer_jax import (
    Mask,
    MultiHeadAttention,
    attention_weights,
    chunked_attention,
    dense_attention,
)

B, T, S, N, H = 2, 5, 7, 3, 4


def reference(query, key, value, allowed=None, bias=None):
    """Attention by loops in numpy, one query at a time; float64."""
    out = np.zeros(query.shape[:3] + (value.shape[-1],))
    for b, t, n in np.ndindex(*query.shape[:3]):
        sees = [s for s in range(key.shape[1]) if allowed is None or allowed[b, n, t, s]]
        if not sees:
            continue
        scores = np.array([query[b, t, n] @ key[b, s, n] / np.sqrt(query.shape[-1]) for s in sees])
        if bias is not None:
            scores += np.array([bias[b, n, t, s] for s in sees])
        weights = np.exp(scores - scores.max())
        weights /= weights.sum()
        out[b, t, n] = sum(w * value[b, s, n] for w, s in zip(weights, sees, strict=True))
    return out


@pytest.fixture
def qkv():
    rng = np.random.default_rng(0)
    shapes = ((B, T, N, H), (B, S, N, H), (B, S, N, H))
    return [rng.normal(size=shape) for shape in shapes]


def random_allowed(seed=1):
    allowed = np.random.default_rng(seed).random((B, N, T, S)) < 0.6
    allowed[0, :, 2] = False  # a query that sees nothing
    return allowed


KERNELS = [dense_attention, functools.partial(chunked_attention, chunk_size=2)]


@pytest.mark.parametrize("kernel", KERNELS, ids=["dense", "chunked"])
@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("biased", [False, True])
def test_kernel_equals_numpy_reference(qkv, kernel, masked, biased):
    allowed = random_allowed() if masked else None
    bias = np.random.default_rng(2).normal(size=(B, N, T, S)) if biased else None
    mask = None if allowed is None else Mask.from_dense(jnp.asarray(allowed))
    got = kernel(
        *map(jnp.float32, qkv), mask=mask, bias=None if bias is None else jnp.float32(bias)
    )
    np.testing.assert_allclose(got, reference(*qkv, allowed, bias), atol=1e-5)


def test_equals_jax_where_a_query_sees_something(qkv):
    allowed = random_allowed()
    query, key, value = map(jnp.float32, qkv)
    got = dense_attention(query, key, value, mask=Mask.from_dense(jnp.asarray(allowed)))
    want = jax.nn.dot_product_attention(query, key, value, mask=jnp.asarray(allowed))
    sees = allowed.any(-1).swapaxes(1, 2)  # [B,T,N]
    np.testing.assert_allclose(got[sees], want[sees], atol=1e-5)


@pytest.mark.parametrize("kernel", KERNELS, ids=["dense", "chunked"])
def test_query_that_sees_nothing_gives_zeros_and_zero_gradients(qkv, kernel):
    allowed = np.ones((B, N, T, S), bool)
    allowed[0, :, 2] = False
    mask = Mask.from_dense(jnp.asarray(allowed))
    args = tuple(map(jnp.float32, qkv))
    assert not kernel(*args, mask=mask)[0, 2].any()

    def hidden_query(query, key, value):
        return jnp.sum(kernel(query, key, value, mask=mask)[0, 2] ** 2)

    for gradient in jax.grad(hidden_query, (0, 1, 2))(*args):
        assert not gradient.any()  # false for NaN too

    def everything(query, key, value):
        return jnp.sum(kernel(query, key, value, mask=mask) ** 2)

    gradients = jax.grad(everything, (0, 1, 2))(*args)
    assert all(jnp.isfinite(g).all() for g in gradients)
    assert not gradients[0][0, 2].any()


def test_weights_are_zero_on_hidden_keys_and_sum_to_one(qkv):
    query, key, _ = map(jnp.float32, qkv)
    valid = jnp.array([[1] * 5 + [0] * 2, [1] * S])
    weights = attention_weights(query, key, mask=Mask.padding(valid))
    assert not weights[0, :, :, 5:].any()
    np.testing.assert_allclose(weights.sum(-1), 1.0, atol=1e-6)


@pytest.mark.parametrize("length,chunk", [(8, 4), (9, 4), (5, 4), (3, 4), (1, 4)])
@pytest.mark.parametrize("ordered", [False, True])
def test_chunked_equals_dense_with_gradients(length, chunk, ordered):
    keys = jax.random.split(jax.random.key(0), 4)
    query, key, value = (jax.random.normal(k, (B, length, N, H)) for k in keys[:3])
    bias = jax.random.normal(keys[3], (N, length, length))
    segments = jnp.minimum(jnp.arange(length) // 3 + 1, 2)[None].repeat(B, 0).at[1, -1].set(0)
    mask = Mask.segments(segments)
    if ordered:
        mask = mask & Mask.causal(window=3)

    def run(kernel):
        def loss(query, key, value, bias):
            out = kernel(query, key, value, mask=mask, bias=bias)
            return jnp.sum(jnp.sin(out)), out

        return jax.grad(loss, (0, 1, 2, 3), has_aux=True)(query, key, value, bias)

    got = run(functools.partial(chunked_attention, chunk_size=chunk))
    for g, w in zip(jax.tree.leaves(got), jax.tree.leaves(run(dense_attention)), strict=True):
        np.testing.assert_allclose(g, w, atol=1e-5)


@pytest.mark.parametrize("kernel", KERNELS, ids=["dense", "chunked"])
def test_dropout_drops_weights_and_keeps_their_mean(kernel):
    query = key = jnp.zeros((1, 64, 1, 4))
    value = jnp.ones((1, 64, 1, 4))
    out = kernel(query, key, value, dropout_rate=0.25, dropout_key=jax.random.key(0))
    assert out.std() > 0.01
    np.testing.assert_allclose(out.mean(), 1.0, atol=0.05)


@pytest.mark.parametrize("kernel", KERNELS, ids=["dense", "chunked"])
def test_jit_equals_no_jit(qkv, kernel):
    args = tuple(map(jnp.float32, qkv))
    mask = Mask.from_dense(jnp.asarray(random_allowed()))
    np.testing.assert_allclose(
        jax.jit(kernel)(*args, mask=mask), kernel(*args, mask=mask), atol=1e-6
    )


def test_module_equals_numpy_reference_with_its_own_projections():
    layer = MultiHeadAttention(width=6, num_heads=2)
    x = jax.random.normal(jax.random.key(0), (B, T, 6))
    memory = jax.random.normal(jax.random.key(1), (B, S, 5))
    variables = layer.init(jax.random.key(2), x, memory)
    p = jax.tree.map(lambda a: np.asarray(a, np.float64), variables["params"])

    def project(name, value):
        return np.einsum("btd,dnh->btnh", value, p[name]["kernel"]) + p[name]["bias"]

    mixed = reference(project("query", x), project("key", memory), project("value", memory))
    want = np.einsum("btnh,nhd->btd", mixed, p["out"]["kernel"]) + p["out"]["bias"]
    np.testing.assert_allclose(layer.apply(variables, x, memory), want, atol=1e-5)


def test_precomputed_keys_and_values_change_nothing():
    layer = MultiHeadAttention(width=8, num_heads=2)
    x = jax.random.normal(jax.random.key(0), (B, T, 8))
    memory = jax.random.normal(jax.random.key(1), (B, S, 8))
    variables = layer.init(jax.random.key(2), x, memory)
    ready = layer.apply(variables, memory, method="keys_values")
    np.testing.assert_array_equal(
        layer.apply(variables, x, memory), layer.apply(variables, x, ready)
    )


@pytest.mark.parametrize("kernel", KERNELS, ids=["dense", "chunked"])
def test_weights_come_out_on_request_whichever_kernel_runs(kernel):
    layer = MultiHeadAttention(width=8, num_heads=2, attention_fn=kernel)
    x = jax.random.normal(jax.random.key(0), (B, T, 8))
    variables = layer.init(jax.random.key(1), x)
    assert set(variables) == {"params"}
    out, state = layer.apply(variables, x, mask=Mask.causal(), mutable=["intermediates"])
    (weights,) = state["intermediates"]["attention_weights"]
    assert weights.shape == (B, 2, T, T)
    assert not np.triu(weights[0, 0], 1).any()
    np.testing.assert_array_equal(out, layer.apply(variables, x, mask=Mask.causal()))


def test_padding_content_changes_nothing_gradients_too():
    layer = MultiHeadAttention(width=8, num_heads=2)
    x = jax.random.normal(jax.random.key(0), (1, 4, 8))
    variables = layer.init(jax.random.key(1), x)
    mask = Mask.padding(jnp.array([[1, 1, 1, 0]]))

    def real_part(x):
        return layer.apply(variables, x, mask=mask)[:, :3]

    other = x.at[:, 3].set(99.0)
    np.testing.assert_array_equal(real_part(x), real_part(other))
    gradient = jax.grad(lambda x: jnp.sum(real_part(x) ** 2))(x)
    assert not gradient[:, 3].any()
    assert gradient[:, :3].any()


def test_heads_that_do_not_divide_the_width_are_refused():
    with pytest.raises(ValueError, match="num_heads=3 must divide width=8"):
        MultiHeadAttention(width=8, num_heads=3).init(jax.random.key(0), jnp.zeros((1, 2, 8)))

"""Every kernel that runs here is attention by loops, whatever the mask and the numbers are."""

import functools

import hypothesis.extra.numpy as hnp
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.layers import test_mask_properties as sizes
from tests.layers.test_attention import reference
from tests.layers.test_mask_properties import whole
from transformer_jax import Mask, attention_weights, chunked_attention, dense_attention
from transformer_jax.layers.fused_attention import _by_jax, splash_attention

B, N, T, S, H = sizes.B, sizes.N, sizes.T, sizes.S, 4
NUMBERS = st.floats(-30, 30, width=32) | st.sampled_from([0.0, 1e-30, -1e4, 1e4])


def by_jax(query, key, value, *, mask, bias):
    return _by_jax(query, key, value, mask, bias, "xla")


KERNELS = {
    "dense": dense_attention,
    "chunked": functools.partial(chunked_attention, chunk_size=3),
    "one at a time": functools.partial(chunked_attention, chunk_size=1),
    "as cudnn": by_jax,
}
ORDERS = [(False, None), (True, None), (False, 2), (True, 3)]


def arrays(*shape, elements=NUMBERS):
    return hnp.arrays(np.float32, shape, elements=elements)


@functools.cache
def compiled(name, is_causal, window):
    """A kernel over masks that have all parts, with its gradient: nothing is compiled twice."""

    def run(query, key, value, bias, mixing, parts):
        mask = Mask(**parts, is_causal=is_causal, window=window)

        def loss(*arrays):
            mixed = KERNELS[name](*arrays, mask=mask, bias=bias)
            return jnp.sum(mixed * mixing), mixed

        grads, mixed = jax.grad(loss, (0, 1, 2), has_aux=True)(query, key, value)
        return mixed, grads, attention_weights(query, key, mask=mask, bias=bias)

    return jax.jit(run)


@st.composite
def parts(draw):
    ints = sizes.ints
    return {
        "query_segments": draw(ints(B, T, high=2)),
        "key_segments": draw(ints(B, S, high=2)),
        "query_positions": draw(ints(B, T, high=5)),
        "key_positions": draw(ints(1, S, high=5)),
        "dense": draw(
            hnp.arrays(bool, (1, N, T, S), elements=st.sampled_from([True, True, False]))
        ),
    }


@pytest.mark.parametrize(("is_causal", "window"), ORDERS)
@pytest.mark.parametrize("name", KERNELS)
@settings(max_examples=20)
@given(data=st.data())
def test_a_kernel_is_attention_by_loops(name, is_causal, window, data):
    query, key, value, mixing = (data.draw(arrays(B, n, N, H)) for n in (T, S, S, T))
    bias, drawn = data.draw(arrays(B, N, T, S)), data.draw(parts())
    mixed, grads, weights = compiled(name, is_causal, window)(
        query, key, value, bias, mixing, drawn
    )
    mask = Mask(**{k: jnp.asarray(v) for k, v in drawn.items()}, is_causal=is_causal, window=window)
    allowed = whole(mask)
    scale = np.abs(query).max() * np.abs(key).max() + np.abs(bias).max() + 1  # of what is rounded
    want = reference(*(np.float64(x) for x in (query, key, value)), allowed, np.float64(bias))
    np.testing.assert_allclose(mixed, want, rtol=0, atol=1e-6 * scale * (np.abs(value).max() + 1))
    blind = ~allowed.any(-1)
    assert not np.asarray(weights)[~allowed].any()
    np.testing.assert_allclose(weights.sum(-1), ~blind, atol=1e-5)
    assert not np.asarray(mixed).swapaxes(1, 2)[blind].any()
    assert all(np.isfinite(grad).all() for grad in grads)
    assert not np.asarray(grads[0]).swapaxes(1, 2)[blind].any()
    hidden = ~allowed.any(-2)  # [B,N,S]
    for grad in grads[1:]:
        assert not np.asarray(grad).swapaxes(1, 2)[hidden].any()


ROW = 128  # the shortest that splash takes


@functools.cache
def splash_and_dense(is_causal, window):
    def run(query, key, value, queries, keys):
        mask = Mask.segments(queries, keys) & Mask(is_causal=is_causal, window=window)
        kernel = functools.partial(splash_attention, interpret=True)
        return [attend(query, key, value, mask=mask) for attend in (kernel, dense_attention)]

    return jax.jit(run)


@pytest.mark.parametrize(("is_causal", "window"), [(False, None), (True, None), (True, 5)])
@settings(max_examples=25)
@given(data=st.data())
def test_splash_is_dense_attention_over_drawn_segments(is_causal, window, data):
    seed = data.draw(st.integers(0, 2**32 - 1))
    query, key, value = np.random.default_rng(seed).normal(size=(3, 1, ROW, 1, 8)).astype("f4")
    lengths = data.draw(st.lists(st.tuples(st.integers(0, 3), st.integers(1, 60)), min_size=1))
    runs = np.concatenate([np.full(length, segment) for segment, length in lengths])
    queries = np.resize(runs, ROW)[None].astype(np.int32)
    keys = np.roll(queries, data.draw(st.integers(0, 3))) if not is_causal else queries
    found, want = splash_and_dense(is_causal, window)(query, key, value, queries, keys)
    np.testing.assert_allclose(found, want, atol=2e-5)

"""The layer norm against numpy in float64."""

import jax
import numpy as np

from transformer_jax.layers.norms import LayerNorm


def test_a_mean_far_above_the_deviation_costs_no_more_than_its_own_rounding():
    x = np.random.default_rng(0).normal(50.0, 1.0, (4, 64)).astype(np.float32)
    norm = LayerNorm(epsilon=1e-6)
    got = norm.apply(norm.init(jax.random.key(0), x), x)
    wide = x.astype(np.float64)
    want = (wide - wide.mean(-1, keepdims=True)) / np.sqrt(wide.var(-1, keepdims=True) + 1e-6)
    np.testing.assert_allclose(got, want, rtol=0, atol=1e-5)

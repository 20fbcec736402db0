"""The feed-forward network against numpy, and dropout's statistics."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.special import erf

from transformer_jax.layers.dropout import dropout
from transformer_jax.layers.feed_forward import FeedForward

REFERENCES = {
    "relu": lambda x: np.maximum(x, 0),
    "gelu": lambda x: x * 0.5 * (1 + erf(x / np.sqrt(2))),
    "gelu_tanh": lambda x: 0.5 * x * (1 + np.tanh(np.sqrt(2 / np.pi) * (x + 0.044715 * x**3))),
    "swish": lambda x: x / (1 + np.exp(-x)),
}


@pytest.mark.parametrize("activation", REFERENCES)
@pytest.mark.parametrize("gated", [False, True])
def test_equals_numpy(activation, gated):
    module = FeedForward(hidden_dim=6, activation=activation, gated=gated)
    x = jax.random.normal(jax.random.key(0), (2, 3, 4))
    variables = module.init(jax.random.key(1), x)
    p = jax.tree.map(lambda a: np.asarray(a, np.float64), variables["params"])
    x = np.asarray(x, np.float64)
    hidden = REFERENCES[activation](x @ p["up"]["kernel"] + p["up"]["bias"])
    if gated:
        hidden = hidden * (x @ p["gate"]["kernel"] + p["gate"]["bias"])
    want = hidden @ p["down"]["kernel"] + p["down"]["bias"]
    np.testing.assert_allclose(module.apply(variables, jnp.float32(x)), want, atol=1e-5)


@pytest.mark.parametrize("impl", ["threefry2x32", "rbg"])
@pytest.mark.parametrize(("shape", "atol"), [((10000, 301), 8e-4), ((299999,), 3e-3)])
def test_dropout_drops_at_its_rate_and_keeps_the_mean(impl, shape, atol):
    out = dropout(jax.random.key(0, impl=impl), jnp.ones(shape), 0.1)
    np.testing.assert_allclose((out == 0).mean(), 0.1, atol=atol)  # 26 / 256 is 1.6e-3 more
    np.testing.assert_allclose(out.mean(), 1.0, atol=atol)
    neighbours = (out.ravel()[1:] == 0) & (out.ravel()[:-1] == 0)
    np.testing.assert_allclose(neighbours.mean(), 0.01, atol=0.001)  # independent


@pytest.mark.parametrize("rate", [0.001, 0.3, 0.998])
def test_dropout_rounds_no_rate(rate):
    out = dropout(jax.random.key(0), jnp.ones((10000, 301)), rate)
    spread = (rate * (1 - rate) / out.size) ** 0.5
    np.testing.assert_allclose((out == 0).mean(), rate, atol=4 * spread)
    np.testing.assert_allclose(out.max(), 1 / (1 - rate), rtol=1e-6)


def test_dropout_of_zero_is_the_identity_and_of_one_is_refused():
    x = jax.random.normal(jax.random.key(0), (3, 5))
    np.testing.assert_array_equal(dropout(jax.random.key(1), x, 0.0), x)
    with pytest.raises(ValueError, match=r"in \[0, 1\)"):
        dropout(jax.random.key(1), x, 1.0)

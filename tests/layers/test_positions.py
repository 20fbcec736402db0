"""Sinusoids in both layouts, and learned positions."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from transformer_jax.layers.positions import LearnedPositions, sinusoidal_positions


def reference(position, width):
    """Section 3.5 of the paper, channel by channel."""
    row = np.zeros(width)
    for i in range(width // 2):
        angle = position / 10000 ** (2 * i / width)
        row[2 * i], row[2 * i + 1] = np.sin(angle), np.cos(angle)
    return row


def test_interleaved_equals_the_papers_formula():
    positions = jnp.array([[0, 1, 2, 7], [0, 1, 0, 500]])
    want = [[reference(int(p), 10) for p in row] for row in positions]
    np.testing.assert_allclose(sinusoidal_positions(positions, 10), want, atol=1e-4)


def test_halves_hold_the_same_channels_sines_first():
    positions = jnp.arange(6)[None]
    pairs = sinusoidal_positions(positions, 8)
    halves = sinusoidal_positions(positions, 8, layout="halves")
    np.testing.assert_array_equal(halves[..., :4], pairs[..., 0::2])
    np.testing.assert_array_equal(halves[..., 4:], pairs[..., 1::2])


def test_odd_width_is_refused():
    with pytest.raises(ValueError, match="width=7 is odd"):
        sinusoidal_positions(jnp.zeros((1, 1), int), 7)


def test_learned_positions_look_up_and_never_borrow():
    module = LearnedPositions(max_length=4, width=3)
    positions = jnp.array([[3, 0, 4, -1]])
    variables = module.init(jax.random.key(0), positions)
    out = module.apply(variables, positions)
    table = variables["params"]["embedding"]
    np.testing.assert_array_equal(out[0, :2], table[jnp.array([3, 0])])
    assert jnp.isnan(out[0, 2:]).all()

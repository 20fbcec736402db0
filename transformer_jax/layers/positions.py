"""Where a token stands: sinusoids in both published layouts, and learned positions."""

from typing import Literal

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from transformer_jax.typing import Array

SinusoidLayout = Literal["interleaved", "halves"]


def sinusoidal_positions(
    positions: Array, width: int, *, layout: SinusoidLayout = "interleaved"
) -> Array:
    """Sinusoids of arXiv:1706.03762, section 3.5: int [B,T] -> float32 [B,T,D].

    "interleaved" is the paper's: channel 2i is a sine and 2i+1 its cosine, of wavelength
    2 pi 10000^(2i/D). "halves" has the same channels in another order, all sines first, as Marian
    and its descendants have it.

    Raises:
      ValueError: the width is odd.
    """
    if width % 2:
        raise ValueError(f"Sinusoids come in pairs of channels; width={width} is odd.")
    rates = np.power(10000.0, -np.arange(0, width, 2) / width).astype(np.float32)
    angles = positions[..., None].astype(jnp.float32) * rates
    waves = (jnp.sin(angles), jnp.cos(angles))
    if layout == "halves":
        return jnp.concatenate(waves, axis=-1)
    return jnp.stack(waves, axis=-1).reshape(*positions.shape, width)


class LearnedPositions(nn.Module):
    """A trained vector for each place (arXiv:1706.03762, table 3 row E).

    Attributes:
      max_length: number of places.
      width: width D.
      init_std: standard deviation that vectors start with.
    """

    max_length: int
    width: int
    init_std: float = 0.02

    @nn.compact
    def __call__(self, positions: Array) -> Array:
        """int [B,T] -> float32 [B,T,D]; a place beyond the table gives NaN, never another's."""
        init = nn.initializers.normal(self.init_std)
        table = self.param("embedding", init, (self.max_length, self.width))
        # A negative index would count from the end, so it is sent beyond the end first.
        positions = jnp.where(positions < 0, self.max_length, positions)
        return jnp.take(table, positions, axis=0, mode="fill", fill_value=jnp.nan)


def default_positions(tokens: Array) -> Array:
    """0..T-1 in every row: [B,T] -> int32 [B,T]."""
    return jax.lax.broadcasted_iota(jnp.int32, tokens.shape, 1)

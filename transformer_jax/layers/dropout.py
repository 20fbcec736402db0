"""Dropout that draws 16 random bits a value, half of what a float32 uniform takes."""

import flax.linen as nn
import jax
import jax.numpy as jnp

from transformer_jax.typing import Array

_LEVELS = 1 << 16


def dropout(key: Array, x: Array, rate: float) -> Array:
    """Zeroes values with probability `rate` and scales the others, so that the mean stays.

    Dropout (JMLR 15, 2014, Srivastava et al.). The rate is rounded to a multiple of 2^-16, and
    the scale is that of the rounded rate. Needs x of any shape -> the same shape.

    Raises:
      ValueError: the rate is not in [0, 1).
    """
    if not 0.0 <= rate < 1.0:
        raise ValueError(f"A dropout rate is in [0, 1); got {rate}.")
    dropped = round(rate * _LEVELS)
    # Two values from each word, of the same row: on a mesh no device needs another's words.
    words = jax.random.bits(key, (*x.shape[:-1], -(-x.shape[-1] // 2)), jnp.uint32)
    halves = jnp.concatenate([words & (_LEVELS - 1), words >> 16], axis=-1)
    keep = halves[..., : x.shape[-1]] >= dropped
    return jnp.where(keep, x * (_LEVELS / (_LEVELS - dropped)), 0).astype(x.dtype)


class Dropout(nn.Module):
    """`dropout` with the rng "dropout".

    Attributes:
      rate: probability of dropping one value.
    """

    rate: float

    @nn.compact
    def __call__(self, x: Array, *, deterministic: bool) -> Array:
        """Any shape; the identity where deterministic or at rate 0."""
        if deterministic or self.rate == 0.0:
            return x
        return dropout(self.make_rng("dropout"), x, self.rate)

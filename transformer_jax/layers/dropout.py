"""Dropout that draws 8 random bits a value, a quarter of what a float32 uniform takes."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from transformer_jax.typing import Array

_LEVELS = 1 << 8
_GOLDEN = np.uint32(0x9E3779B9)  # of 2^32: its multiples spread evenly


def dropout(key: Array, x: Array, rate: float) -> Array:
    """Zeroes values with probability `rate` and scales the others, so that the mean stays.

    Dropout (JMLR 15, 2014, Srivastava et al.). A byte decides on each value. 256 times the rate is
    rarely a whole number: it is rounded up at as many columns (of the last axis) as makes the
    probability the rate, evenly spread, others at each call. Any shape [..., D] -> the same shape.

    Raises:
      ValueError: the rate is not in [0, 1).
    """
    if not 0.0 <= rate < 1.0:
        raise ValueError(f"A dropout rate is in [0, 1); got {rate}.")
    bits_key, columns_key = jax.random.split(key)
    # Four values from each word, of the same row: on a mesh no device needs another's words.
    words = jax.random.bits(bits_key, (*x.shape[:-1], -(-x.shape[-1] // 4)), jnp.uint32)
    levels = jax.lax.bitcast_convert_type(words, jnp.uint8).reshape(*x.shape[:-1], -1)
    whole, rest = divmod(rate * _LEVELS, 1.0)
    columns = jnp.arange(x.shape[-1], dtype=jnp.uint32) * _GOLDEN
    up = columns + jax.random.bits(columns_key, (), jnp.uint32) < np.uint32(rest * 2**32)
    keep = levels[..., : x.shape[-1]] >= int(whole) + up.astype(jnp.int32)
    return jnp.where(keep, x / (1.0 - rate), 0).astype(x.dtype)


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

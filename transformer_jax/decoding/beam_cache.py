"""A key/value cache for beams that is never moved.

Reordering a cache after every step of a beam search copies all of it. Here the K beams of a row
share one cache instead: beam k writes what it reads at place index * K + k and it stays there. A
small table says which beam wrote each token of a hypothesis; as a mask it shows every hypothesis
its own tokens. To a decoder the K hypotheses of a row are simply K queries.
"""

from __future__ import annotations

from typing import Any

import flax.struct
import jax
import jax.numpy as jnp

from transformer_jax.layers.masks import Mask
from transformer_jax.typing import Array


@flax.struct.dataclass
class BeamCache:
    """What K beams of B rows have read, up to T tokens each.

    Attributes:
      entries: the model's cache for B rows of T * K places.
      writers: int32 [B,K,T]; the beam that wrote each token of a hypothesis. What is not read yet
        has K, which is no beam.
    """

    entries: Any
    writers: Array

    @classmethod
    def empty(cls, entries: Any, batch_size: int, beam_size: int, max_length: int) -> BeamCache:
        """Nothing is read yet; `entries` is the model's empty cache."""
        shape = (batch_size, beam_size, max_length)
        return cls(entries, jnp.full(shape, beam_size, jnp.int32))

    def reading(self, index: Array) -> BeamCache:
        """Each hypothesis reads a token of its own at `index`."""
        own = jnp.arange(self.writers.shape[1])
        return BeamCache(self.entries, self.writers.at[:, :, index].set(own))

    def mask(self) -> Mask:
        """Each hypothesis sees its own tokens: [B,1,K,T*K]."""
        beam = jnp.arange(self.writers.shape[1])
        seen = self.writers[..., None] == beam  # [B,K,T,K]
        return Mask.from_dense(seen.reshape(*self.writers.shape[:2], -1)[:, None])

    def reorder(self, parents: Array) -> BeamCache:
        """Beam k goes on from the hypothesis parents[b,k]: [B,K]."""
        return BeamCache(self.entries, jax.vmap(lambda w, p: w[p])(self.writers, parents))

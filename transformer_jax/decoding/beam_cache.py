"""A key/value cache for beams that is never moved, and in which rows may start at any time.

Reordering a cache after every step of a beam search copies all of it. Here the K beams of a row
share one cache instead: at step t, beam k of every row writes what it reads at place (t mod T) * K
+ k, and it stays there. A small table says which beam wrote what a hypothesis is made of; as a mask
it shows every hypothesis its own tokens. To a decoder the K hypotheses of a row are simply K
queries. All rows write at the same place, whenever they started, so that a write is one slice.
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
      writers: int32 [B,K,T]; the beam that wrote what a hypothesis read at each of the last T
        steps. Where it read nothing, K, which is no beam.
      time: int32 []; the steps taken.
    """

    entries: Any
    writers: Array
    time: Array

    @classmethod
    def empty(cls, entries: Any, batch_size: int, beam_size: int, max_length: int) -> BeamCache:
        """Nothing is read yet; `entries` is the model's empty cache."""
        shape = (batch_size, beam_size, max_length)
        return cls(entries, jnp.full(shape, beam_size, jnp.int32), jnp.int32(0))

    @property
    def place(self) -> Array:
        """Where beam 0 writes what is read now, int32 []; the others follow."""
        _, beam_size, max_length = self.writers.shape
        return self.time % max_length * beam_size

    def reading(self) -> BeamCache:
        """Each hypothesis reads a token of its own."""
        _, beam_size, max_length = self.writers.shape
        now = jnp.arange(max_length) == self.time % max_length
        own = jnp.arange(beam_size)[:, None]
        return self.replace(writers=jnp.where(now, own, self.writers))  # type: ignore[attr-defined]

    def mask(self) -> Mask:
        """Each hypothesis sees its own tokens: [B,1,K,T*K]."""
        beam = jnp.arange(self.writers.shape[1])
        seen = self.writers[..., None] == beam  # [B,K,T,K]
        return Mask.from_dense(seen.reshape(*self.writers.shape[:2], -1)[:, None])

    def have_read(self, entries: Any) -> BeamCache:
        """The step is over; `entries` is what the model wrote."""
        return BeamCache(entries, self.writers, self.time + 1)

    def reorder(self, parents: Array) -> BeamCache:
        """Beam k goes on from the hypothesis parents[b,k]: [B,K]."""
        writers = jax.vmap(lambda w, p: w[p])(self.writers, parents)
        return BeamCache(self.entries, writers, self.time)

    def restart(self, rows: Array) -> BeamCache:
        """These rows, bool [B], have read nothing."""
        none = self.writers.shape[1]
        writers = jnp.where(rows[:, None, None], none, self.writers)
        return BeamCache(self.entries, writers, self.time)

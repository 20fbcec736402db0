"""Who may see whom: one dataclass that every attention kernel understands."""

from __future__ import annotations

import dataclasses

import flax.struct
import jax
import jax.numpy as jnp

from transformer_jax.typing import Array


@flax.struct.dataclass
class Mask:
    """Which keys each query may attend to; every part that is given must allow it.

    A mask hides keys, never queries. A query that may see no key gets zeros, and gives none of its
    gradient to anything. Masks merge with `&`. They are pytrees: they pass through jit, vmap and
    scan. Make one with `Mask.causal()`, `Mask.padding(valid)`, `Mask.segments(ids)` or
    `Mask.from_dense(allowed)`.

    Attributes:
      query_segments: int [B,T]; a query sees only keys of its own segment.
      key_segments: int [B,S]; keys of segment 0 are padding, which no query sees.
      query_positions: int [B|1,T]; the queries' places for the causal rule (default: 0..T-1).
      key_positions: int [B|1,S]; the keys' places for the causal rule (default: 0..S-1).
      dense: bool [B|1,N|1,T|1,S]; True where attention is allowed.
      is_causal: a query sees only keys at its own place and before.
      window: a query sees only the keys less than this many places away from its own.
    """

    query_segments: Array | None = None
    key_segments: Array | None = None
    query_positions: Array | None = None
    key_positions: Array | None = None
    dense: Array | None = None
    is_causal: bool = flax.struct.field(pytree_node=False, default=False)
    window: int | None = flax.struct.field(pytree_node=False, default=None)

    @classmethod
    def causal(cls, *, window: int | None = None, query_positions: Array | None = None) -> Mask:
        """Each query sees itself and what came before it, within the window if there is one."""
        if window is not None and window < 1:
            raise ValueError(f"window={window} hides every key; it must be at least 1.")
        return cls(is_causal=True, window=window, query_positions=query_positions)

    @classmethod
    def padding(cls, key_valid: Array) -> Mask:
        """Every query sees the keys that are real: bool or int [B,S]."""
        return cls(key_segments=(key_valid != 0).astype(jnp.int32))

    @classmethod
    def segments(cls, query_segments: Array, key_segments: Array | None = None) -> Mask:
        """Packed rows: int [B,T], [B,S]; queries and keys meet in equal segments; 0 is padding."""
        key_segments = query_segments if key_segments is None else key_segments
        return cls(query_segments=query_segments, key_segments=key_segments)

    @classmethod
    def from_dense(cls, allowed: Array) -> Mask:
        """Any rule: bool [B|1,N|1,T|1,S], True where attention is allowed."""
        if allowed.ndim != 4 or allowed.dtype != jnp.bool_:
            raise ValueError(
                f"A dense mask is bool [B|1,N|1,T|1,S]; got {allowed.dtype} {allowed.shape}."
            )
        return cls(dense=allowed)

    @property
    def _has_order(self) -> bool:
        return self.is_causal or self.window is not None

    def __and__(self, other: Mask | None) -> Mask:
        """Allows what both allow.

        Raises:
          ValueError: both have a causal or window rule, over different positions.
        """
        if other is None:
            return self
        self._check_segments()
        other._check_segments()
        dense = [m for m in (self.dense, other.dense) if m is not None]
        first = self
        if self.key_segments is None:
            first = other
        elif other.key_segments is not None:
            dense.append(_segments_allow(other))
        ordered = self if self._has_order else other
        if (
            self._has_order
            and other._has_order
            and not (
                self.query_positions is other.query_positions
                and self.key_positions is other.key_positions
            )
        ):
            raise ValueError(
                "Two causal or window masks over different positions cannot be merged; "
                "turn one into a dense mask: Mask.from_dense(mask.to_dense(T, S))."
            )
        windows = [m.window for m in (self, other) if m.window is not None]
        return Mask(
            query_segments=first.query_segments,
            key_segments=first.key_segments,
            query_positions=ordered.query_positions,
            key_positions=ordered.key_positions,
            dense=_all(dense),
            is_causal=self.is_causal or other.is_causal,
            window=min(windows, default=None),
        )

    def to_dense(self, query_length: int, key_length: int) -> Array | None:
        """Lowers to bool [B|1,N|1,T,S] (any axis may be 1); None if nothing is hidden.

        Raises:
          ValueError: a part of the mask has another length than the queries or keys.
        """
        self._check(query_length, key_length)
        parts = [] if self.dense is None else [self.dense]
        if self.key_segments is not None:
            parts.append(_segments_allow(self))
        if self._has_order:
            query = _places(self.query_positions, query_length)[:, None, :, None]
            key = _places(self.key_positions, key_length)[:, None, None, :]
            if self.is_causal:
                parts.append(key <= query)
            if self.window is not None:
                parts.append(jnp.abs(query - key) < self.window)
        return _all(parts)

    def query_block(self, start: Array | int, size: int) -> Mask:
        """The mask of queries start..start+size-1 alone; start may be traced."""

        def cut(x: Array | None, axis: int) -> Array | None:
            if x is None or x.shape[axis] == 1:
                return x
            return jax.lax.dynamic_slice_in_dim(x, start, size, axis)

        places = cut(self.query_positions, 1)
        if places is None and self._has_order:
            places = (start + jnp.arange(size))[None]
        return dataclasses.replace(
            self,
            query_segments=cut(self.query_segments, 1),
            query_positions=places,
            dense=cut(self.dense, 2),
        )

    def explain(self, query: int, key: int, *, batch: int = 0, head: int = 0) -> str:
        """Says in words whether a query may see a key, and which rule hides it."""

        def pick(x: Array | None, index: int, default: int) -> int:
            return default if x is None else int(x[batch % x.shape[0], index])

        reasons = []
        if self.key_segments is not None:
            key_segment = pick(self.key_segments, key, 0)
            query_segment = pick(self.query_segments, query, key_segment)
            if key_segment == 0:
                reasons.append("padding")
            elif query_segment != key_segment:
                reasons.append(f"other segment ({key_segment}, the query is in {query_segment})")
        place_q = pick(self.query_positions, query, query)
        place_k = pick(self.key_positions, key, key)
        if self.is_causal and place_k > place_q:
            reasons.append("it comes later")
        if self.window is not None and abs(place_q - place_k) >= self.window:
            reasons.append(f"outside the window of {self.window}")
        if self.dense is not None:
            b, n, t, _ = self.dense.shape
            if not bool(self.dense[batch % b, head % n, query % t, key]):
                reasons.append("the dense part hides it")
        if not reasons:
            return f"query {query} sees key {key}"
        return f"key {key} is hidden from query {query}: " + ", ".join(reasons)

    def _check_segments(self) -> None:
        if self.query_segments is not None and self.key_segments is None:
            raise ValueError("A Mask's query_segments need key_segments; else they hide nothing.")

    def _check(self, query_length: int, key_length: int) -> None:
        self._check_segments()
        lengths = (
            ("query_segments", self.query_segments, 1, query_length, False),
            ("key_segments", self.key_segments, 1, key_length, False),
            ("query_positions", self.query_positions, 1, query_length, False),
            ("key_positions", self.key_positions, 1, key_length, False),
            ("dense", self.dense, 2, query_length, True),
            ("dense", self.dense, 3, key_length, False),
        )
        for name, part, axis, length, may_be_one in lengths:
            if part is None or part.shape[axis] == length or (may_be_one and part.shape[axis] == 1):
                continue
            raise ValueError(
                f"Mask.{name} has shape {part.shape}, but attention runs over {query_length} "
                f"queries and {key_length} keys: axis {axis} must be {length}."
            )


def _places(positions: Array | None, length: int) -> Array:
    return jnp.arange(length)[None] if positions is None else positions


def _segments_allow(mask: Mask) -> Array:
    assert mask.key_segments is not None
    key = mask.key_segments[:, None, None, :]
    if mask.query_segments is None:
        return key != 0
    return (mask.query_segments[:, None, :, None] == key) & (key != 0)


def _all(parts: list[Array]) -> Array | None:
    if not parts:
        return None
    allowed = parts[0]
    for part in parts[1:]:
        allowed = allowed & part
    return allowed

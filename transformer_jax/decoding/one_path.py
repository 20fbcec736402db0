"""One token after the other in each row: the search of greedy decoding and of sampling."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp

from transformer_jax.decoding.step import Cache, StepFn
from transformer_jax.typing import Array

# choose(logits [B,V], index [B], time []) -> log-probability and id of the next token, [B] each;
# `index` counts the tokens that a row has, `time` the steps of the search.
Choose = Callable[[Array, Array, Array], tuple[Array, Array]]


class PathResult(NamedTuple):
    """One sequence for each row.

    A sequence ends in the end symbol, unless it was cut at T tokens; padding follows.
    """

    tokens: Array  # [B,T] int32, without the start symbol
    scores: Array  # [B] float32: sum of the log-probabilities (nats), the end symbol's included
    lengths: Array  # [B] int32: generated tokens, the end symbol included
    done: Array  # [B] bool: ended; else cut, and more steps would go on


class PathState(NamedTuple):
    """A search under way; its rows do not depend on each other."""

    time: Array  # [] steps taken
    last: Array  # [B] token that is read next
    found: PathResult
    cache: Cache


@dataclasses.dataclass(frozen=True)
class PathSearch:
    """Appends what `choose` picks in each row until the row has ended, or has T = `steps` tokens.

    Raises:
        ValueError: `steps` is less than 1.
    """

    choose: Choose
    bos_id: int
    eos_id: int
    pad_id: int
    steps: int

    def __post_init__(self) -> None:
        if self.steps < 1:
            raise ValueError(f"max_length must be at least 1, got {self.steps}")

    def start(self, cache: Cache, batch_size: int) -> PathState:
        """No row has a token yet."""
        return PathState(
            time=jnp.int32(0),
            last=jnp.full((batch_size,), self.bos_id, jnp.int32),
            found=PathResult(
                tokens=jnp.full((batch_size, self.steps), self.pad_id, jnp.int32),
                scores=jnp.zeros((batch_size,), jnp.float32),
                lengths=jnp.zeros((batch_size,), jnp.int32),
                done=jnp.zeros((batch_size,), bool),
            ),
            cache=cache,
        )

    def stopped(self, state: PathState) -> Array:
        """Rows that take no more tokens: [B] bool."""
        return state.found.done | (state.found.lengths >= self.steps)

    def advance(self, step: StepFn, state: PathState) -> PathState:
        """One more token in each row that is not stopped; the others read padding."""
        found, stopped = state.found, self.stopped(state)
        logits, cache = step(state.last, state.cache, found.lengths)
        log_probs, ids = self.choose(logits, found.lengths, state.time)
        token = jnp.where(stopped, self.pad_id, ids)
        here = ~stopped[:, None] & (jnp.arange(self.steps) == found.lengths[:, None])
        now = PathResult(
            tokens=jnp.where(here, token[:, None], found.tokens),
            scores=found.scores + jnp.where(stopped, 0.0, log_probs),
            lengths=found.lengths + ~stopped,
            # Once ended, always ended: what follows is padding, which need not be the end symbol.
            done=found.done | (~stopped & (token == self.eos_id)),
        )
        return PathState(state.time + 1, token, now, cache)

    def result(self, state: PathState) -> PathResult:
        """What each row has."""
        return state.found

    def run(self, step: StepFn, cache: Cache, batch_size: int) -> PathResult:
        """Searches until all rows are stopped."""

        def goes_on(state: PathState) -> Array:
            return ~jnp.all(self.stopped(state))

        start = self.start(cache, batch_size)
        end = jax.lax.while_loop(goes_on, lambda state: self.advance(step, state), start)
        return self.result(end)

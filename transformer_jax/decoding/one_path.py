"""One token after the other in each row: the loop of greedy search and of sampling."""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp

from transformer_jax.decoding.step import Cache, StepFn
from transformer_jax.typing import Array

# choose(logits [B,V], index []) -> log-probability and id of the next token, [B] each.
Choose = Callable[[Array, Array], tuple[Array, Array]]


class PathResult(NamedTuple):
    """One sequence for each row.

    A sequence ends in the end symbol, unless it was cut at T tokens; padding follows.
    """

    tokens: Array  # [B,T] int32, without the start symbol
    scores: Array  # [B] float32: sum of the log-probabilities (nats), the end symbol's included
    lengths: Array  # [B] int32: generated tokens, the end symbol included
    done: Array  # [B] bool: ended; else cut, and more steps would go on


class _State(NamedTuple):
    position: Array  # [] what is read next
    last: Array  # [B] token that stands there
    result: PathResult
    cache: Cache


def follow(
    step: StepFn,
    cache: Cache,
    choose: Choose,
    *,
    batch_size: int,
    bos_id: int,
    eos_id: int,
    pad_id: int,
    max_length: int,
) -> PathResult:
    """Appends what `choose` picks in each row until all rows have ended, or T = `max_length`.

    Raises:
        ValueError: `max_length` is less than 1.
    """
    if max_length < 1:
        raise ValueError(f"max_length must be at least 1, got {max_length}")

    def goes_on(state: _State) -> Array:
        return (state.position < max_length) & ~jnp.all(state.result.done)

    def advance(state: _State) -> _State:
        logits, cache = step(state.last, state.cache, state.position)
        log_probs, ids = choose(logits, state.position)
        done = state.result.done
        token = jnp.where(done, pad_id, ids)
        result = PathResult(
            tokens=state.result.tokens.at[:, state.position].set(token),
            scores=state.result.scores + jnp.where(done, 0.0, log_probs),
            lengths=state.result.lengths + ~done,
            # Once ended, always ended: what follows is padding, which need not be the end symbol.
            done=done | (token == eos_id),
        )
        return _State(state.position + 1, token, result, cache)

    start = _State(
        position=jnp.int32(0),
        last=jnp.full((batch_size,), bos_id, jnp.int32),
        result=PathResult(
            tokens=jnp.full((batch_size, max_length), pad_id, jnp.int32),
            scores=jnp.zeros((batch_size,), jnp.float32),
            lengths=jnp.zeros((batch_size,), jnp.int32),
            done=jnp.zeros((batch_size,), bool),
        ),
        cache=cache,
    )
    return jax.lax.while_loop(goes_on, advance, start).result

"""Greedy search: the most likely next token, again and again."""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from transformer_jax.decoding.step import Cache, StepFn, top_log_probs
from transformer_jax.typing import Array


class GreedyResult(NamedTuple):
    """What greedy search found, one sequence for each row.

    A sequence ends in the end symbol, unless it was cut at T = `max_length`; padding follows.
    """

    tokens: Array  # [B,T] int32, without the start symbol
    scores: Array  # [B] float32: sum of the log-probabilities (nats), the end symbol's included
    lengths: Array  # [B] int32: generated tokens, the end symbol included


class _State(NamedTuple):
    position: Array  # [] what is read next
    last: Array  # [B] token that stands there
    ended: Array  # [B] bool
    result: GreedyResult
    cache: Cache


def greedy_search(
    step: StepFn,
    cache: Cache,
    *,
    batch_size: int,
    bos_id: int,
    eos_id: int,
    pad_id: int = 0,
    max_length: int,
) -> GreedyResult:
    """Follows the most likely token in each row until all rows have ended.

    Args:
        step: the step function, see `transformer_jax.decoding.step`.
        cache: what `step` keeps for its B rows before the first token is read.
        batch_size: B.
        bos_id: the token that is read first.
        eos_id: the token that ends a sequence.
        pad_id: fills what follows the end, and is what an ended row reads.
        max_length: T, the most tokens that are generated, the end symbol included.

    Equal log-probabilities go to the smaller id. Shapes are static: it runs under `jax.jit`.

    Raises:
        ValueError: `max_length` is less than 1.
    """
    if max_length < 1:
        raise ValueError(f"max_length must be at least 1, got {max_length}")

    def goes_on(state: _State) -> Array:
        return (state.position < max_length) & ~jnp.all(state.ended)

    def advance(state: _State) -> _State:
        logits, cache = step(state.last, state.cache, state.position)
        log_probs, ids = top_log_probs(logits, 1)
        token = jnp.where(state.ended, pad_id, ids[:, 0])
        result = GreedyResult(
            tokens=state.result.tokens.at[:, state.position].set(token),
            scores=state.result.scores + jnp.where(state.ended, 0.0, log_probs[:, 0]),
            lengths=state.result.lengths + ~state.ended,
        )
        # Once ended, always ended: what follows is padding, which need not be the end symbol.
        return _State(state.position + 1, token, state.ended | (token == eos_id), result, cache)

    start = _State(
        position=jnp.int32(0),
        last=jnp.full((batch_size,), bos_id, jnp.int32),
        ended=jnp.zeros((batch_size,), bool),
        result=GreedyResult(
            tokens=jnp.full((batch_size, max_length), pad_id, jnp.int32),
            scores=jnp.zeros((batch_size,), jnp.float32),
            lengths=jnp.zeros((batch_size,), jnp.int32),
        ),
        cache=cache,
    )
    return jax.lax.while_loop(goes_on, advance, start).result

"""Beam search: the K best sequences that K hypotheses at a time can find.

Each row keeps K alive hypotheses and the K best finished ones. A step extends the alive ones by
every token and takes the best 2K extensions; those that end compete with the finished ones, and
the best K of the others live on. At most K of the 2K can end, so K others are always left.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from transformer_jax.decoding.length_score import LengthScore, gnmt_length_penalty
from transformer_jax.decoding.step import Cache, StepFn, top_log_probs
from transformer_jax.typing import Array

_GNMT_06 = gnmt_length_penalty(0.6)


class BeamResult(NamedTuple):
    """What beam search found: for each row K sequences, best first.

    Sequences that ended come first, by score. Where fewer than K ended, those cut at
    T = `max_length` follow, by score, and their last token is not the end symbol. Where there are
    not K possible sequences, the rest has score -inf, length 0 and only padding.
    """

    tokens: Array  # [B,K,T] int32, without the start symbol; padding follows the end symbol
    scores: Array  # [B,K] float32
    lengths: Array  # [B,K] int32: generated tokens, the end symbol included


class _Alive(NamedTuple):
    tokens: Array  # [B,K,T]
    log_probs: Array  # [B,K], falling; -inf where there is no hypothesis


class _State(NamedTuple):
    position: Array  # [] what is read next = length of what is alive
    last: Array  # [B,K] token that stands there
    alive: _Alive
    finished: BeamResult  # scores falling; -inf where there is no hypothesis
    cache: Cache


def repeat_for_beams(tree: Cache, beam_size: int, axis: int = 0) -> Cache:
    """Repeats each row for its beams: leaves [..,B,..] -> [..,B*K,..] on `axis`.

    Beam k of row b is row b * K + k, which is how the step function sees them. For what the step
    function closes over (the keys and values of the source, its mask), and for a cache that is
    not empty at the start.
    """
    return jax.tree.map(lambda leaf: jnp.repeat(leaf, beam_size, axis=axis), tree)


def beam_search(
    step: StepFn,
    cache: Cache,
    *,
    batch_size: int,
    beam_size: int,
    bos_id: int,
    eos_id: int,
    pad_id: int = 0,
    max_length: int,
    score: LengthScore = _GNMT_06,
    cache_batch_axis: int = 0,
) -> BeamResult:
    """Searches each row with K beams, until no alive hypothesis can still enter the K best.

    Args:
        step: the step function, see `transformer_jax.decoding.step`; it is called on B*K rows.
        cache: what `step` keeps for its B*K rows before the first token is read. It is reordered
            after every step, so leave out what never changes (see `repeat_for_beams`).
        batch_size: B.
        beam_size: K.
        bos_id: the token that is read first.
        eos_id: the token that ends a sequence.
        pad_id: fills what follows the end.
        max_length: T, the most tokens that are generated, the end symbol included.
        score: ranks finished hypotheses, see `transformer_jax.decoding.length_score`. Alive ones
            have equal lengths and are ranked by log-probability.
        cache_batch_axis: the axis of the B*K rows in every leaf of the cache.

    Shapes are static: it runs under `jax.jit`. The vocabulary needs at least two ids.

    Raises:
        ValueError: a size is less than 1, or a leaf of the cache does not have B*K rows.
    """
    rows = batch_size * beam_size
    if beam_size < 1 or max_length < 1:
        raise ValueError(f"must be at least 1: {beam_size=}, {max_length=}")
    for path, leaf in jax.tree_util.tree_leaves_with_path(cache):
        if leaf.ndim <= cache_batch_axis or leaf.shape[cache_batch_axis] != rows:
            raise ValueError(
                f"cache leaf {jax.tree_util.keystr(path)} of shape {leaf.shape} must have "
                f"batch_size * beam_size = {rows} rows on axis {cache_batch_axis}"
            )

    def goes_on(state: _State) -> Array:
        return (state.position < max_length) & jnp.any(_can_improve(state, score, max_length))

    def advance(state: _State) -> _State:
        logits, cache = step(state.last.reshape(rows), state.cache, state.position)
        logits = logits.reshape(batch_size, beam_size, -1)
        candidates, parents, tokens = _extend(state.alive, logits, state.position)
        ends = tokens == eos_id  # [B,2K]
        finished = _add_finished(state.finished, candidates, ends, score, state.position + 1)
        log_probs, at = jax.lax.top_k(jnp.where(ends, -jnp.inf, candidates.log_probs), beam_size)
        return _State(
            position=state.position + 1,
            last=_take(tokens, at),
            alive=_Alive(_take(candidates.tokens, at), log_probs),
            finished=finished,
            cache=_reorder(cache, _take(parents, at), cache_batch_axis),
        )

    start = _start(batch_size, beam_size, max_length, bos_id, pad_id, cache)
    return _result(jax.lax.while_loop(goes_on, advance, start), score, max_length, pad_id)


def _start(
    batch_size: int, beam_size: int, max_length: int, bos_id: int, pad_id: int, cache: Cache
) -> _State:
    """One alive hypothesis in each row, of no tokens, and none finished."""
    shape = (batch_size, beam_size)
    nothing = jnp.full(shape, -jnp.inf, jnp.float32)
    tokens = jnp.full((*shape, max_length), pad_id, jnp.int32)
    return _State(
        position=jnp.int32(0),
        last=jnp.full(shape, bos_id, jnp.int32),
        alive=_Alive(tokens, nothing.at[:, 0].set(0.0)),
        finished=BeamResult(tokens, nothing, jnp.zeros(shape, jnp.int32)),
        cache=cache,
    )


def _can_improve(state: _State, score: LengthScore, max_length: int) -> Array:
    """Whether an alive hypothesis may still beat a row's worst finished one: -> [B] bool.

    Log-probabilities only fall from here, so the best an alive one can reach is its present
    log-probability at the length that the rule likes best among those that are left. This is exact
    for any rule, whether it favours long sequences or short ones.
    """
    lengths = jnp.arange(1, max_length + 1)
    reachable = score(state.alive.log_probs[:, :1], lengths)  # [B,T]
    bound = jnp.max(jnp.where(lengths > state.position, reachable, -jnp.inf), axis=1)
    return bound > state.finished.scores[:, -1]


def _extend(alive: _Alive, logits: Array, index: Array) -> tuple[_Alive, Array, Array]:
    """The 2K best extensions by one token: logits [B,K,V] -> candidates, parents, tokens [B,2K]."""
    batch_size, beam_size, vocab_size = logits.shape
    # No beam has more than 2K of the best 2K: K small selections, then one among their winners,
    # cost less than one selection among K * V.
    count = min(2 * beam_size, vocab_size)
    log_probs, ids = top_log_probs(logits, count)  # [B,K,count]
    log_probs = (alive.log_probs[:, :, None] + log_probs).reshape(batch_size, -1)
    log_probs, at = jax.lax.top_k(log_probs, 2 * beam_size)
    parents, tokens = at // count, _take(ids.reshape(batch_size, -1), at)
    histories = _take(alive.tokens, parents).at[:, :, index].set(tokens)
    return _Alive(histories, log_probs), parents, tokens


def _add_finished(
    finished: BeamResult, candidates: _Alive, ends: Array, score: LengthScore, length: Array
) -> BeamResult:
    """The best K of those finished before and of the candidates that end at `length`."""
    scores = jnp.where(ends, score(candidates.log_probs, length), -jnp.inf)  # [B,2K]
    both = BeamResult(
        jnp.concatenate([finished.tokens, candidates.tokens], axis=1),
        jnp.concatenate([finished.scores, scores], axis=1),
        jnp.concatenate([finished.lengths, jnp.full_like(ends, length, jnp.int32)], axis=1),
    )
    scores, at = jax.lax.top_k(both.scores, finished.scores.shape[1])
    return BeamResult(_take(both.tokens, at), scores, _take(both.lengths, at))


def _result(state: _State, score: LengthScore, max_length: int, pad_id: int) -> BeamResult:
    """Finished hypotheses, then alive ones where there are fewer than K.

    Alive ones come in only when the loop ran to the end: it does not stop early before K have
    finished, unless nothing is alive.
    """
    finished, alive = state.finished, state.alive
    beam_size = finished.scores.shape[1]
    count = jnp.sum(finished.scores > -jnp.inf, axis=1, keepdims=True)  # [B,1]
    slot = jnp.arange(beam_size)
    at = jnp.where(slot < count, slot, beam_size + slot - count)  # [B,K] into [B,2K]
    cut_scores = score(alive.log_probs, jnp.int32(max_length))
    cut_lengths = jnp.full_like(finished.lengths, max_length)
    scores = _take(jnp.concatenate([finished.scores, cut_scores], axis=1), at)
    tokens = _take(jnp.concatenate([finished.tokens, alive.tokens], axis=1), at)
    lengths = _take(jnp.concatenate([finished.lengths, cut_lengths], axis=1), at)
    exists = scores > -jnp.inf
    return BeamResult(
        jnp.where(exists[:, :, None], tokens, pad_id), scores, jnp.where(exists, lengths, 0)
    )


def _take(values: Array, at: Array) -> Array:
    """Picks along the second axis within each row: [B,K',...], [B,K] -> [B,K,...]."""
    return jax.vmap(lambda v, i: v[i])(values, at)


def _reorder(cache: Cache, parents: Array, axis: int) -> Cache:
    """Gives each beam the cache of its parent: leaves [..,B*K,..], parents [B,K]."""
    batch_size, beam_size = parents.shape

    def reorder(leaf: Array) -> Array:
        shape = leaf.shape
        leaf = leaf.reshape(*shape[:axis], batch_size, beam_size, *shape[axis + 1 :])
        # A gather within rows, not among all B*K: rows may live on different devices.
        pick = jax.vmap(lambda x, i: jnp.take(x, i, axis=axis, mode="clip"), (axis, 0), axis)
        return pick(leaf, parents).reshape(shape)

    return jax.tree.map(reorder, cache)

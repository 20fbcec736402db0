"""Beam search: the K best sequences that K hypotheses at a time can find.

Each row keeps K alive hypotheses and the K best finished ones. A step extends the alive ones by
every token and takes the best 2K extensions. Of the best K those that end compete with the finished
ones; the best K that do not end live on. At most K of the 2K end, so there are always K of them.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Literal, NamedTuple

import jax
import jax.numpy as jnp

from transformer_jax.decoding.length_score import LengthScore, gnmt_length_penalty
from transformer_jax.decoding.step import Cache, StepFn, top_log_probs
from transformer_jax.decoding.token_rules import TokenRule
from transformer_jax.typing import Array

# When a row that has K finished hypotheses is done. The names of `transformers` are in brackets.
# - "never" ("never"): no alive hypothesis can enter the K best any more. Nothing is lost, whatever
#   the scoring rule, so this is no early stop at all.
# - "heuristic" (False): the best alive one, scored at its present length, is no better than the
#   worst finished one. What grows better with its length is lost.
# - "full" (True): at once.
EarlyStopping = Literal["never", "heuristic", "full"]

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
    done: Array  # [B] bool: the search came to its end; else it was cut, and more steps may help


class _Hypotheses(NamedTuple):
    tokens: Array  # [B,K,T]
    scores: Array  # [B,K] falling; -inf where there is no hypothesis
    lengths: Array  # [B,K]


class _Alive(NamedTuple):
    tokens: Array  # [B,K,T]
    log_probs: Array  # [B,K], falling; -inf where there is no hypothesis


class BeamState(NamedTuple):
    """A search under way; its rows do not depend on each other."""

    length: Array  # [B] tokens of what is alive = the position that is read next
    last: Array  # [B,K] token that stands there
    alive: _Alive
    finished: _Hypotheses
    done: Array  # [B] bool: nothing is added to these rows any more
    cache: Cache


def repeat_for_beams(tree: Cache, beam_size: int, axis: int = 0) -> Cache:
    """Repeats each row for its beams: leaves [..,B,..] -> [..,B*K,..] on `axis`.

    Beam k of row b is row b * K + k, which is how the step function sees them. For what the step
    function closes over (the keys and values of the source, its mask), and for a cache that is
    not empty at the start.
    """
    return jax.tree.map(lambda leaf: jnp.repeat(leaf, beam_size, axis=axis), tree)


def reorder_rows(cache: Cache, parents: Array, *, axis: int = 0) -> Cache:
    """Gives each beam the rows of its parent: leaves [..,B*K,..] on `axis`, parents [B,K].

    Raises:
        ValueError: a leaf of the cache does not have B*K rows there.
    """
    batch_size, beam_size = parents.shape
    rows = batch_size * beam_size

    def reorder(path: tuple, leaf: Array) -> Array:
        shape = leaf.shape
        if leaf.ndim <= axis or shape[axis] != rows:
            raise ValueError(
                f"cache leaf {jax.tree_util.keystr(path)} of shape {shape} must have "
                f"batch_size * beam_size = {rows} rows on axis {axis}"
            )
        leaf = leaf.reshape(*shape[:axis], batch_size, beam_size, *shape[axis + 1 :])
        # A gather within rows, not among all B*K: rows may live on different devices.
        pick = jax.vmap(lambda x, i: jnp.take(x, i, axis=axis, mode="clip"), (axis, 0), axis)
        return pick(leaf, parents).reshape(shape)

    return jax.tree_util.tree_map_with_path(reorder, cache)


@dataclasses.dataclass(frozen=True)
class BeamSearch:
    """The search as a state and what changes it; `beam_search` says what the settings mean.

    Raises:
        ValueError: a size is less than 1, or there are more steps than tokens.
    """

    beam_size: int
    bos_id: int
    eos_id: int
    pad_id: int
    max_length: int
    steps: int
    score: LengthScore = _GNMT_06
    early_stopping: EarlyStopping = "never"
    rule: TokenRule | None = None
    bonus: Callable[[Cache], Array] | None = None
    reorder: Callable[[Cache, Array], Cache] = reorder_rows

    def __post_init__(self) -> None:
        if self.beam_size < 1 or self.max_length < 1 or not 1 <= self.steps <= self.max_length:
            raise ValueError(
                f"impossible sizes: beam_size={self.beam_size}, max_length={self.max_length}, "
                f"steps={self.steps}"
            )

    def start(self, cache: Cache, batch_size: int) -> BeamState:
        """One alive hypothesis in each row, of no tokens, and none finished."""
        shape = (batch_size, self.beam_size)
        # What does not fit is better said before the model sees it.
        jax.eval_shape(self.reorder, cache, jnp.zeros(shape, jnp.int32))
        nothing = jnp.full(shape, -jnp.inf, jnp.float32)
        tokens = jnp.full((*shape, self.steps), self.pad_id, jnp.int32)
        return BeamState(
            length=jnp.zeros((batch_size,), jnp.int32),
            last=jnp.full(shape, self.bos_id, jnp.int32),
            alive=_Alive(tokens, nothing.at[:, 0].set(0.0)),
            finished=_Hypotheses(tokens, nothing, jnp.zeros(shape, jnp.int32)),
            done=jnp.zeros((batch_size,), bool),
            cache=cache,
        )

    def stopped(self, state: BeamState) -> Array:
        """Rows that take no more tokens: [B] bool."""
        return state.done | (state.length >= self.steps)

    def advance(self, step: StepFn, state: BeamState) -> BeamState:
        """One more token in each row that is not stopped."""
        shape, stopped = state.last.shape, self.stopped(state)
        index = jnp.broadcast_to(state.length[:, None], shape).reshape(-1)
        logits, cache = step(state.last.reshape(-1), state.cache, index)
        logits = logits.reshape(*shape, -1)
        candidates, parents, tokens = _extend(state.alive, logits, state.length, self.rule)
        length = (state.length + 1)[:, None]
        scores = self.score(candidates.log_probs, length)
        if self.bonus is not None:
            scores += _take(self.bonus(cache).reshape(shape), parents)
        ends = tokens == self.eos_id  # [B,2K]
        counts = ends & (jnp.arange(ends.shape[1]) < self.beam_size) & ~stopped[:, None]
        scores = jnp.where(counts, scores, -jnp.inf)
        finished = _add_finished(state.finished, candidates.tokens, scores, length)
        log_probs = jnp.where(ends, -jnp.inf, candidates.log_probs)
        log_probs, at = jax.lax.top_k(log_probs, self.beam_size)
        alive = _Alive(_take(candidates.tokens, at), log_probs)
        done = self._is_done(log_probs[:, :1], length, finished)

        def stay(old: Array, new: Array) -> Array:
            return jnp.where(stopped.reshape((-1,) + (1,) * (old.ndim - 1)), old, new)

        return BeamState(
            length=stay(state.length, length[:, 0]),
            last=_take(tokens, at),
            alive=jax.tree.map(stay, state.alive, alive),
            finished=finished,
            done=stay(state.done, done),
            cache=self.reorder(cache, _take(parents, at)),
        )

    def _is_done(self, best: Array, length: Array, finished: _Hypotheses) -> Array:
        """Whether a row is done: log-probability of its best alive one, length [B,1] -> [B] bool.

        Log-probabilities only fall from here, so the best that an alive one can reach is its
        present log-probability at the length that the rule likes best among those that are left.
        This is exact for any rule, whether it favours long sequences or short ones.
        """
        worst, at_end = finished.scores[:, -1], length[:, 0] == self.max_length
        if self.early_stopping == "never":
            lengths = jnp.arange(1, self.max_length + 1)
            left = jnp.where(lengths > length, self.score(best, lengths), -jnp.inf)
            return at_end | (jnp.max(left, axis=1) <= worst)
        done = at_end | (self.score(best, length)[:, 0] <= worst)
        return done | (worst > -jnp.inf) if self.early_stopping == "full" else done

    def result(self, state: BeamState) -> BeamResult:
        """Finished hypotheses, then alive ones where there are fewer than K.

        Alive ones come in only in rows that were cut: no row is done before K have finished,
        unless nothing is alive.
        """
        finished, alive = state.finished, state.alive
        cut_scores = self.score(alive.log_probs, jnp.maximum(state.length, 1)[:, None])
        if self.bonus is not None:
            cut_scores += self.bonus(state.cache).reshape(cut_scores.shape)
        count = jnp.sum(finished.scores > -jnp.inf, axis=1, keepdims=True)  # [B,1]
        slot = jnp.arange(self.beam_size)
        at = jnp.where(slot < count, slot, self.beam_size + slot - count)  # [B,K] into [B,2K]
        cut_lengths = jnp.broadcast_to(state.length[:, None], finished.lengths.shape)
        scores = _take(jnp.concatenate([finished.scores, cut_scores], axis=1), at)
        tokens = _take(jnp.concatenate([finished.tokens, alive.tokens], axis=1), at)
        lengths = _take(jnp.concatenate([finished.lengths, cut_lengths], axis=1), at)
        exists = scores > -jnp.inf
        tokens = jnp.where(exists[:, :, None], tokens, self.pad_id)
        return BeamResult(tokens, scores, jnp.where(exists, lengths, 0), state.done)

    def run(self, step: StepFn, cache: Cache, batch_size: int) -> BeamResult:
        """Searches until all rows are stopped."""

        def goes_on(state: BeamState) -> Array:
            return ~jnp.all(self.stopped(state))

        start = self.start(cache, batch_size)
        end = jax.lax.while_loop(goes_on, lambda state: self.advance(step, state), start)
        return self.result(end)


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
    steps: int | None = None,
    score: LengthScore = _GNMT_06,
    early_stopping: EarlyStopping = "never",
    rule: TokenRule | None = None,
    bonus: Callable[[Cache], Array] | None = None,
    reorder: Callable[[Cache, Array], Cache] = reorder_rows,
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
        max_length: the most tokens that are generated, the end symbol included.
        steps: T, at most so many of them are taken, where memory for all would be a waste; rows
            that are not `done` by then are to be searched again with more. None: `max_length`.
        score: ranks finished hypotheses, see `transformer_jax.decoding.length_score`. Alive ones
            have equal lengths and are ranked by log-probability.
        early_stopping: when a row that has K finished hypotheses is done.
        rule: what may not come and what has to, see `transformer_jax.decoding.token_rules`.
        bonus: reads from the cache what is added to the scores of the B*K hypotheses that end
            after this step, at most 0, such as `transformer_jax.decoding.coverage`.
        reorder: gives beams the cache of their parents [B,K]. The default moves rows of axis 0.

    Shapes are static: it runs under `jax.jit`. The vocabulary needs at least two ids.

    Raises:
        ValueError: a size is less than 1, or a leaf of the cache does not have B*K rows.
    """
    search = BeamSearch(
        beam_size=beam_size,
        bos_id=bos_id,
        eos_id=eos_id,
        pad_id=pad_id,
        max_length=max_length,
        steps=max_length if steps is None else steps,
        score=score,
        early_stopping=early_stopping,
        rule=rule,
        bonus=bonus,
        reorder=reorder,
    )
    return search.run(step, cache, batch_size)


def _extend(
    alive: _Alive, logits: Array, length: Array, rule: TokenRule | None
) -> tuple[_Alive, Array, Array]:
    """The 2K best extensions by one token: logits [B,K,V] -> candidates, parents, tokens [B,2K]."""
    batch_size, beam_size, vocab_size = logits.shape
    # No beam has more than 2K of the best 2K: K small selections, then one among their winners,
    # cost less than one selection among K * V.
    count = min(2 * beam_size, vocab_size)
    log_probs, ids = top_log_probs(logits, count, rule, length)  # [B,K,count]
    log_probs = (alive.log_probs[:, :, None] + log_probs).reshape(batch_size, -1)
    log_probs, at = jax.lax.top_k(log_probs, 2 * beam_size)
    parents, tokens = at // count, _take(ids.reshape(batch_size, -1), at)
    here = jnp.arange(alive.tokens.shape[2]) == length[:, None, None]
    histories = jnp.where(here, tokens[:, :, None], _take(alive.tokens, parents))
    return _Alive(histories, log_probs), parents, tokens


def _add_finished(
    finished: _Hypotheses, tokens: Array, scores: Array, length: Array
) -> _Hypotheses:
    """The best K of those finished before and of the candidates [B,2K], all of length [B,1]."""
    both = _Hypotheses(
        jnp.concatenate([finished.tokens, tokens], axis=1),
        jnp.concatenate([finished.scores, scores], axis=1),
        jnp.concatenate([finished.lengths, jnp.broadcast_to(length, scores.shape)], axis=1),
    )
    scores, at = jax.lax.top_k(both.scores, finished.scores.shape[1])
    return _Hypotheses(_take(both.tokens, at), scores, _take(both.lengths, at))


def _take(values: Array, at: Array) -> Array:
    """Picks along the second axis within each row: [B,K',...], [B,K] -> [B,K,...]."""
    return jax.vmap(lambda v, i: v[i])(values, at)

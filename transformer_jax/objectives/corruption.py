"""Masked language models: which tokens are predicted, and what stands in their places.

Pure functions of packed rows and a seed for each row, with static shapes, to be called under jit:
the masks cost the host nothing, and are new wherever the seeds are.
"""

from __future__ import annotations

import dataclasses
import math
from typing import Literal, NamedTuple, get_args

import jax
import jax.numpy as jnp
import numpy as np

from transformer_jax.objectives.spans import (
    NEVER,
    Words,
    find_words,
    places,
    spans_apart,
    take_what_fits,
)
from transformer_jax.typing import Array

Unit = Literal["token", "word", "ngram", "span"]


@dataclasses.dataclass(frozen=True)
class MaskingConfig:
    """What is chosen to be predicted, and what replaces it.

    Attributes:
      unit: what is chosen together. "token": BERT (arXiv:1810.04805, section 3.1). "word": all the
        tokens of a word. "ngram": up to max_ngram words, n of them with a probability
        proportional to 1/n (ALBERT, arXiv:1909.11942, section 3.1). "span": up to span_max words,
        their number geometric (SpanBERT, arXiv:1907.10529, section 3.1).
      rate: how much of each text is predicted.
      max_ngram: the most words of an n-gram.
      span_p: the geometric distribution's p. Lengths above span_max are not drawn: so the mean
        length is the paper's 3.8 with the defaults.
      span_max: the most words of a span.
      mask_share: how many of the predicted tokens become the mask. Each token draws for itself,
        except with "span", where one draw decides for the span.
      random_share: how many become a random token; the rest stays as it is.
    """

    unit: Unit = "token"
    rate: float = 0.15
    max_ngram: int = 3
    span_p: float = 0.2
    span_max: int = 10
    mask_share: float = 0.8
    random_share: float = 0.1

    def __post_init__(self) -> None:
        if self.unit not in get_args(Unit):
            raise ValueError(f"unit={self.unit!r} must be one of {', '.join(get_args(Unit))}.")
        for name in ("rate", "span_p"):
            if not 0.0 < getattr(self, name) <= 1.0:
                raise ValueError(f"{name}={getattr(self, name)} must be above 0 and at most 1.")
        for name in ("max_ngram", "span_max"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name}={getattr(self, name)} must be at least 1.")
        if min(self.mask_share, self.random_share) < 0.0:
            raise ValueError("mask_share and random_share must not be below 0.")
        if self.mask_share + self.random_share > 1.0 + 1e-9:
            raise ValueError(
                f"mask_share={self.mask_share} and random_share={self.random_share} must not be "
                "more than 1 together."
            )

    def length_shares(self) -> np.ndarray:
        """The probabilities of 1, 2, ... words: float64 [K]."""
        if self.unit == "ngram":
            weights = [1.0 / n for n in range(1, self.max_ngram + 1)]
        elif self.unit == "span":
            weights = [(1.0 - self.span_p) ** n for n in range(self.span_max)]
        else:
            weights = [1.0]
        return np.array(weights) / sum(weights)


class Corrupted(NamedTuple):
    """A corrupted batch, and the P places a row that are predicted.

    A masked run is what is predicted without a gap, of any unit; so two spans that touch are one
    run, and the tokens at its sides are never predicted themselves. Where weights are 0, positions,
    targets, left, right and offset are 0.
    """

    tokens: Array  # int32 [B,T]
    positions: Array  # int32 [B,P], rising
    targets: Array  # int32 [B,P], the original tokens
    weights: Array  # float32 [B,P], 1 where there is a prediction
    overflow: Array  # int32 [], chosen tokens for which P had no room: they stay as they were
    left: Array  # int32 [B,P], the place before the masked run; the row's first if there is none
    right: Array  # int32 [B,P], the place after the masked run; the row's last if there is none
    offset: Array  # int32 [B,P], 1 for the first token of its masked run


def quota(tokens: int, rate: float) -> int:
    """How many of a text's tokens are predicted: a share of them, at least 1, and 0 of none."""
    return max(1, round(rate * tokens)) if tokens else 0


def predictions_for(row_length: int, rate: float) -> int:
    """Places P for the predictions of rows: 20 of 128 tokens, 80 of 512 at a rate of 0.15.

    The share of a whole row, rounded up to a multiple of 4. One text in a row always fits. So do
    several of the usual lengths, since [CLS] and [SEP] are not predicted; only a row of very many
    texts of a few tokens, each with its one prediction, may need more.
    """
    return min(row_length, 4 * math.ceil(max(1.0, rate * row_length) / 4))


def corrupt(
    seeds: Array,
    tokens: Array,
    segments: Array,
    word_starts: Array,
    *,
    config: MaskingConfig,
    mask_id: int,
    special_ids: tuple[int, ...],
    vocab_size: int,
    predictions: int,
) -> Corrupted:
    """Chooses tokens of each packed text, and replaces them.

    A text with m maskable tokens has room for `quota(m, rate)` predictions. Units are visited in
    random order, of each its words from left to right, and a word that has no room any more is
    skipped; so there is no word left that would fit. "token" meets the quota exactly. A text all
    of whose words are longer than its quota has no prediction. n-grams and spans begin at a random
    word, end with their text or before a special token, and do not overlap; words that no such
    unit covers come last, as units of one word.

    A row draws from its seed alone, by threefry, whose bits are the same on any layout and backend:
    its result depends neither on the other rows nor on their number, and so not on how a batch is
    cut into microbatches or split over devices. If a row chooses more than `predictions` tokens,
    whole words in the same random order are kept while there is room.

    Args:
      seeds: uint32 [B], of the rows.
      tokens: int [B,T].
      segments: int [B,T], the number of the packed text; 0 for padding.
      word_starts: bool [B,T], True where a word begins.
      config: what is chosen, and what replaces it.
      mask_id: the mask token.
      special_ids: tokens that are neither predicted nor drawn as random tokens.
      vocab_size: V; random tokens are uniform over its other ids.
      predictions: P, at most T; see `predictions_for`.

    Raises:
      ValueError: P or ids out of range, or no id left to draw from.
    """
    if not 1 <= predictions <= tokens.shape[1]:
        raise ValueError(f"predictions={predictions} must be in 1..{tokens.shape[1]} (the row).")
    special = np.unique(np.asarray(special_ids, np.int32))
    if not all(0 <= i < vocab_size for i in (mask_id, *special)) or len(special) == vocab_size:
        raise ValueError(
            f"mask_id={mask_id} and special_ids={special_ids} must be below vocab_size="
            f"{vocab_size}, and leave some ids."
        )
    tokens, segments = jnp.asarray(tokens, jnp.int32), jnp.asarray(segments, jnp.int32)

    def row(seed: Array, tokens: Array, segments: Array, word_starts: Array) -> Corrupted:
        choose_key, replace_key = jax.random.split(jax.random.key(seed, impl="threefry2x32"))
        maskable = (segments != 0) & ~jnp.any(tokens[:, None] == special, axis=-1)
        starts = maskable if config.unit == "token" else jnp.asarray(word_starts, bool)
        words = find_words(maskable, segments, starts)
        chosen, order, overflow = _choose(choose_key, words, config, predictions)
        chosen = maskable & chosen[words.of_token]
        # The leftover words' ranks follow those of spans, so a rank modulo T names a unit.
        unit = order[words.of_token] % len(tokens) if config.unit == "span" else None
        replaced = _replacements(replace_key, tokens, unit, config, mask_id, special, vocab_size)
        corrupted = jnp.where(chosen, replaced, tokens)
        return Corrupted(corrupted, *_predicted(chosen, tokens, segments, predictions, overflow))

    rows = jax.vmap(row)(jnp.asarray(seeds), tokens, segments, jnp.asarray(word_starts))
    return rows._replace(overflow=jnp.sum(rows.overflow))


def draw_lengths(key: Array, shape: tuple[int, ...], config: MaskingConfig) -> Array:
    """Numbers of words of n-grams or spans: int32 `shape`."""
    below = jnp.asarray(np.cumsum(config.length_shares())[:-1], jnp.float32)
    draws = jax.random.uniform(key, shape)
    return 1 + jnp.sum(draws[..., None] >= below, axis=-1, dtype=jnp.int32)


def _choose(
    key: Array, words: Words, config: MaskingConfig, predictions: int
) -> tuple[Array, Array, Array]:
    """Chosen words bool [T], the order of visits int32 [T], and the tokens without room []."""
    size = words.lengths.shape[0]
    order_key, length_key = jax.random.split(key)
    rank = jax.random.permutation(order_key, jnp.arange(size, dtype=jnp.int32))
    longest = len(config.length_shares())
    order = rank
    if longest > 1:
        counts = jnp.minimum(draw_lengths(length_key, (size,), config), words.rest)
        over = spans_apart(rank, counts, longest)
        order = jnp.where(over == NEVER, size + rank, over)

    # The numbers are Python's, from a table: float32 rounds some halves to the other side.
    quotas = jnp.asarray([quota(m, config.rate) for m in range(size + 1)], jnp.int32)
    maskable = jax.ops.segment_sum(words.lengths, words.segments, num_segments=size + 1)
    room = quotas[maskable][words.segments]
    chosen = take_what_fits(words.segments, order, words.lengths, room)

    lengths = jnp.where(chosen, words.lengths, 0)
    all_words = jnp.zeros_like(words.segments)
    kept = take_what_fits(all_words, order, lengths, jnp.full_like(lengths, predictions))
    return kept, order, jnp.sum(jnp.where(kept, 0, lengths))


def _replacements(
    key: Array,
    tokens: Array,
    unit: Array | None,
    config: MaskingConfig,
    mask_id: int,
    special: np.ndarray,
    vocab_size: int,
) -> Array:
    """What each token of a row becomes if it is chosen; units [T] share a draw: [T] -> [T]."""
    action_key, token_key = jax.random.split(key)
    action = jax.random.uniform(action_key, tokens.shape)
    if unit is not None:
        action = action[unit]
    # The r-th id that is not special is r + the number of special ids up to it.
    drawn = jax.random.randint(token_key, tokens.shape, 0, vocab_size - len(special))
    drawn += jnp.sum(drawn[:, None] >= special - np.arange(len(special)), axis=-1, dtype=jnp.int32)
    changed = jnp.where(action < config.mask_share + config.random_share, drawn, tokens)
    return jnp.where(action < config.mask_share, mask_id, changed)


def _predicted(
    chosen: Array, tokens: Array, segments: Array, predictions: int, overflow: Array
) -> tuple[Array, ...]:
    """The fields of `Corrupted` after its tokens, for one row."""
    size = tokens.shape[0]
    place = jnp.arange(size, dtype=jnp.int32)
    joined = chosen[1:] & chosen[:-1] & (segments[1:] == segments[:-1])
    begins = jnp.pad(~joined, (1, 0), constant_values=True)
    ends = jnp.pad(~joined, (0, 1), constant_values=True)
    first = jax.lax.cummax(jnp.where(begins, place, 0))
    last = jax.lax.cummin(jnp.where(ends, place, size - 1), reverse=True)

    found = places(chosen, predictions, size)
    real = found < size
    at = jnp.where(real, found, 0)
    left = jnp.maximum(first - 1, 0)
    right = jnp.minimum(last + 1, size - 1)
    fields = [jnp.where(real, x[at], 0) for x in (place, tokens, left, right, place - first + 1)]
    positions, targets, left, right, offset = fields
    return positions, targets, real.astype(jnp.float32), overflow, left, right, offset

"""Texts and pairs of texts as an encoder reads them, with [CLS] and [SEP], packed in rows."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import numpy as np

from transformer_jax.data.encoder_tokenizer import EncoderTokenizer
from transformer_jax.data.packing import pack
from transformer_jax.data.pipeline import Ragged, Rows


@dataclasses.dataclass(frozen=True, eq=False)
class TextExamples:
    """N examples as tokens.

    Attributes:
      tokens: of each example, special tokens included.
      first_sizes: int64 [N], how many tokens of an example have type 0: [CLS], the first text and
        its [SEP].
      cut: int64 [N], tokens that were left out because an example was too long.
    """

    tokens: Ragged
    first_sizes: np.ndarray
    cut: np.ndarray

    def __len__(self) -> int:
        return len(self.tokens)


def text_examples(
    tokenizer: EncoderTokenizer,
    first: Sequence[str],
    second: Sequence[str] | None = None,
    *,
    max_tokens: int,
) -> TextExamples:
    """Tokenises texts, or pairs of them.

    A text that is too long loses its end; of a pair, the longer text loses a token at a time, the
    second one of equals (as google-research/bert, run_classifier.py, does).

    Args:
      tokenizer: of the encoder; where it `separates_twice`, two [SEP] stand between the texts.
      first: N texts; one may be empty.
      second: N texts, or None.
      max_tokens: the most of an example, special tokens included.

    Raises:
      ValueError: max_tokens leaves no room for text, or the numbers of texts differ.
    """
    between = 1 + tokenizer.separates_twice if second is not None else 0
    room = max_tokens - 2 - between
    if room < 1:
        raise ValueError(f"max_tokens={max_tokens} leaves no room for text.")
    if second is not None and len(first) != len(second):
        raise ValueError(f"{len(first)} first texts and {len(second)} second ones make no pairs.")
    lefts = [encoded.ids for encoded in tokenizer.encode(first)]
    rights = None if second is None else [encoded.ids for encoded in tokenizer.encode(second)]
    cls, sep = np.int32(tokenizer.cls_id), np.int32(tokenizer.sep_id)
    rows, first_sizes, cut = [], [], []
    for i, left in enumerate(lefts):
        right = None if rights is None else rights[i]
        sizes = _fitting(len(left), 0 if right is None else len(right), room)
        parts = [[cls], left[: sizes[0]], [sep]]
        first_sizes.append(sizes[0] + 2)
        if right is not None:
            parts += [[sep] * (between - 1), right[: sizes[1]], [sep]]
        rows.append(np.concatenate([np.asarray(part, np.int32) for part in parts]))
        cut.append(len(left) + (0 if right is None else len(right)) - sum(sizes))
    return TextExamples(
        Ragged.from_lists(rows), np.array(first_sizes, np.int64), np.array(cut, np.int64)
    )


def pack_examples(
    examples: TextExamples, *, row_length: int, row_examples: int, seed: int, epoch: int
) -> list[np.ndarray]:
    """Which examples share a row: rows of their numbers, in random order; see `packing.pack`."""
    lengths = examples.tokens.lengths
    sides = np.stack([lengths, np.ones_like(lengths)], axis=1)
    return pack(sides, (row_length, row_examples), seed=seed, epoch=epoch)


def example_rows(
    examples: TextExamples, rows: Rows, *, row_length: int, row_examples: int
) -> dict[str, np.ndarray]:
    """Lays B rows of examples out as arrays.

    Args:
      examples: those that the rows name.
      rows: B rows of numbers; an empty one is a row of padding.
      row_length: T.
      row_examples: E.

    Returns:
      tokens: int32 [B,T], 0 on padding, as are the others.
      segments: int32 [B,T], the number of the example in its row, from 1.
      positions: int32 [B,T], from 0 in each example.
      token_types: int32 [B,T], 1 behind the first text and its [SEP].
      first_tokens: int32 [B,E], where in its row the [CLS] of each example stands.
      examples: int32 [B,E], the number of each example; -1 where there is none.

    Raises:
      ValueError: a row has too many tokens or examples.
    """
    shape = (len(rows), row_length)
    names = ("tokens", "segments", "positions", "token_types")
    arrays = {name: np.zeros(shape, np.int32) for name in names}
    first_tokens = np.zeros((len(rows), row_examples), np.int32)
    numbers = np.full((len(rows), row_examples), -1, np.int32)
    for row, ids in enumerate(rows):
        lengths = examples.tokens.offsets[ids + 1] - examples.tokens.offsets[ids]
        if len(ids) > row_examples or lengths.sum() > row_length:
            raise ValueError(f"row {row} has {len(ids)} examples of {lengths.sum()} tokens.")
        starts = np.cumsum(lengths) - lengths
        first_tokens[row, : len(ids)], numbers[row, : len(ids)] = starts, ids
        for number, (i, start, size) in enumerate(zip(ids, starts, lengths, strict=True), 1):
            where = slice(start, start + size)
            arrays["tokens"][row, where] = examples.tokens[i]
            arrays["segments"][row, where] = number
            arrays["positions"][row, where] = np.arange(size)
            arrays["token_types"][row, start + examples.first_sizes[i] : start + size] = 1
    return arrays | {"first_tokens": first_tokens, "examples": numbers}


def _fitting(left: int, right: int, room: int) -> tuple[int, int]:
    """The sizes that two texts are cut to."""
    if left + right <= room:
        return left, right
    shorter = room // 2
    if left <= shorter:
        return left, room - left
    if right <= shorter:
        return room - right, right
    return room - shorter, shorter

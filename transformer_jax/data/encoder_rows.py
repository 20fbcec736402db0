"""BERT's examples as packed rows: which share a row, and the arrays of a batch of rows."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import overload

import numpy as np

from transformer_jax.data.packing import pack
from transformer_jax.data.pipeline import Rows
from transformer_jax.data.sentence_pairs import Documents, Examples

# What a row says of each of its segments: all that a batch needs beside the corpus, so that the
# rows of one epoch can be built while those of the next one are planned.
SEGMENT = np.dtype(
    [
        ("example", np.int64),  # its number in the row, from 0
        ("start", np.int64),  # of its tokens in the corpus
        ("size", np.int64),
        ("token_type", np.int64),
        ("label", np.int64),  # of the example, 0 if it is no pair
        ("is_pair", np.int64),
    ]
)


@dataclasses.dataclass(frozen=True, eq=False)
class EncoderRows(Sequence[np.ndarray]):
    """The rows of an epoch, each described by its segments when it is asked for.

    Attributes:
      examples: of the epoch.
      ids: the examples of each row, int64.
    """

    examples: Examples
    ids: list[np.ndarray]

    def __len__(self) -> int:
        return len(self.ids)

    @overload
    def __getitem__(self, index: int) -> np.ndarray: ...

    @overload
    def __getitem__(self, index: slice) -> list[np.ndarray]: ...

    def __getitem__(self, index: int | slice) -> np.ndarray | list[np.ndarray]:
        """What `build_rows` reads of a row, or of the rows of a slice."""
        if isinstance(index, slice):
            return [self._segments(ids) for ids in self.ids[index]]
        return self._segments(self.ids[index])

    def _segments(self, ids: np.ndarray) -> np.ndarray:
        examples = self.examples
        first = examples.offsets[ids]
        counts = examples.offsets[ids + 1] - first
        rank = _ranges(counts)  # of a segment in its example
        segment = np.repeat(first, counts) + rank
        row = np.zeros(len(segment), SEGMENT)
        row["example"] = np.repeat(np.arange(len(ids)), counts)
        row["start"] = examples.starts[segment]
        row["size"] = examples.sizes[segment]
        if examples.labels is not None:
            row["token_type"] = rank
            row["label"] = np.repeat(examples.labels[ids], counts)
            row["is_pair"] = 1
        return row


def plan_rows(
    examples: Examples, *, row_length: int, row_examples: int, seed: int, epoch: int
) -> EncoderRows:
    """Packs the examples of an epoch into rows, each example into one; as `packing.pack` does.

    Args:
      examples: of `epoch`.
      row_length: the tokens of a row.
      row_examples: the most examples of a row. Rows with many short ones are rare, and each
        position in the arrays of a batch costs a prediction.
      seed: of the run, 0 or more.
      epoch: 0 or more.

    Raises:
      ValueError: an example is longer than a row.
    """
    lengths = np.stack([examples.lengths, np.ones(len(examples), np.int64)], axis=1)
    ids = pack(lengths, (row_length, row_examples), seed=seed, epoch=epoch)
    return EncoderRows(examples, ids)


def build_rows(
    documents: Documents,
    rows: Rows,
    *,
    row_length: int,
    row_examples: int,
    cls_id: int,
    sep_id: int,
) -> dict[str, np.ndarray]:
    """Lays B packed rows out as arrays: [B,T] of tokens, and [B,E] of examples.

    An example is [CLS], then its segments, each with a [SEP] behind it.

    Args:
      documents: the corpus that the rows refer to.
      rows: B rows of `plan_rows`; an empty array is a row of padding.
      row_length: T.
      row_examples: E.
      cls_id: of the token that opens an example.
      sep_id: of the token that closes a segment.

    Returns:
      tokens: int32 [B,T], 0 on padding, as are the others.
      segments: int32 [B,T], the number of the example in its row, from 1.
      positions: int32 [B,T], from 0 in each example.
      token_types: int32 [B,T], 1 on the second segment of a pair and its [SEP].
      word_starts: bool [B,T]; [CLS], [SEP] and the first token of a segment always start a word.
      first_tokens: int32 [B,E], where in its row the [CLS] of each example stands.
      pair_labels: int32 [B,E].
      pair_weights: float32 [B,E], 1 for a pair; 0 where there is none.

    Raises:
      ValueError: a row has too many tokens or examples.
    """
    row_of = np.repeat(np.arange(len(rows)), [len(row) for row in rows])
    # As numbers, for numpy compares the fields of all arrays that it puts together.
    numbers = [row.view(np.int64) for row in rows if len(row)]
    table = np.concatenate([np.zeros(0, np.int64), *numbers]).view(SEGMENT)
    if (table["example"] >= row_examples).any():
        raise ValueError(f"a row has more than {row_examples} examples")
    opens = np.append(True, np.diff(row_of * row_examples + table["example"]) != 0)[: len(table)]
    width = table["size"] + 1 + opens  # of a segment, with its [SEP], and with the [CLS]
    begin = np.cumsum(width) - width
    column = begin - begin[np.searchsorted(row_of, row_of)]  # of a segment, in its row
    if (column + width > row_length).any():
        full = row_of[np.argmax(column + width > row_length)]
        raise ValueError(f"row {full} has more than {row_length} tokens")

    where = np.repeat(row_of * row_length + column, width) + _ranges(width)

    def scatter(values: np.ndarray, dtype: type = np.int32) -> np.ndarray:
        out: np.ndarray = np.zeros(len(rows) * row_length, dtype)
        out[where] = values
        return out.reshape(len(rows), row_length)

    text = np.repeat(begin + opens, table["size"]) + _ranges(table["size"])
    source = np.repeat(table["start"], table["size"]) + _ranges(table["size"])
    tokens = np.full(len(where), sep_id, np.int32)
    tokens[begin[opens]] = cls_id
    tokens[text] = documents.paragraphs.tokens[source]
    word_starts = np.ones(len(where), bool)
    word_starts[text] = documents.word_starts[source]
    word_starts[(begin + opens)[table["size"] > 0]] = True
    sizes = np.diff(np.append(begin[opens], len(where)))  # of the examples

    first = table[opens]
    place = row_of[opens], first["example"]
    shape = (len(rows), row_examples)
    first_tokens, pair_labels = np.zeros(shape, np.int32), np.zeros(shape, np.int32)
    pair_weights = np.zeros(shape, np.float32)
    first_tokens[place] = column[opens]
    pair_labels[place] = first["label"]
    pair_weights[place] = first["is_pair"]
    return {
        "tokens": scatter(tokens),
        "segments": scatter(np.repeat(table["example"] + 1, width)),
        "positions": scatter(_ranges(sizes)),
        "token_types": scatter(np.repeat(table["token_type"], width)),
        "word_starts": scatter(word_starts, bool),
        "first_tokens": first_tokens,
        "pair_labels": pair_labels,
        "pair_weights": pair_weights,
    }


def _ranges(counts: np.ndarray) -> np.ndarray:
    """0..count-1 for each count, one after another: int64 [sum of the counts]."""
    ends = np.cumsum(counts)
    return np.arange(ends[-1] if len(ends) else 0) - np.repeat(ends - counts, counts)

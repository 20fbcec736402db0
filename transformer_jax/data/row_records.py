"""A packed row as a record of an array_record file, and back.

A record is little-endian words of 32 bits: the number of segments; for each segment its size, with
bit 31 set where it opens an example, bit 30 in a pair and bit 29 in a pair with label 1; then the
tokens of the segments, one after another, with bit 31 set where a token begins a word. [CLS] and
[SEP] are not stored. The file compresses the words to some two bytes a token, so that 16 bits would
save little, and they would shut out large vocabularies.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

import numpy as np
from array_record.python.array_record_module import ArrayRecordWriter

from transformer_jax.data.encoder_rows import SEGMENT, EncoderRows
from transformer_jax.data.pipeline import Ragged
from transformer_jax.data.sentence_pairs import Documents
from transformer_jax.errors import UserError
from transformer_jax.files import temporary_beside

VERSION = 1  # of the records

_TOP, _PAIR, _LABEL = 1 << 31, 1 << 30, 1 << 29
LONGEST_ROW = _LABEL - 1  # tokens
_CHUNK = 2048  # rows that are encoded at a time


def encode_rows(documents: Documents, rows: EncoderRows) -> Iterator[bytes]:
    """The record of each row."""
    examples, text = rows.examples, documents.paragraphs.tokens
    segments = np.diff(examples.offsets)
    for begin in range(0, len(rows), _CHUNK):
        ids = rows.ids[begin : begin + _CHUNK]
        table = EncoderRows(examples, [np.concatenate(ids)])[0]  # as if they were one row
        counts = np.array([segments[row].sum() for row in ids])  # of segments in each row
        row = np.repeat(np.arange(len(ids)), counts)
        sizes = np.bincount(row, weights=table["size"], minlength=len(ids)).astype(np.int64)
        ends = np.cumsum(1 + counts + sizes)
        starts = ends - (1 + counts + sizes)
        words = np.empty(ends[-1], "<u4")
        words[starts] = counts
        head = table["size"] | _PAIR * table["is_pair"] | _LABEL * table["label"]
        head[np.append(True, np.diff(table["example"]) != 0)] |= _TOP
        words[_ranges(starts + 1, counts)] = head
        source = _ranges(table["start"], table["size"])
        flags = np.where(documents.word_starts[source], np.uint32(_TOP), np.uint32(0))
        words[_ranges(starts + 1 + counts, sizes)] = text[source].astype(np.uint32) | flags
        for start, end in zip(starts.tolist(), ends.tolist(), strict=True):
            yield words[start:end].tobytes()


def write_shard(path: Path, records: Iterable[bytes]) -> None:
    """Writes an array_record file at once, as `files.write_whole` does.

    Raises:
      UserError: it cannot be written.
    """
    temporary = temporary_beside(path)
    try:
        writer = ArrayRecordWriter(str(temporary), "group_size:1")
        for record in records:
            writer.write(record)
        writer.close()
        os.replace(temporary, path)
    except (OSError, RuntimeError) as error:
        raise UserError(
            f"{path} cannot be written: {error}. Make room or name another folder, and run the "
            f"same command again."
        ) from error
    finally:
        temporary.unlink(missing_ok=True)


def decode_rows(records: Sequence[bytes], vocab_size: int) -> tuple[Documents, list[np.ndarray]]:
    """Records as a corpus and as rows that refer to it, for `encoder_rows.build_rows`.

    Raises:
      ValueError: one is no row, or has a token beyond the vocabulary; its place in `records` is the
        argument.
    """
    lengths, rest = np.divmod(np.array([len(record) for record in records], np.int64), 4)
    if rest.any():
        raise ValueError(int(np.argmax(rest)))
    words = np.frombuffer(b"".join(records), "<u4").astype(np.uint32, copy=False)
    table, counts = _segments(words, lengths)
    if not (counts > 0).all():
        raise ValueError(int(np.argmin(counts)))
    tables = np.split(table, np.cumsum(counts)[:-1]) if len(records) else []
    corpus = _corpus(words)
    where = _ranges(table["start"], table["size"])
    beyond = corpus.paragraphs.tokens[where] >= vocab_size
    if beyond.any():
        place = where[np.argmax(beyond)]
        raise ValueError(int(np.searchsorted(np.cumsum(lengths), place, side="right")))
    return corpus, tables


def _segments(words: np.ndarray, lengths: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The table of all segments of some records, and how many each has: 0 if it is no row.

    Args:
      words: of the records, one after another.
      lengths: int64 [records], the words of each.
    """
    starts = np.cumsum(lengths) - lengths
    counts = words[np.minimum(starts, len(words) - 1)].astype(np.int64)
    counts[counts >= lengths] = 0
    head = words[_ranges(starts + 1, counts)]
    of = np.repeat(np.arange(len(lengths)), counts)  # the record of each segment
    opens, pair, size = head >= _TOP, head & _PAIR != 0, (head & (_LABEL - 1)).astype(np.int64)
    sums = np.bincount(of, weights=size, minlength=len(lengths))
    counts[1 + counts + sums != lengths] = 0
    if not (counts > 0).all():
        return np.zeros(0, SEGMENT), counts
    first = np.cumsum(counts) - counts
    example, before = np.cumsum(opens), np.cumsum(size) - size
    table = np.zeros(len(head), SEGMENT)
    table["example"] = example - example[first][of]
    table["start"] = (starts + 1 + counts - before[first])[of] + before
    table["size"] = size
    table["token_type"] = pair & ~opens
    table["label"] = head & _LABEL != 0
    table["is_pair"] = pair
    return table, counts


def _corpus(words: np.ndarray) -> Documents:
    """The words [n] of records as a corpus; what is no token in it, no segment refers to."""
    tokens = (words & (_TOP - 1)).view(np.int32)
    nothing = np.zeros(1, np.int64)
    return Documents(Ragged(tokens, nothing), words >= _TOP, nothing)


def _ranges(starts: np.ndarray, counts: np.ndarray) -> np.ndarray:
    """start..start+count-1 for each pair, one after another: int64 [sum of the counts]."""
    ends = np.cumsum(counts)
    return np.arange(ends[-1] if len(ends) else 0) + np.repeat(starts - (ends - counts), counts)

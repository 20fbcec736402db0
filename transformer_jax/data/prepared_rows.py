"""Packed rows of an encoder's examples on disk, as `transformer_jax.data.prepare` writes them.

A folder of prepared rows has, in version 1:

- rows.json, written last: the settings, and for each split its shards with their rows and hashes;
- SPLIT.npy, how often each token stands in the documents of the split, int64 [V];
- SPLIT-NNNNN-of-NNNNN.array_record, the shards: a record is a row, in groups of one;
- the tokenizer, and what a run of `prepare` needs to go on: settings.json, and beside each shard
  its own counts.

A record is little-endian words of 32 bits: the number of segments; for each segment its size, with
bit 31 set where it opens an example, bit 30 in a pair and bit 29 in a pair with label 1; then the
tokens of the segments, one after another, with bit 31 set where a token begins a word. [CLS] and
[SEP] are not stored. The words compress to two bytes a token or less, and 16-bit words would
shut out large vocabularies.
"""

from __future__ import annotations

import collections
import dataclasses
import hashlib
import json
import os
import threading
import uuid
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, overload

import numpy as np
from array_record.python.array_record_module import ArrayRecordReader, ArrayRecordWriter

from transformer_jax.data.encoder_rows import SEGMENT, EncoderRows, build_rows
from transformer_jax.data.pipeline import Ragged, Rows
from transformer_jax.data.sentence_pairs import Documents
from transformer_jax.errors import UserError

VERSION = 1
INDEX = "rows.json"

_TOP, _PAIR, _LABEL = 1 << 31, 1 << 30, 1 << 29
_CHUNK = 2048  # rows that are encoded at a time
_OPEN = 500  # shards; half of the files that Linux lets a process open
_STREAM = 0x50A  # keeps the bits of the order apart from those of packing
# One record after another in random order; the defaults are for reading from end to end.
_RANDOM_ACCESS = "readahead_buffer_size:0,max_parallelism:0"


@dataclasses.dataclass(frozen=True)
class Shard:
    """What is known of a shard: `tokens` are the filled positions of its rows."""

    name: str
    documents: int
    examples: int
    rows: int
    tokens: int
    bytes: int
    sha256: str


def encode_rows(documents: Documents, rows: EncoderRows) -> Iterator[bytes]:
    """The record of each row."""
    examples, text = rows.examples, documents.paragraphs.tokens
    for begin in range(0, len(rows), _CHUNK):
        ids = rows.ids[begin : begin + _CHUNK]
        table = rows.segments(np.concatenate(ids))
        segments = np.diff(examples.offsets)
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
    # Two machines may write the same shard at the same time.
    temporary = path.with_name(f".{path.name}.{uuid.uuid4().hex}")
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


def file_hash(path: Path) -> str:
    """The SHA-256 of a file, in hexadecimal digits."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


class PreparedRows:
    """The rows of a split on disk, in another order in each epoch.

    Attributes:
      settings: of rows.json, among them row_length, row_examples, examples, and of the tokenizer
        its `file`, `fingerprint` and `vocab_size`.
      fingerprint: names the rows; seed and epoch aside.
      summary: how much there is of it, for people.
    """

    def __init__(self, folder: str | os.PathLike[str], split: str, *, seed: int) -> None:
        """Opens what `prepare` wrote; shards are opened when they are read.

        Raises:
          UserError: the folder is no finished one, lacks the split, or is damaged.
        """
        self._folder, self._split, self._seed = Path(folder), split, seed
        self.settings = read_index(self._folder)
        splits = self.settings["splits"]
        if split not in splits:
            raise UserError(
                f"{self._folder} has no split {split!r}, only {', '.join(splits)}. Prepare it too."
            )
        self._shards = [Shard(**shard) for shard in splits[split]["shards"]]
        for shard in self._shards:
            path = self._folder / shard.name
            size = path.stat().st_size if path.is_file() else None
            if size != shard.bytes:
                what = "is missing" if size is None else f"has {size} bytes, not {shard.bytes}"
                raise _damaged(path, what)
        self._ends = np.cumsum([shard.rows for shard in self._shards])
        self._readers: collections.OrderedDict[int, Any] = collections.OrderedDict()
        self._lock = threading.Lock()
        names = [self._settings_of_rows(), *(shard.sha256 for shard in self._shards)]
        self.fingerprint = hashlib.sha256("\n".join(names).encode()).hexdigest()[:16]
        tokens = sum(shard.tokens for shard in self._shards)
        self.summary = f"{len(self):,} prepared rows of {tokens:,} tokens"

    def __len__(self) -> int:
        return int(self._ends[-1])

    def plan(self, epoch: int) -> RowNumbers:
        """All rows in an order that depends on seed and epoch; 8 bytes a row.

        Raw bits, for numpy may change what Generator draws from them.
        """
        random = np.random.Philox(np.random.SeedSequence([self._seed, epoch, _STREAM]))
        bits = np.asarray(random.random_raw(len(self)), np.uint64)
        return RowNumbers(np.argsort(bits, kind="stable"))

    def build(self, rows: Rows) -> dict[str, np.ndarray]:
        """The arrays of `encoder_rows.build_rows`; one read of each shard that has rows in it.

        Args:
          rows: of `plan`; an empty array is a row of padding.

        Raises:
          UserError: a shard is damaged.
        """
        filled = np.array([len(row) for row in rows], bool)
        numbers = np.concatenate([np.zeros(0, np.int64), *rows])
        records = self._records(numbers)
        lengths = np.array([len(record) // 4 for record in records], np.int64)
        words = np.frombuffer(b"".join(records), "<u4").astype(np.uint32, copy=False)
        starts = np.cumsum(lengths) - lengths
        counts = words[starts].astype(np.int64)
        if (counts >= lengths).any():
            raise self._foreign(numbers[np.argmax(counts >= lengths)])
        head = words[_ranges(starts + 1, counts)]
        row = np.repeat(np.arange(len(records)), counts)  # of the records, of each segment
        opens = (head & _TOP) != 0
        table = np.zeros(len(head), SEGMENT)
        table["size"] = head & (_LABEL - 1)
        table["is_pair"] = (head & _PAIR) != 0
        table["label"] = (head & _LABEL) != 0
        table["token_type"] = ~opens & (head & _PAIR != 0)
        first = np.cumsum(counts) - counts  # segment of each record
        example = np.cumsum(opens)
        before = np.cumsum(table["size"]) - table["size"]
        table["example"] = example - example[first][row]
        table["start"] = (starts + 1 + counts - before[first])[row] + before
        ends = before[first + counts - 1] + table["size"][first + counts - 1] - before[first]
        if (ends != lengths - 1 - counts).any() or not opens[first].all():
            raise self._foreign(numbers[np.argmax(ends != lengths - 1 - counts)])
        tables = iter(np.split(table, first[1:]) if len(records) else [])
        tokenizer = self.settings["tokenizer"]
        return build_rows(
            _corpus(words),
            [next(tables) if full else table[:0] for full in filled],
            row_length=self.settings["row_length"],
            row_examples=self.settings["row_examples"],
            cls_id=tokenizer["cls_id"],
            sep_id=tokenizer["sep_id"],
        )

    def unigrams(self) -> np.ndarray:
        """How often each token stands in the documents of the split: int64 [V].

        Raises:
          UserError: the file is missing or damaged.
        """
        path = self._folder / f"{self._split}.npy"
        try:
            counts: np.ndarray = np.load(path)
        except (OSError, ValueError, EOFError) as error:
            raise _damaged(path, f"cannot be read ({error})") from error
        if counts.shape != (self.settings["tokenizer"]["vocab_size"],):
            raise _damaged(path, f"has the shape {counts.shape}")
        return counts

    def _records(self, numbers: np.ndarray) -> list[bytes]:
        """The records of these rows, in this order."""
        shards = np.searchsorted(self._ends, numbers, side="right")
        order = np.argsort(shards, kind="stable")
        found: list[bytes] = [b""] * len(numbers)
        borders = np.flatnonzero(np.diff(shards[order])) + 1
        for places in np.split(order, borders) if len(order) else []:
            shard = int(shards[places[0]])
            inside = numbers[places] - (self._ends[shard] - self._shards[shard].rows)
            try:
                records = self._reader(shard).read(inside.tolist())
            except (OSError, RuntimeError, ValueError, IndexError) as error:
                path = self._folder / self._shards[shard].name
                raise _damaged(path, f"cannot be read ({str(error)[:200]})") from error
            for place, record in zip(places.tolist(), records, strict=True):
                found[place] = record
        return found

    def _reader(self, shard: int) -> Any:
        with self._lock:
            if shard not in self._readers:
                path = str(self._folder / self._shards[shard].name)
                self._readers[shard] = ArrayRecordReader(
                    path, options=_RANDOM_ACCESS, file_reader_buffer_size=1 << 15
                )
                if len(self._readers) > _OPEN:  # it closes when nobody reads it any more
                    self._readers.popitem(last=False)
            self._readers.move_to_end(shard)
            return self._readers[shard]

    def _settings_of_rows(self) -> str:
        """What the arrays of a row depend on beside its record."""
        keep = ("version", "row_length", "row_examples", "tokenizer")
        return json.dumps({name: self.settings[name] for name in keep}, sort_keys=True)

    def _foreign(self, number: int) -> UserError:
        shard = int(np.searchsorted(self._ends, number, side="right"))
        path = self._folder / self._shards[shard].name
        return _damaged(path, f"has a record that is no row of version {VERSION}")


@dataclasses.dataclass(frozen=True, eq=False)
class RowNumbers(Sequence[np.ndarray]):
    """The order of an epoch: int64 [rows]. Each row is an array of its one number."""

    order: np.ndarray

    def __len__(self) -> int:
        return len(self.order)

    @overload
    def __getitem__(self, index: int) -> np.ndarray: ...

    @overload
    def __getitem__(self, index: slice) -> list[np.ndarray]: ...

    def __getitem__(self, index: int | slice) -> np.ndarray | list[np.ndarray]:
        """The number of a row, or of each row of a slice."""
        if isinstance(index, slice):
            return list(self.order[index, None])
        return self.order[index : index + 1] if index >= 0 else self.order[[index]]


def read_index(folder: Path) -> dict[str, Any]:
    """The settings and splits of a folder of prepared rows.

    Raises:
      UserError: it is none, is not finished, of another version or damaged.
    """
    path = folder / INDEX
    if not path.is_file():
        there = "is not finished" if (folder / "settings.json").is_file() else "has no prepared rows"
        raise UserError(
            f"{folder} {there}: it lacks {INDEX}. Run `python -m transformer_jax.cli.prepare "
            f"--output {folder}` with its other settings; it goes on where it stopped."
        )
    try:
        index: dict[str, Any] = json.loads(path.read_bytes())
        if index["version"] != VERSION:
            raise UserError(
                f"{path} is of version {index['version']}; this version reads {VERSION}. Prepare "
                f"the rows anew, in another folder."
            )
        for name in ("row_length", "row_examples", "examples"):
            index[name]
        for name in ("file", "fingerprint", "vocab_size", "cls_id", "sep_id"):
            index["tokenizer"][name]
        for split in index["splits"].values():
            if not [Shard(**shard) for shard in split["shards"]]:
                raise ValueError("a split without shards")
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise _damaged(path, f"cannot be read ({type(error).__name__}: {error})") from error
    return index


def _corpus(words: np.ndarray) -> Documents:
    """The words [n] of records as a corpus; what is no token in it, no segment refers to."""
    tokens = (words & (_TOP - 1)).view(np.int32)
    nothing = np.zeros(1, np.int64)
    return Documents(Ragged(tokens, nothing), words >= _TOP, nothing)


def _damaged(path: Path, what: str) -> UserError:
    return UserError(
        f"{path} {what}. Run the command of transformer_jax.cli.prepare again that wrote the "
        f"folder: it makes what is missing or damaged anew."
    )


def _ranges(starts: np.ndarray, counts: np.ndarray) -> np.ndarray:
    """start..start+count-1 for each pair, one after another: int64 [sum of the counts]."""
    ends = np.cumsum(counts)
    return np.arange(ends[-1] if len(ends) else 0) + np.repeat(starts - (ends - counts), counts)

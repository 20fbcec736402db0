"""Packed rows on disk, as `transformer_jax.data.prepare` writes them, for training to read.

A folder of prepared rows has, in version 1:

- rows.json, written last: the settings, and for each split its shards with their rows and hashes;
- SPLIT.npy, how often each token stands in the documents of the split, int64 [V];
- SPLIT-NNNNN-of-NNNNN.array_record, the shards: a record is a row (`row_records`);
- the tokenizer, and what a run of `prepare` needs to go on: settings.json, and beside each shard
  its own counts.
"""

from __future__ import annotations

import collections
import dataclasses
import hashlib
import json
import os
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any, overload

import numpy as np
from array_record.python.array_record_module import ArrayRecordReader

from transformer_jax.data.encoder_rows import build_rows
from transformer_jax.data.pipeline import Rows
from transformer_jax.data.row_records import VERSION, decode_rows
from transformer_jax.data.rows_index import INDEX, Shard, damaged, read_index
from transformer_jax.errors import UserError
from transformer_jax.parsing import parse_npy, read_regular

_OPEN = 500  # shards; half of the files that Linux lets a process open
_STREAM = 0x50A  # keeps the bits of the order apart from those of packing
# For one record after another in random order; the defaults are for reading from end to end.
_RANDOM_ACCESS = "readahead_buffer_size:0,max_parallelism:0"


class PreparedRows:
    """The `PretrainingRows` of a split on disk, in another order in each epoch.

    Attributes:
      settings: of rows.json, among them row_length, row_examples, examples, and of the tokenizer
        its file, fingerprint and vocab_size.
      fingerprint: names what the rows depend on, beside seed and epoch.
      summary: how much there is of it, for people.
    """

    def __init__(self, folder: str | os.PathLike[str], split: str) -> None:
        """Opens what `prepare` wrote; shards are opened when they are read.

        Raises:
          UserError: the folder is no finished one, lacks the split, or is damaged.
        """
        self._folder, self._split = Path(folder), split
        self.settings = read_index(self._folder)
        splits = self.settings["splits"]
        if split not in splits:
            raise UserError(
                f"{self._folder} has no split {split!r}, only {', '.join(splits)}. Run the command "
                f"of transformer_jax.cli.prepare again with --splits {split}."
            )
        self._shards = [Shard(**shard) for shard in splits[split]["shards"]]
        for shard in self._shards:
            path = self._folder / shard.name
            size = path.stat().st_size if path.is_file() else None
            if size != shard.bytes:
                what = "is missing" if size is None else f"has {size} bytes, not {shard.bytes}"
                raise damaged(path, what)
        self._ends = np.cumsum([shard.rows for shard in self._shards])
        self._readers: collections.OrderedDict[int, Any] = collections.OrderedDict()
        self._lock = threading.Lock()
        kept = ("version", "row_length", "row_examples", "tokenizer")
        shape = json.dumps({name: self.settings[name] for name in kept}, sort_keys=True)
        names = "\n".join([shape, *(shard.sha256 for shard in self._shards)])
        self.fingerprint = hashlib.sha256(names.encode()).hexdigest()[:16]
        self._tokens = sum(shard.tokens for shard in self._shards)
        self.summary = f"{len(self):,} prepared rows of {self._tokens:,} tokens"

    def __len__(self) -> int:
        return int(self._ends[-1])

    def plan(self, epoch: int, *, seed: int) -> RowNumbers:
        """All rows in random order, the same on every host; 8 bytes a row."""
        # Raw bits, for numpy may change what Generator draws from them.
        random = np.random.Philox(np.random.SeedSequence([seed, epoch, _STREAM]))
        bits = np.asarray(random.random_raw(len(self)), np.uint64)
        return RowNumbers(np.argsort(bits, kind="stable"))

    def filled(self, rows: RowNumbers) -> float:
        """The share of the positions of an epoch's rows that hold a token."""
        return self._tokens / (len(rows) * self.settings["row_length"])

    def build(self, rows: Rows) -> dict[str, np.ndarray]:
        """The arrays of `encoder_rows.build_rows`; one read of each shard that has rows in it.

        Args:
          rows: of `plan`; an empty array is a row of padding.

        Raises:
          UserError: a shard is damaged.
        """
        has_row = [len(row) > 0 for row in rows]
        numbers = np.concatenate([np.zeros(0, np.int64), *rows])
        tokenizer = self.settings["tokenizer"]
        try:
            corpus, filled = decode_rows(self._records(numbers), tokenizer["vocab_size"])
        except ValueError as error:
            shard = np.searchsorted(self._ends, numbers[error.args[0]], side="right")
            path = self._folder / self._shards[int(shard)].name
            what = f"has a record that is no row of version {VERSION} and this vocabulary"
            raise damaged(path, what) from error
        tables = iter(filled)
        try:
            return build_rows(
                corpus,
                [next(tables) if there else numbers[:0] for there in has_row],
                row_length=self.settings["row_length"],
                row_examples=self.settings["row_examples"],
                cls_id=tokenizer["cls_id"],
                sep_id=tokenizer["sep_id"],
            )
        except ValueError as error:
            raise damaged(self._folder / INDEX, f"does not fit its shards ({error})") from error

    def unigrams(self) -> np.ndarray:
        """How often each token stands in the documents of the split: int64 [V].

        Raises:
          UserError: the file is missing or damaged.
        """
        path = self._folder / f"{self._split}.npy"
        try:
            counts = parse_npy(read_regular(path))
        except (OSError, ValueError) as error:
            raise damaged(path, f"cannot be read ({error})") from error
        if counts.shape != (self.settings["tokenizer"]["vocab_size"],):
            raise damaged(path, f"has the shape {counts.shape}")
        if counts.dtype != np.int64 or counts.min() < 0:
            raise damaged(path, "holds what are no counts")
        return counts

    def _records(self, numbers: np.ndarray) -> list[bytes]:
        """The records of these rows, in this order."""
        shards = np.searchsorted(self._ends, numbers, side="right")
        order = np.argsort(shards, kind="stable")
        records: list[bytes] = [b""] * len(numbers)
        for places in np.split(order, np.flatnonzero(np.diff(shards[order])) + 1):
            if len(places):
                found = self._read(int(shards[places[0]]), numbers[places])
                for place, record in zip(places.tolist(), found, strict=True):
                    records[place] = record
        return records

    def _read(self, shard: int, numbers: np.ndarray) -> list[bytes]:
        """Rows of one shard, all at once: they are read in parallel, which hides a slow disk."""
        path = self._folder / self._shards[shard].name
        before = self._ends[shard] - self._shards[shard].rows
        try:
            found: list[bytes] = self._reader(shard, path).read((numbers - before).tolist())
        except (OSError, RuntimeError, ValueError, IndexError) as error:
            raise damaged(path, f"cannot be read ({str(error)[:200]})") from error
        return found

    def _reader(self, shard: int, path: Path) -> Any:
        with self._lock:
            if shard not in self._readers:
                self._readers[shard] = ArrayRecordReader(
                    str(path), options=_RANDOM_ACCESS, file_reader_buffer_size=1 << 15
                )
            self._readers.move_to_end(shard)
            if len(self._readers) > _OPEN:  # it closes when nobody reads it any more
                self._readers.popitem(last=False)
            return self._readers[shard]


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
        return self.order[[index]]

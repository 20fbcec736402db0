"""From token sequences to batches: ragged sequences, packed translation rows, endless batches.

An epoch is a list of rows that every host computes identically, and host h reads its slice of each
global batch. So two integers say where a run is, and it continues on any number of hosts.
"""

import dataclasses
import itertools
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor

import grain
import numpy as np

Rows = Sequence[np.ndarray]  # each an int array of example ids, perhaps empty


@dataclasses.dataclass(frozen=True, eq=False)
class Ragged:
    """Token sequences in one array: sequence i is tokens[offsets[i]:offsets[i + 1]]."""

    tokens: np.ndarray  # int32 [sum of the lengths]
    offsets: np.ndarray  # int64 [n + 1], from 0, never falling

    @classmethod
    def from_lists(cls, sequences: Sequence[Sequence[int] | np.ndarray]) -> "Ragged":
        """Holds a list of token lists, 4 bytes a token."""
        offsets = np.zeros(len(sequences) + 1, np.int64)
        np.cumsum([len(s) for s in sequences], out=offsets[1:])
        flat = itertools.chain.from_iterable(sequences)
        return cls(np.fromiter(flat, np.int32, count=int(offsets[-1])), offsets)

    def __len__(self) -> int:
        return len(self.offsets) - 1

    def __getitem__(self, index: int) -> np.ndarray:
        index = range(len(self))[index]  # raises IndexError, and counts negatives from the end
        return self.tokens[self.offsets[index] : self.offsets[index + 1]]

    def __iter__(self) -> Iterator[np.ndarray]:
        return (self[index] for index in range(len(self)))

    @property
    def lengths(self) -> np.ndarray:
        """The number of tokens of each sequence: int64 [n]."""
        return np.diff(self.offsets)

    def select(self, ids: np.ndarray) -> "Ragged":
        """The sequences of these ids, in their order; a copy."""
        ids = np.asarray(ids, np.int64)
        lengths = self.offsets[ids + 1] - self.offsets[ids]
        offsets = np.concatenate([[0], np.cumsum(lengths)])
        moved = np.repeat(self.offsets[ids] - offsets[:-1], lengths)
        return Ragged(self.tokens[moved + np.arange(offsets[-1])], offsets)


def pair_lengths(source: Ragged, target: Ragged) -> np.ndarray:
    """The positions that each pair takes in a row, its EOS included: int64 [n, 2]."""
    if len(source) != len(target):
        raise ValueError(f"{len(source)} sources cannot be paired with {len(target)} targets")
    return np.stack([source.lengths, target.lengths], axis=1) + 1


def pack_pairs(
    source: Ragged,
    target: Ragged,
    rows: Rows,
    *,
    capacity: tuple[int, int],
    bos_id: int,
    eos_id: int,
) -> dict[str, np.ndarray]:
    """Lays B rows of translation pairs out as int32 arrays: [B, S] of the source, [B, T] others.

    `source` and `targets` end in EOS in each pair; `target_inputs` is `targets` shifted right
    inside each pair, from BOS on. `*_segments` counts the pairs of a row from 1, and is 0 on
    padding; `*_positions` restarts at 0 in each pair. Everything is 0 on padding, so that a row
    without examples weighs nothing.

    Args:
      source: token sequences without EOS; `target` likewise.
      rows: B arrays of example ids.
      capacity: (S, T), the positions of a row on each side.

    Raises:
      ValueError: a row does not fit.
    """
    counts = [len(row) for row in rows]
    ids = np.concatenate([np.zeros(0, np.int64), *rows]).astype(np.int64)
    row = np.repeat(np.arange(len(rows)), counts)
    layout = {
        side: _Layout.of(texts.select(ids), row, (len(rows), width), side)
        for side, texts, width in zip(("source", "target"), (source, target), capacity, strict=True)
    }
    batch = {}
    for side, name in (("source", "source"), ("target", "targets")):
        place = layout[side]
        batch[name] = place.scatter(place.closed(eos_id))
        batch[f"{side}_segments"] = place.scatter(np.repeat(_rank(row) + 1, place.sizes))
        batch[f"{side}_positions"] = place.scatter(place.positions)
    place = layout["target"]
    batch["target_inputs"] = place.scatter(place.opened(bos_id))
    return batch


@dataclasses.dataclass(frozen=True, eq=False)
class _Layout:
    """Where the n sequences of one side stand in its rows, each one longer by BOS or EOS."""

    texts: Ragged
    sizes: np.ndarray  # [n], positions of each sequence
    positions: np.ndarray  # [total], inside the sequence
    where: np.ndarray  # [total], into the flattened rows
    shape: tuple[int, int]

    @classmethod
    def of(cls, texts: Ragged, row: np.ndarray, shape: tuple[int, int], side: str) -> "_Layout":
        """Sequences one after another; row [n] never falls. ValueError if a row is too full."""
        sizes = texts.lengths + 1
        starts = np.cumsum(sizes) - sizes
        first = np.arange(len(row)) - _rank(row)  # of the examples of the same row
        column = starts - starts[first]
        if (column + sizes > shape[1]).any():
            full = row[np.argmax(column + sizes > shape[1])]
            raise ValueError(f"row {full} has more than {shape[1]} {side} tokens")
        positions = np.arange(sizes.sum()) - np.repeat(starts, sizes)
        where = np.repeat(row * shape[1] + column, sizes) + positions
        return cls(texts, sizes, positions, where, shape)

    def opened(self, bos_id: int) -> np.ndarray:
        """The flat tokens with BOS before each sequence: [total]."""
        tokens = np.full(len(self.positions), bos_id, np.int32)
        tokens[self.positions > 0] = self.texts.tokens
        return tokens

    def closed(self, eos_id: int) -> np.ndarray:
        """The flat tokens with EOS after each sequence: [total]."""
        tokens = np.full(len(self.positions), eos_id, np.int32)
        tokens[np.append(self.positions[1:], 0)[: len(tokens)] > 0] = self.texts.tokens
        return tokens

    def scatter(self, values: np.ndarray) -> np.ndarray:
        """Flat values [total] at their places in rows of zeros: int32 [B, width]."""
        rows = np.zeros(self.shape[0] * self.shape[1], np.int32)
        rows[self.where] = values
        return rows.reshape(self.shape)


def _rank(row: np.ndarray) -> np.ndarray:
    """How many examples of the same row stand before each example; row [n] never falls."""
    return np.arange(len(row)) - np.searchsorted(row, row)


@dataclasses.dataclass(frozen=True)
class DataState:
    """Where to continue: the next batch to read is global batch `batch` of epoch `epoch`."""

    epoch: int = 0
    batch: int = 0

    def __post_init__(self):
        if self.epoch < 0 or self.batch < 0:
            raise ValueError(f"{self} is before the beginning")


def batches(
    plan: Callable[[int], Rows],
    build: Callable[[Rows], dict[str, np.ndarray]],
    *,
    batch_size: int,
    start: DataState = DataState(),  # immutable, so that a shared default is safe
    process_index: int = 0,
    process_count: int = 1,
    prefetch: int = 4,
) -> Iterator[tuple[dict[str, np.ndarray], DataState]]:
    """Endless batches of this host, each with the state that continues after it.

    Global batch b of an epoch is its rows from b * batch_size on, the last one filled up with
    empty rows; host h takes the h-th of `process_count` equal slices. Batches are built in a
    background thread, and the next epoch is planned in another one.

    Args:
      plan: the rows of an epoch; pure, so that all hosts and every resumed run agree.
      build: the batch of some rows; pure.
      batch_size: rows in a global batch.
      start: where to begin; any state that came with a batch continues bitwise after it.
      process_index: h, this host.
      process_count: hosts; it may differ from that of the run that stored `start`.
      prefetch: batches to build ahead, 0 to build each when it is asked for.

    Raises:
      ValueError: the hosts cannot share a batch equally, an epoch has no rows, or `start` lies
        behind the end of its epoch.
    """
    if batch_size < 1 or process_count < 1 or batch_size % process_count:
        raise ValueError(f"{process_count} hosts cannot share {batch_size} rows equally")
    if not 0 <= process_index < process_count:
        raise ValueError(f"host {process_index} is not one of {process_count}, counted from 0")
    share = batch_size // process_count

    def local_batch(rows: Rows, index: int) -> dict[str, np.ndarray]:
        begin = index * batch_size + process_index * share
        mine = list(rows[begin : begin + share])
        return build(mine + [np.zeros(0, np.int64)] * (share - len(mine)))

    return _endless(plan, local_batch, batch_size, start, prefetch)


def _endless(plan, local_batch, batch_size, start, prefetch):
    """Epoch after epoch of `batches`; planned ahead, so that no epoch begins with a wait."""
    planner = ThreadPoolExecutor(1, thread_name_prefix="plan-epoch")
    epoch, first = start.epoch, start.batch
    try:
        planned = planner.submit(plan, epoch)
        while True:
            rows = planned.result()
            count = -(-len(rows) // batch_size)
            if not count:
                raise ValueError(f"epoch {epoch} has no rows")
            if first >= count:
                raise ValueError(f"epoch {epoch} has {count} batches; none is number {first}")
            planned = planner.submit(plan, epoch + 1)
            ahead = _prefetched(rows, local_batch, first, count, prefetch)
            for index, batch in zip(range(first, count), ahead, strict=True):
                last = index + 1 == count
                yield batch, DataState(epoch + 1, 0) if last else DataState(epoch, index + 1)
            epoch, first = epoch + 1, 0
    finally:
        planner.shutdown(wait=False, cancel_futures=True)


def _prefetched(rows, local_batch, first, count, prefetch) -> Iterator[dict[str, np.ndarray]]:
    """Local batches first..count-1 of one epoch, built by a grain thread."""
    options = grain.ReadOptions(num_threads=1, prefetch_buffer_size=prefetch)
    dataset = grain.MapDataset.range(first, count).map(lambda index: local_batch(rows, index))
    iterator = iter(dataset.to_iter_dataset(options))
    try:
        yield from iterator
    finally:
        iterator.close()

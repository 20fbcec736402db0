"""Which examples share a row: packing as a pure function of (lengths, seed, epoch).

An example has a length on each of K sides (source and target of a translation pair: K = 2). A row
offers a capacity on each side, and holds as many examples as fit on all of them.
"""

from collections.abc import Sequence

import numpy as np

# Sides are compared in integers, not in fractions of their capacity, so that no rounding of any
# platform can choose another row.
_FULL = 1024


def pack(
    lengths: np.ndarray,
    capacity: Sequence[int],
    *,
    seed: int,
    epoch: int,
    window: int = 4096,
) -> list[np.ndarray]:
    """Rows of example ids; each example stands in exactly one row, and every row fits.

    Examples wait, in random order, in a pool of `window`. A row starts with the one that has
    waited longest and takes the one that leaves the least room, over all sides, until nothing
    fits. So the sides fill together, none waits for ever, and the time per example is bounded.

    Args:
      lengths: int [n, K], the tokens of each example on each side.
      capacity: K ints, the tokens a row holds on each side.
      seed: of the run, 0 or more; with `epoch` the only source of randomness.
      epoch: 0 or more; each has other rows in another order.
      window: examples to choose from, and so the most a row can hold; more fill better.

    Returns:
      Rows in random order, each an int64 array of ids in 0..n-1. The same arguments give the same
      rows on every host, platform and numpy.

    Raises:
      ValueError: an example is longer than a row on some side, or the arguments do not agree.
    """
    lengths = _checked(lengths, capacity)
    if window < 1:
        raise ValueError(f"window is {window}, but a row needs 1 example or more to choose from")
    too_long = np.argwhere(lengths > np.asarray(capacity))
    if len(too_long):
        example, side = too_long[0].tolist()
        raise ValueError(
            f"example {example} has {lengths[example, side]} tokens on side {side}, but a row"
            f" holds {capacity[side]} ({len(too_long)} such lengths): drop or shorten it first"
        )
    weights = _FULL * max(capacity) // np.asarray(capacity, np.int64)
    room = np.asarray(capacity, np.int64) * weights
    sizes = np.ascontiguousarray((lengths * weights).T)  # [K, n], the sides now weigh the same

    random = np.random.Philox(np.random.SeedSequence([seed, epoch]))
    order = _permutation(random, len(lengths))
    pool, waiting, rows = order[:window], order[window:], []
    while len(pool):
        picked = _fill_row(sizes.take(pool, axis=1), room)
        rows.append(pool[picked])
        pool = np.concatenate([np.delete(pool, picked), waiting[: len(picked)]])
        waiting = waiting[len(picked) :]
    return [rows[i] for i in _permutation(random, len(rows))]


def _fill_row(sizes: np.ndarray, room: np.ndarray) -> np.ndarray:
    """Columns of sizes [K, M] that share a row with room [K]: the first, then the best fits."""
    left = room[:, None] - sizes  # what each candidate would leave, [K, M]
    candidates = np.arange(sizes.shape[1])
    picked = []
    best = 0
    while True:
        picked.append(candidates[best])
        left = left - sizes[:, candidates[best], None]
        left[:, best] = -1  # it is taken
        fitting = np.flatnonzero(left.min(axis=0) >= 0)
        if not len(fitting):
            return np.array(picked)
        # take is several times faster here than indexing with brackets.
        left, candidates = left.take(fitting, axis=1), candidates[fitting]
        # The squared norm prefers little room on both sides to none on one and much on the other.
        best = int(np.square(left).sum(axis=0).argmin())


def _permutation(random: np.random.BitGenerator, n: int) -> np.ndarray:
    """A random order of n items. Raw bits: numpy may change what Generator draws from them."""
    return np.argsort(np.asarray(random.random_raw(n), np.uint64), kind="stable")


def balanced_capacity(lengths: np.ndarray, row_length: int, multiple: int = 8) -> tuple[int, ...]:
    """Capacities in the ratio of the corpus's totals, so that all sides of a row can fill.

    The side with the most tokens gets `row_length`. Another gets its share of it, rounded to the
    nearest `multiple` (rounding up would leave room that nothing can fill), but at least its
    longest example, rounded up, and at most `row_length`. So whatever fits into `row_length` on
    every side fits into the row; longer examples are left out of the count. Rows of a few times
    the longest example fill best.

    Args:
      lengths: int [n, K], the tokens of each example on each side.
      row_length: the capacity of the largest side.
      multiple: what the other capacities are multiples of, where that is below `row_length`.

    Raises:
      ValueError: no example fits, or the arguments are no lengths.
    """
    lengths = np.asarray(lengths)
    if lengths.ndim != 2 or multiple < 1 or row_length < 1:
        raise ValueError(
            f"expected lengths [n, K], row_length and multiple of 1 or more,"
            f" got {lengths.shape}, {row_length}, {multiple}"
        )
    kept = lengths[(lengths <= row_length).all(axis=1)]
    totals = kept.sum(axis=0).tolist()
    if not totals or max(totals) == 0:
        raise ValueError(f"no example of {len(lengths)} has tokens and fits into {row_length}")
    capacity = []
    for total, longest in zip(totals, kept.max(axis=0).tolist(), strict=True):
        share = (2 * row_length * total + multiple * max(totals)) // (2 * multiple * max(totals))
        blocks = max(share, -(-longest // multiple), 1)
        capacity.append(row_length if total == max(totals) else min(blocks * multiple, row_length))
    return tuple(capacity)


def filled(rows: Sequence[np.ndarray], lengths: np.ndarray, capacity: Sequence[int]) -> np.ndarray:
    """The fraction of positions that hold a token, on each side: float [K]; lengths is [n, K]."""
    lengths = _checked(lengths, capacity)
    if not len(rows):
        raise ValueError("there are no rows to measure")
    return lengths[np.concatenate(rows)].sum(axis=0) / (len(rows) * np.asarray(capacity))


def _checked(lengths: np.ndarray, capacity: Sequence[int]) -> np.ndarray:
    """The lengths as int64 [n, K], if they agree with the K capacities."""
    lengths = np.asarray(lengths)
    if lengths.ndim != 2 or lengths.shape[1] != len(capacity) or not len(capacity):
        raise ValueError(f"lengths {lengths.shape} are not [n, {len(capacity)}], one column a side")
    if not np.issubdtype(lengths.dtype, np.integer) or (lengths < 0).any() or min(capacity) < 1:
        raise ValueError("lengths are integers of 0 or more, capacities of 1 or more")
    return lengths.astype(np.int64)

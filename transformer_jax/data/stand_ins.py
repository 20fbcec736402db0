"""Which random second segment of a pair looks like the true one from outside."""

import numpy as np
from numpy.typing import ArrayLike

_NONE = np.iinfo(np.int64).max


def stand_ins(chunks: np.ndarray, bits: ArrayLike) -> np.ndarray:
    """Of each chunk the one whose B may stand for its own: int64 [n], -1 where there is none.

    That B is of another document, is of a chunk of one paragraph if its own is, and of those that
    fit beside A it is the nearest in size. So what the lengths of A and B, or where B begins and
    ends, tell of the label goes to nothing as the chunks become many.

    Args:
      chunks: int64 [n, 6], of each: its document, start and size, the size of A, the most tokens of
        A and B together, whether it is of one paragraph.
      bits: uint64 [n], random: they choose among Bs of one size.
    """
    document, _, size, cut, limit, alone = chunks.T
    b_size, room = size - cut, limit - cut
    order = np.lexsort((np.asarray(bits, np.uint64), b_size, alone))
    order = order[b_size[order] > 0]
    # The neighbours in this order, before and behind those of the same document.
    borders = np.flatnonzero(np.diff(document[order])) + 1
    run = np.searchsorted(borders, np.arange(len(order)), side="right")
    before = np.append(0, borders)[run] - 1
    behind = np.append(borders, len(order))[run]
    padded = np.append(order, -1)  # which is also what place -1 holds

    def distance(other: np.ndarray) -> np.ndarray:
        fits = (other >= 0) & (alone[other] == alone[order]) & (b_size[other] <= room[order])
        return np.where(fits, np.abs(b_size[other] - b_size[order]), _NONE)

    smaller, larger = padded[before], padded[behind]
    down, up = distance(smaller), distance(larger)
    nearest = np.where(up <= down, larger, smaller)
    found = np.full(len(chunks), -1)
    found[order] = np.where(np.minimum(up, down) < _NONE, nearest, -1)
    return found

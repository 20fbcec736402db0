"""Token ids that somebody gives: those that no vocabulary has are refused."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np


def check_ids(ids: Sequence[int] | np.ndarray, vocab_size: int) -> None:
    """Raises a ValueError that names the first id outside of [0, vocab_size).

    A model cannot raise: it makes NaN of such an id.
    """
    array = np.asarray(ids)
    wrong = array[(array < 0) | (array >= vocab_size)]
    if wrong.size:
        raise ValueError(f"token id {wrong[0]} is not in the vocabulary [0, {vocab_size})")

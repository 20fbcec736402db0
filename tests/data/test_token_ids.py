"""Ids that no vocabulary has are refused, whatever they come in."""

import numpy as np
import pytest

from transformer_jax.data.token_ids import check_ids


@pytest.mark.parametrize("make", [list, tuple, np.array])
def test_ids_outside_of_the_vocabulary_are_named(make):
    check_ids(make([0, 5, 9]), 10)
    check_ids(make([]), 10)
    for wrong in (10, -1):
        with pytest.raises(
            ValueError, match=rf"token id {wrong} is not in the vocabulary \[0, 10\)"
        ):
            check_ids(make([3, wrong, 4]), 10)

"""Aliases and the shape alphabet that every room shares.

Shapes in docstrings, einsums and trailing comments use these letters:

    B batch, T query length, S key length, N heads, H head size, D width,
    F feed-forward width, V vocabulary, L layers, K beams, P predictions of a row,
    E examples of a row, C classes
"""

from collections.abc import Callable, Mapping
from typing import Any

import jax

Array = jax.Array
Params = Mapping[str, Any]  # a nested dict of arrays, as flax makes it
Batch = Mapping[str, Any]  # arrays with the batch as their first axis
Metrics = Mapping[str, Any]
Terms = Mapping[str, tuple[Array, Array]]  # {name: (summed loss, its weight)}
Constrain = Callable[[Array], Array]  # fixes the layout of an activation [B,T,D]


def identity(x: Array) -> Array:
    """Leaves an activation where it is: the layout of a single device."""
    return x

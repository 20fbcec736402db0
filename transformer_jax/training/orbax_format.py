"""What makes a step's folder one that Orbax opens: the descriptions beside the arrays' files."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import jax.numpy as jnp

from transformer_jax.training.manifest import ArrayEntry, folder_of

_KEY_OF_A_DICT = 2  # orbax's code for it; its reader gives back trees of dicts


def descriptions(arrays: Mapping[str, ArrayEntry]) -> dict[str, bytes]:
    """The contents of a step's files that describe its arrays, by their names in its folder."""
    files = {f"{folder_of(name)}/.zarray": _json(_zarray(x)) for name, x in arrays.items()}
    trees: dict[str, dict[str, Any]] = {}
    for name, array in arrays.items():
        item, *path = name.split("/")
        trees.setdefault(item, {})[str(tuple(path))] = _leaf(path, array)
    for item, tree in trees.items():
        whole = {"tree_metadata": tree, "use_ocdbt": False, "use_zarr3": False}
        files[f"{item}/_METADATA"] = _json(whole)
    return files


def _zarray(array: ArrayEntry) -> dict[str, Any]:
    """As github.com/zarr-developers/zarr-specs, version 2, has it; bfloat16 as TensorStore has."""
    dtype = jnp.dtype(array.dtype)
    return {
        "chunks": array.part,
        "compressor": None,
        "dimension_separator": ".",
        "dtype": "bfloat16" if dtype == jnp.bfloat16 else dtype.str,
        "fill_value": None,
        "filters": None,
        "order": "C",
        "shape": array.shape,
        "zarr_format": 2,
    }


def _leaf(path: list[str], array: ArrayEntry) -> dict[str, Any]:
    keys = [{"key": key, "key_type": _KEY_OF_A_DICT} for key in path]
    # Of a jax.Array orbax wants to know the devices that it was on, and looks for them.
    value = {"value_type": "np.ndarray", "skip_deserialize": False, "write_shape": array.part}
    return {"key_metadata": keys, "value_metadata": value}


def _json(value: Any) -> bytes:
    return json.dumps(value).encode()

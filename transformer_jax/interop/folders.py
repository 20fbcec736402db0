"""The files of a Hugging Face folder: JSON and weights, in and out."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import safetensors
import safetensors.numpy

from transformer_jax.errors import UserError
from transformer_jax.files import write_whole
from transformer_jax.interop.torch_files import read_torch_file
from transformer_jax.parsing import check_regular, parse_json, read_regular

_LONGEST_HEADER = 100_000_000  # bytes, the limit of the format
WEIGHTS = ("model.safetensors", "pytorch_model.bin")


def read_json(path: Path) -> dict[str, Any]:
    """The object in a JSON file.

    Raises:
      UserError: the file is missing or damaged, or holds another thing.
    """
    try:
        data = parse_json(read_regular(path))
    except OSError as error:
        raise UserError(
            f"{path} cannot be read: {error.strerror}. A Hugging Face folder has a config.json."
        ) from error
    except ValueError as error:
        raise UserError(f"{path} is damaged: {error}.") from error
    if not isinstance(data, dict):
        raise UserError(f"{path} holds no JSON object.")
    return data


def read_weights(folder: Path) -> tuple[Path, dict[str, np.ndarray]]:
    """The file of the weights, and its tensors.

    Raises:
      UserError: there is none, or it is damaged.
    """
    paths = [folder / name for name in WEIGHTS]
    path = next((path for path in paths if path.exists()), None)
    if path is None:
        raise UserError(f"{folder} has no weights: neither {' nor '.join(WEIGHTS)}.")
    if path.suffix == ".bin":
        return path, read_torch_file(path)
    try:
        _check_header(path)
        return path, safetensors.numpy.load_file(path)
    except (safetensors.SafetensorError, OSError, ValueError, KeyError, AttributeError) as error:
        # AttributeError: a dtype that numpy does not have
        raise UserError(f"{path} is damaged, or of an unknown dtype: {error}.") from error


def _check_header(path: Path) -> None:
    """Raises a ValueError for what safetensors takes without a word, such as a name twice."""
    check_regular(path)
    with path.open("rb") as file:
        size = int.from_bytes(file.read(8), "little")
        if size > min(_LONGEST_HEADER, path.stat().st_size):
            raise ValueError(f"its header says that it has {size:,} bytes")
        parse_json(file.read(size))


def make_folder(folder: Path) -> None:
    """Makes a folder, unless it is there.

    Raises:
      UserError: it cannot be made.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"{folder} cannot be made: {error.strerror}.") from error


def write_json(path: Path, data: Mapping[str, Any]) -> None:
    """Writes an object at once; raises a UserError if that cannot be."""
    write_whole(path, (json.dumps(data, indent=2, sort_keys=True) + "\n").encode())


def write_weights(folder: Path, tensors: dict[str, np.ndarray]) -> None:
    """Writes tensors at once; raises a UserError if that cannot be."""
    write_whole(folder / WEIGHTS[0], safetensors.numpy.save(tensors, {"format": "pt"}))

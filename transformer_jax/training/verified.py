"""What is read of a step, once all processes have found it to be as it was written."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, TypeVar

import jax
import jax.numpy as jnp
from etils import epath

from transformer_jax.errors import UserError
from transformer_jax.parallel.agreement import any_text
from transformer_jax.parallel.sharding import path_of
from transformer_jax.training.differences import misfits
from transformer_jax.training.manifest import DamagedCheckpoint, Manifest, read_manifest
from transformer_jax.training.stored_arrays import read_arrays, verify_around

T = TypeVar("T")


def verified_manifest(folder: epath.Path, step: int) -> Manifest:
    """The manifest of a step's folder; all processes call it.

    Raises:
      DamagedCheckpoint: in all processes, if it is damaged in one.
    """
    return _together(lambda: read_manifest(folder, step))


def verified_items(folder: epath.Path, manifest: Manifest, items: dict[str, Any]) -> dict[str, Any]:
    """Some items of a step, such as its parameters; all processes call it.

    Args:
      folder: of the step.
      manifest: of it.
      items: trees of shapes with shardings, by their names.

    Raises:
      DamagedCheckpoint: in all processes, if a file is damaged that one needs.
      UserError: their arrays are not those of the manifest.
    """
    leaves, structure = jax.tree_util.tree_flatten_with_path(items)
    wanted = {path_of(path): leaf for path, leaf in leaves}
    there = {k: x for k, x in manifest.arrays.items() if k.partition("/")[0] in items}
    if problems := misfits(_described(wanted), _described(there)):
        raise UserError(
            f"{folder} is of another model or optimizer:\n  "
            + "\n  ".join(problems)
            + "\nTake back the change, or take a new --workdir."
        )
    found = verified_arrays(folder, manifest, wanted)
    return jax.tree.unflatten(structure, [found[name] for name in wanted])


def verified_arrays(
    folder: epath.Path, manifest: Manifest, wanted: Mapping[str, Any]
) -> dict[str, Any]:
    """Arrays of a step by name, as `read_arrays` has them; all processes call it.

    Each verifies the files that it reads.

    Raises:
      DamagedCheckpoint: in all processes, if a file is damaged that one needs.
    """

    def read() -> dict[str, Any]:
        if jax.process_index() == 0:
            verify_around(folder, manifest)
        return read_arrays(folder, manifest, wanted)

    return _together(read)


def _described(arrays: Mapping[str, Any]) -> dict[str, str]:
    return {name: f"{jnp.dtype(x.dtype).name}{list(x.shape)}" for name, x in arrays.items()}


def _together(read: Callable[[], T]) -> T:
    try:
        value = read()
    except DamagedCheckpoint as error:
        any_text(str(error))
        raise
    if message := any_text(""):
        raise DamagedCheckpoint(message)
    return value

"""The names of a run's classes, in its folder."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path

import jax

from transformer_jax.errors import UserError
from transformer_jax.files import write_whole
from transformer_jax.parsing import is_text, parse_json, read_regular

_LABELS = "labels.json"  # in a run's folder


def labels_of_run(workdir: Path, find: Callable[[], Sequence[str]]) -> tuple[str, ...]:
    """The classes of the run in `workdir`, which are found and stored there at its start.

    Args:
      workdir: the run's folder.
      find: finds them in the training data.

    Raises:
      UserError: of `find`; or the stored ones are damaged.
    """
    path = workdir / _LABELS
    # Before config.json is there, what lies in the folder may be of a start that failed.
    if (workdir / "config.json").exists() and path.exists():
        return _read_labels(path)
    labels = tuple(find())
    if jax.process_index() == 0:
        store_labels(labels, workdir)
    return labels


def store_labels(labels: Sequence[str], workdir: Path) -> None:
    """Writes the classes into the folder of a run."""
    write_whole(workdir / _LABELS, (json.dumps(labels) + "\n").encode())


def _read_labels(path: Path) -> tuple[str, ...]:
    try:
        labels = parse_json(read_regular(path))
        if not isinstance(labels, list) or not all(map(is_text, labels)):
            raise ValueError("it is no list of names")
        if len(set(labels)) < len(labels):
            raise ValueError("it has a name twice")
    except (OSError, ValueError) as error:
        raise UserError(
            f"{path} cannot be read: {error}. Restore it, or start a run in another --workdir."
        ) from error
    return tuple(labels)

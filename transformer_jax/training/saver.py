"""Saves in the background: files of arrays, then the manifest that finishes them; old steps go."""

from __future__ import annotations

import dataclasses
import itertools
import json
import math
import threading
from collections.abc import Callable, Mapping
from typing import Any

import jax
import numpy as np

from transformer_jax.errors import UserError
from transformer_jax.parallel.agreement import first_here, forget, tell, told
from transformer_jax.parallel.sharding import path_of
from transformer_jax.training.hashed_files import FileEntry
from transformer_jax.training.manifest import (
    DamagedCheckpoint,
    Manifest,
    read_manifest,
    write_manifest,
)
from transformer_jax.training.step_folders import StepFolders
from transformer_jax.training.stored_arrays import entries, parts_here, write_parts

BEST_METRIC = "valid_loss"
_LATE = 3600  # seconds that one process waits for what another has to write
_saves = itertools.count()  # the same in all processes, which save the same


class Saver:
    """Saves one step at a time; what goes wrong in one process is raised by `check` in all.

    Each process writes its part of the arrays; process 0 writes the manifest and removes old steps.
    """

    def __init__(self, folders: StepFolders, keep: int) -> None:
        self._folders = folders
        self._keep = keep
        self._damaged: set[int] = set()
        self._saved: int | None = None
        self._thread: threading.Thread | None = None
        self._failure: tuple[str, Exception] | None = None

    def save(self, unsealed: Manifest, items: Mapping[str, Any]) -> None:
        """Starts to save; returns as soon as the arrays may be overwritten.

        Args:
          unsealed: the manifest, without arrays and files. A step that was just saved is not saved
            again.
          items: trees of arrays, by the names of their folders.

        Raises:
          UserError: the save before failed.
        """
        self.wait()
        if unsealed.step == self._saved:
            return
        leaves = jax.tree_util.tree_leaves_with_path(dict(items))
        arrays = {path_of(path): array for path, array in leaves}
        unsealed = dataclasses.replace(unsealed, arrays=entries(arrays))
        self._thread = threading.Thread(
            target=self._save, args=(unsealed, parts_here(arrays), f"checkpoints/{next(_saves)}")
        )
        self._thread.start()

    def pass_over(self, step: int) -> None:
        """Says that a step is damaged: it does not count among the newest, and stays."""
        self._damaged.add(step)

    def check(self) -> None:
        """Raises what went wrong since it was last asked; cheap.

        Raises:
          UserError: the last save failed.
        """
        if self._failure is None:
            return
        (what, error), self._failure = self._failure, None
        if not isinstance(error, OSError | RuntimeError):  # RuntimeError: what another process said
            raise error
        steps = self._folders.steps()
        there = f"The newest finished step is {steps[-1]}" if steps else "No step is finished yet"
        raise UserError(
            f"{what} in {self._folders.folder}: {str(error) or repr(error)}. {there}. See to the "
            f"disk and its free space; then the same command goes on from there."
        ) from error

    def wait(self) -> None:
        """Waits for the save that is under way.

        Raises:
          UserError: it failed.
        """
        if self._thread is not None:
            self._thread.join()
        self.check()

    def _save(self, unsealed: Manifest, parts: Mapping[str, np.ndarray], key: str) -> None:
        step = unsealed.step
        what = f"Step {step} could not be saved"
        try:
            first_here(f"{key}/begin", lambda: self._folders.begin(step), _LATE)
            mine = _report(lambda: write_parts(self._folders.path(step), parts))
            tell(f"{key}/files/{jax.process_index()}", mine)
            first_here(f"{key}/seal", lambda: self._seal(unsealed, mine, key), _LATE)
            what = f"Step {step} was saved, but older ones could not be removed"
            first_here(f"{key}/prune", self._prune, _LATE)
            self._saved = step
        except Exception as error:
            self._failure = (what, error)

    def _seal(self, unsealed: Manifest, mine: str, key: str) -> None:
        files: dict[str, FileEntry] = {}
        for process in range(jax.process_count()):
            report = json.loads(told(f"{key}/files/{process}", _LATE) if process else mine)
            if "error" in report:
                raise OSError(
                    f"{report['error']} (process {process})" if process else report["error"]
                )
            files |= {name: FileEntry(*entry) for name, entry in report.items()}
        forget(f"{key}/files")
        folder = self._folders.path(unsealed.step)
        write_manifest(folder, dataclasses.replace(unsealed, files=files))
        self._folders.end(unsealed.step)
        self._damaged.discard(unsealed.step)

    def _prune(self) -> None:
        """Removes steps that are neither new nor the best; those known to be damaged stay."""
        found = {}
        for step in set(self._folders.steps()) - self._damaged:
            try:
                found[step] = read_manifest(self._folders.path(step), step)
            except DamagedCheckpoint:
                continue
        kept = {*sorted(found)[-self._keep :], best_of(found)}
        for step in found.keys() - kept:
            self._folders.remove(step)


def best_of(manifests: Mapping[int, Manifest]) -> int | None:
    """The step of the lowest validation loss; None if none was validated."""
    found = {s: m.metrics[BEST_METRIC] for s, m in manifests.items() if BEST_METRIC in m.metrics}
    # A diverged step is never the best.
    scored = [(loss if math.isfinite(loss) else math.inf, step) for step, loss in found.items()]
    return min(scored)[1] if scored else None


def _report(write: Callable[[], Mapping[str, FileEntry]]) -> str:
    """What a process wrote, for process 0, or why it could not."""
    try:
        return json.dumps({name: [file.bytes, file.sha256] for name, file in write().items()})
    except OSError as error:
        return json.dumps({"error": str(error) or repr(error)})

"""The folders of a run's steps: which are whole, which are being written, what is left over."""

from __future__ import annotations

import re
from collections.abc import Iterator

from etils import epath

from transformer_jax.training.hashed_files import write_file
from transformer_jax.training.manifest import NAME

_STEP = re.compile(r"0|[1-9][0-9]*")
_MARKER = ".unfinished"


class StepFolders:
    """Folders named by their steps, each with a manifest once it is finished.

    While one is written or removed, a file STEP.unfinished stands beside it. A folder with neither
    has lost its manifest: it counts as a step, so that whoever reads it is told.
    """

    def __init__(self, folder: epath.Path) -> None:
        self.folder = folder

    def path(self, step: int) -> epath.Path:
        """The folder of a step."""
        return self.folder / str(step)

    def steps(self) -> list[int]:
        """The steps in order, but for those that are being written or removed."""
        names = self._names()
        steps = [int(name) for name in names if _STEP.fullmatch(name)]
        return sorted(s for s in steps if f"{s}{_MARKER}" not in names or self.is_finished(s))

    def is_finished(self, step: int) -> bool:
        """Whether the step has a manifest."""
        return (self.path(step) / NAME).exists()

    def begin(self, step: int) -> None:
        """Marks a step as unfinished, and removes what there is of it."""
        write_file(self._marker(step), memoryview(b""))
        if self.path(step).exists():
            (self.path(step) / NAME).unlink(missing_ok=True)  # first, as it says finished
            self.path(step).rmtree()

    def end(self, step: int) -> None:
        """Takes the mark away."""
        self._marker(step).unlink(missing_ok=True)

    def remove(self, step: int) -> None:
        """Removes a step; if that is stopped half-way, what is left counts as unfinished."""
        self.begin(step)
        self.end(step)

    def clean_up(self) -> list[str]:
        """Removes what saves and removals left that were stopped; says so, one line each.

        Only for the one process that writes here.

        Raises:
          OSError: something cannot be removed.
        """
        return list(self._clean_up())

    def _clean_up(self) -> Iterator[str]:
        names = self._names()
        for name in sorted(names):
            step = name.removesuffix(_MARKER)
            if not name.endswith(_MARKER) or not _STEP.fullmatch(step):
                continue
            if step in names and not self.is_finished(int(step)):
                self.remove(int(step))
                yield f"removed {self.path(int(step))}, left over from a save that was stopped"
            self.end(int(step))

    def _names(self) -> set[str]:
        return {path.name for path in self.folder.iterdir()} if self.folder.is_dir() else set()

    def _marker(self, step: int) -> epath.Path:
        return self.folder / f"{step}{_MARKER}"

"""Checkpoints that Orbax can open: saved in the background, finished by a manifest, verified."""

from __future__ import annotations

import contextlib
import dataclasses
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import flax.traverse_util
import jax
from etils import epath

from transformer_jax.data.pipeline import DataState
from transformer_jax.errors import UserError
from transformer_jax.parallel.agreement import of_first
from transformer_jax.training.differences import fingerprint_differences, refusal
from transformer_jax.training.manifest import DamagedCheckpoint, Manifest, read_manifest, versions
from transformer_jax.training.saver import Saver, best_of
from transformer_jax.training.step import TrainState
from transformer_jax.training.step_folders import StepFolders
from transformer_jax.training.verified import (
    verified_arrays,
    verified_items,
    verified_manifest,
)
from transformer_jax.typing import Params


class Restored(NamedTuple):
    """What a run goes on from.

    Attributes:
      state: on the layouts that were asked for.
      position: where its data goes on.
      notes: what is wrong with newer steps, one line each.
    """

    state: TrainState
    position: DataState
    notes: list[str]


class Checkpoints:
    """The checkpoints of one run, under DIR/checkpoints/STEP/{params,rest,manifest.json}.

    The newest `keep` are kept, and the best one by validation loss. A step is finished when its
    manifest is there, which is written last; what is restored has been verified against it.

    Args:
      workdir: the run's folder, or where else its checkpoints go, perhaps gs://BUCKET/PATH.
      keep: newest steps that stay when another one is finished.
      config: the run's, as JSON, for the manifests.
      read_only: nothing will be saved; the folder must be there.
    """

    def __init__(
        self,
        workdir: str | os.PathLike[str],
        *,
        keep: int = 1,
        config: Any = None,
        read_only: bool = False,
    ) -> None:
        self.folder = _absolute(workdir) / "checkpoints"
        try:
            there = self.folder.is_dir()
        except ImportError as error:  # of the package that knows the store
            raise UserError(f"{workdir}: {error}") from error
        if read_only and not there:
            raise UserError(f"{workdir} has no checkpoints yet; train.py writes them there.")
        self._folders = StepFolders(self.folder)
        self._config = config
        self._saver = None if read_only else Saver(self._folders, keep)

    def clean_up(self) -> list[str]:
        """Removes what saves left here that were stopped; says so, one line each.

        Only for the one process that writes here.

        Raises:
          UserError: something cannot be removed.
        """
        try:
            return self._folders.clean_up()
        except OSError as error:
            raise UserError(
                f"What a stopped save left in {self.folder} cannot be removed: {error}. "
                f"Remove it by hand, or take a new --workdir."
            ) from error

    def steps(self) -> list[int]:
        """The steps in order; without those that are being saved, or whose save failed."""
        return self._folders.steps()

    def latest(self) -> int | None:
        """The newest step; None before the first save."""
        return max(self.steps(), default=None)

    def best(self) -> int | None:
        """The step of the lowest validation loss.

        Raises:
          DamagedCheckpoint: a manifest cannot be read, so that no one knows.
        """
        found = {}
        for step in self.steps():
            with self._naming_others(step):
                found[step] = self._manifest(step)
        return best_of(found)

    def config(self) -> Any:
        """The config, as JSON, of the newest step whose manifest can be read; None without one."""
        for step in reversed(self.steps()):
            with contextlib.suppress(DamagedCheckpoint):
                return read_manifest(self._folders.path(step), step).config
        return None

    def save(
        self,
        state: TrainState,
        data: DataState,
        fingerprint: Mapping[str, Any],
        metrics: Mapping[str, float],
    ) -> None:
        """Starts to save; returns as soon as the arrays may be overwritten.

        Args:
          state: nothing is done if its step was the last that this saved.
          data: where the data goes on.
          fingerprint: of the data.
          metrics: of the validation; empty if there was none: then it is never the best.

        Raises:
          UserError: this save or the one before failed.
        """
        unsealed = Manifest(
            step=int(state.step),
            versions=versions(),
            config=self._config,
            position=dataclasses.asdict(data),
            fingerprint=dict(fingerprint),
            metrics=dict(metrics),
            arrays={},
            files={},
        )
        self._writer().save(unsealed, _items(state))

    def check(self) -> None:
        """Raises what went wrong in the background; cheap, to be called after each update.

        Raises:
          UserError: the last save failed.
        """
        self._writer().check()

    def restore_newest(
        self, state: TrainState, fingerprint: Mapping[str, Any], allow: Sequence[str] = ()
    ) -> Restored | None:
        """Restores the newest step that is not damaged; None if there are no steps.

        All processes take the same one. Arguments and errors are those of `restore`.

        Raises:
          DamagedCheckpoint: all steps are damaged.
        """
        notes: list[str] = []
        step = self._newest(None)
        while step is not None:
            try:
                found, position = self.restore(step, state, fingerprint, allow)
            except DamagedCheckpoint as error:
                notes.append(str(error))
                self._writer().pass_over(step)
            else:
                notes += [f"went back to step {step}"] * bool(notes)
                return Restored(found, position, notes)
            step = self._newest(step)
        if notes:
            raise DamagedCheckpoint(
                f"{self.folder} has no step that can be restored:\n  "
                + "\n  ".join(notes)
                + "\nBring one back from a copy, or take a new --workdir."
            )
        return None

    def restore(
        self,
        step: int,
        state: TrainState,
        fingerprint: Mapping[str, Any],
        allow: Sequence[str] = (),
    ) -> tuple[TrainState, DataState]:
        """Restores a state of these shapes onto these layouts, and where the data went on.

        Args:
          step: one of `steps()`.
          state: a `TrainState` of `jax.ShapeDtypeStruct` with shardings.
          fingerprint: of the data that training is to go on with.
          allow: in what it may differ, see `config.fingerprint_differences`; training then goes on
            with the beginning of the next epoch.

        Raises:
          DamagedCheckpoint: a file is not as it was written; all processes raise it.
          UserError: the run was trained on other data, or on arrays of other shapes or dtypes.
        """
        manifest = self._manifest(step)
        before = manifest.fingerprint
        if changed := fingerprint_differences(before, fingerprint, allow):
            raise UserError(
                f"{self.folder} was trained on other data; it differs in{refusal(changed)}"
            )
        try:
            position = DataState(**manifest.position)
        except (TypeError, ValueError) as error:  # as no run of ours writes it
            raise DamagedCheckpoint(f"{self._folders.path(step)}: {error}") from error
        if fingerprint_differences(before, fingerprint):  # places in an epoch of other data
            position = DataState(position.epoch + 1)
        found = verified_items(self._folders.path(step), manifest, _items(state))
        return TrainState(params=found["params"], **found["rest"]), position

    def restore_params(self, step: int, params: Params) -> Params:
        """Restores the parameters alone onto the layouts of `params` (shapes with shardings).

        Raises:
          DamagedCheckpoint: a file of theirs is not as it was written.
          UserError: no such step, or parameters of other shapes or dtypes.
        """
        if step not in self.steps():
            raise UserError(
                f"{self.folder} has no step {step}; it has {', '.join(map(str, self.steps()))}."
            )
        with self._naming_others(step):
            folder = self._folders.path(step)
            return verified_items(folder, self._manifest(step), {"params": params})["params"]

    def read_params(self, step: int) -> Params:
        """The parameters of a step as numpy arrays, whatever model they are of.

        Raises:
          DamagedCheckpoint: a file of theirs is not as it was written.
        """
        with self._naming_others(step):
            manifest = self._manifest(step)
            stored = {k: v for k, v in manifest.arrays.items() if k.startswith("params/")}
            found = verified_arrays(self._folders.path(step), manifest, stored)
        return flax.traverse_util.unflatten_dict(found, sep="/")["params"]

    def average(self, steps: list[int], params: Params) -> Params:
        """The mean of the parameters of several steps (arXiv:1706.03762, section 6.1)."""
        total = self.restore_params(steps[0], params)
        for step in steps[1:]:
            total = jax.tree.map(jax.numpy.add, total, self.restore_params(step, params))
        return jax.tree.map(lambda x: x / len(steps), total)

    def close(self) -> None:
        """Waits for a save that is under way.

        Raises:
          UserError: it failed.
        """
        if self._saver is not None:
            self._saver.wait()

    def _writer(self) -> Saver:
        if self._saver is None:
            raise RuntimeError(f"{self.folder} was opened to be read")
        return self._saver

    def _newest(self, before: int | None) -> int | None:
        """The newest step, or the newest before another one, as process 0 sees it."""
        steps = [step for step in self.steps() if before is None or step < before]
        found = of_first(max(steps, default=-1))
        return None if found < 0 else found

    def _manifest(self, step: int) -> Manifest:
        return verified_manifest(self._folders.path(step), step)

    @contextlib.contextmanager
    def _naming_others(self, step: int) -> Iterator[None]:
        """Within it, the error of a damaged step says which other ones there are."""
        try:
            yield
        except DamagedCheckpoint as error:
            others = ", ".join(str(s) for s in self.steps() if s != step)
            advice = f"Other steps are there: {others}." if others else "There is no other step."
            raise DamagedCheckpoint(f"{error} {advice}", error.file, error.array) from error


def _items(state: TrainState) -> dict[str, Any]:
    """What the folders of a step hold: the parameters, and what only training needs."""
    rest = {f.name: getattr(state, f.name) for f in dataclasses.fields(state)}
    return {"params": rest.pop("params"), "rest": rest}


def _absolute(path: str | os.PathLike[str]) -> epath.Path:
    text = re.sub(r"^([a-z0-9]+):/+", r"\1://", str(path))  # of which a `Path` drops a slash
    return epath.Path(text if "://" in text else os.path.abspath(text))

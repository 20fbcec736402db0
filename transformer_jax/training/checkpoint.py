"""Checkpoints: asynchronous orbax saves, restored onto any mesh."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import absl.logging
import jax
import numpy as np
import orbax.checkpoint as ocp
from orbax.checkpoint.checkpoint_managers import AnyPreservationPolicy, BestN, LatestN

from transformer_jax.data.pipeline import DataState
from transformer_jax.errors import UserError
from transformer_jax.training.step import TrainState
from transformer_jax.typing import Params

BEST_METRIC = "valid_loss"


class Checkpoints:
    """The checkpoints of one run, under DIR/checkpoints/STEP/{params,rest,data}.

    The newest `keep` are kept, and the best one by validation loss.
    """

    def __init__(self, workdir: Path, *, keep: int = 1, read_only: bool = False) -> None:
        folder = workdir.absolute() / "checkpoints"
        if read_only and not folder.is_dir():
            raise UserError(f"{workdir} has no checkpoints yet; train.py writes them there.")
        absl.logging.set_verbosity(absl.logging.ERROR)  # orbax tells each step of a save
        # Uncompressed plain arrays: several times faster than the default on a local disk.
        arrays: dict[str, Any] = dict(use_ocdbt=False, use_compression=False)
        best = BestN(get_metric_fn=_valid_loss, reverse=True, n=1)
        self.folder = folder
        self._manager = ocp.CheckpointManager(
            folder,
            options=ocp.CheckpointManagerOptions(
                best_fn=_valid_loss,  # without it orbax writes no metrics
                best_mode="min",
                preservation_policy=AnyPreservationPolicy([LatestN(keep), best]),
                read_only=read_only,
                cleanup_tmp_directories=not read_only,
            ),
            item_handlers={
                "params": ocp.PyTreeCheckpointHandler(**arrays),
                "rest": ocp.PyTreeCheckpointHandler(**arrays),
                "data": ocp.JsonCheckpointHandler(),
            },
        )

    def steps(self) -> list[int]:
        """The steps that can be restored, in order."""
        return sorted(self._manager.all_steps())

    def latest(self) -> int | None:
        """The newest step; None before the first save."""
        return self._manager.latest_step()

    def best(self) -> int | None:
        """The step of the lowest validation loss."""
        infos = [(self._manager.metrics(step), step) for step in self.steps()]
        scored = [(_valid_loss(metrics), step) for metrics, step in infos if metrics]
        return min(scored)[1] if scored else None

    def save(
        self,
        state: TrainState,
        data: DataState,
        fingerprint: Mapping[str, Any],
        metrics: Mapping[str, float],
    ) -> None:
        """Starts to save; returns as soon as the arrays may be overwritten."""
        rest = {"step": state.step, "opt_state": state.opt_state}
        position = {"position": dataclasses.asdict(data), "fingerprint": dict(fingerprint)}
        self._manager.save(
            int(state.step),
            args=ocp.args.Composite(
                params=ocp.args.PyTreeSave(state.params),
                rest=ocp.args.PyTreeSave(rest),
                data=ocp.args.JsonSave(position),
            ),
            metrics=dict(metrics),
        )

    def restore(
        self, step: int, state: TrainState, fingerprint: Mapping[str, Any]
    ) -> tuple[TrainState, DataState]:
        """Restores a state of these shapes onto these layouts, and where the data went on.

        Args:
          step: one of `steps()`.
          state: a `TrainState` of `jax.ShapeDtypeStruct` with shardings.
          fingerprint: of the data that training is to go on with.

        Raises:
          UserError: the run was trained on other data, or on a model of other shapes.
        """
        rest = {"step": state.step, "opt_state": state.opt_state}
        found = self._restore(
            step, params=_as(state.params), rest=_as(rest), data=ocp.args.JsonRestore()
        )
        if found["data"]["fingerprint"] != dict(fingerprint):
            raise UserError(
                f"{self.folder} was trained on other data. Then: {found['data']['fingerprint']}. "
                f"Now: {dict(fingerprint)}. Give back the data, or take a new --workdir."
            )
        position = DataState(**found["data"]["position"])
        rest = found["rest"]
        return TrainState(rest["step"], found["params"], rest["opt_state"]), position

    def restore_params(self, step: int, params: Params) -> Params:
        """Restores the parameters alone onto the layouts of `params` (shapes with shardings)."""
        if step not in self.steps():
            raise UserError(
                f"{self.folder} has no step {step}; it has {', '.join(map(str, self.steps()))}."
            )
        return self._restore(step, params=_as(params))["params"]

    def read_params(self, step: int) -> Params:
        """The parameters of a step as numpy arrays, whatever model they are of."""
        shapes = self._manager.item_metadata(step)["params"].tree

        def as_numpy(_: Any) -> ocp.RestoreArgs:
            return ocp.RestoreArgs(restore_type=np.ndarray)

        found = ocp.args.PyTreeRestore(restore_args=jax.tree.map(as_numpy, shapes))
        return self._restore(step, params=found)["params"]

    def average(self, steps: list[int], params: Params) -> Params:
        """The mean of the parameters of several steps (arXiv:1706.03762, section 6.1)."""
        total = self.restore_params(steps[0], params)
        for step in steps[1:]:
            total = jax.tree.map(jax.numpy.add, total, self.restore_params(step, params))
        return jax.tree.map(lambda x: x / len(steps), total)

    def close(self) -> None:
        """Waits for saves that are under way."""
        self._manager.wait_until_finished()
        self._manager.close()

    def _restore(self, step: int, **items: Any) -> Any:
        try:
            return self._manager.restore(step, args=ocp.args.Composite(**items))
        except (ValueError, KeyError, OSError) as error:
            raise UserError(
                f"{self.folder / str(step)} cannot be restored; it is damaged, or of a model of "
                f"other shapes: {error}"
            ) from error


def _valid_loss(metrics: Mapping[str, float]) -> float:
    loss = metrics[BEST_METRIC]
    return loss if math.isfinite(loss) else math.inf  # a diverged step is never the best


def _as(shapes: Any) -> ocp.args.PyTreeRestore:
    return ocp.args.PyTreeRestore(
        item=shapes, restore_args=ocp.checkpoint_utils.construct_restore_args(shapes)
    )

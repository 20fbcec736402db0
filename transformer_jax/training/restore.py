"""A run's model and parameters from its folder, on whatever devices there are."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import jax
from jax.sharding import Mesh

from transformer_jax.errors import UserError
from transformer_jax.layers.kernels import FUSED
from transformer_jax.parallel.mesh import MeshConfig, make_mesh
from transformer_jax.parallel.sharding import shardings, with_layout
from transformer_jax.tasks.task import Task
from transformer_jax.training.checkpoint import Checkpoints
from transformer_jax.training.config import ExperimentConfig
from transformer_jax.training.loop import build_task
from transformer_jax.typing import Params


@dataclasses.dataclass(frozen=True)
class RestoredRun:
    """A run to use: its task, its parameters on a mesh, and which steps these are the mean of."""

    task: Task
    params: Params
    mesh: Mesh
    steps: list[int]


def restore_run(
    config: ExperimentConfig, workdir: Path, *, step: str = "latest", average: int | None = None
) -> RestoredRun:
    """Restores a run's parameters.

    Args:
      config: the run's.
      workdir: the run's folder.
      step: "latest", "best" (by validation loss), or a number.
      average: mean of so many newest checkpoints, up to and with `step`; None: as the config says,
        but for one named step or the best one, which stand alone.

    Raises:
      UserError: no checkpoint, or no such step.
    """
    if jax.process_count() > 1:
        raise UserError("A trained model is used in one process; start it on one host alone.")
    if average is not None and not 1 <= average <= config.train.keep:
        raise UserError(f"--average {average}: this run keeps 1 to {config.train.keep} steps.")
    checkpoints = Checkpoints(config.train.checkpoint_dir or workdir, read_only=True)
    last = _find_step(checkpoints, step)
    if average is None:
        average = config.train.average_last if step == "latest" else 1
    steps = [s for s in checkpoints.steps() if s <= last][-average:]

    mesh = make_mesh(_fitting(config.mesh))
    rows = dataclasses.replace(config.train, batch_size=jax.device_count() * 8, microbatches=1)
    model = _for_any_length(config.model)
    task = build_task(dataclasses.replace(config, train=rows, model=model), workdir, mesh)
    shapes = jax.eval_shape(task.init_params, jax.random.key(0))
    layout = shardings(shapes, mesh, task.sharding_rules)
    params = checkpoints.average(steps, jax.tree.map(with_layout, shapes, layout))
    checkpoints.close()
    return RestoredRun(task, params, mesh, steps)


def _find_step(checkpoints: Checkpoints, step: str) -> int:
    if step in ("latest", "best"):
        found = checkpoints.latest() if step == "latest" else checkpoints.best()
        if found is None:
            raise UserError(f"{checkpoints.folder} has no finished checkpoint.")
        return found
    if not step.isdigit() or int(step) not in checkpoints.steps():
        there = ", ".join(map(str, checkpoints.steps()))
        raise UserError(f"--step {step}: {checkpoints.folder} has latest, best, {there}.")
    return int(step)


def _for_any_length(model: Any) -> Any:
    """The config of a model that is used, on rows of all lengths, which fused kernels refuse."""
    if getattr(model, "attention", None) in FUSED:
        return dataclasses.replace(model, attention="chunked")
    return model


def _fitting(mesh: MeshConfig) -> MeshConfig:
    """The run's mesh where the devices that are here allow it; else copies of the model.

    Rows stay whole: those of use are of all lengths.
    """
    if jax.device_count() % (mesh.fsdp * mesh.model):
        return MeshConfig()
    return MeshConfig(fsdp=mesh.fsdp, model=mesh.model)

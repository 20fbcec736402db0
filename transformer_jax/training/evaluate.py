"""Evaluation of a run from its folder, on whatever devices there are."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import jax

from transformer_jax.errors import UserError
from transformer_jax.parallel.mesh import MeshConfig, make_mesh
from transformer_jax.parallel.sharding import shardings
from transformer_jax.training.checkpoint import Checkpoints
from transformer_jax.training.config import ExperimentConfig
from transformer_jax.training.loop import build_task, make_mean_loss, with_layout


def evaluate(
    config: ExperimentConfig,
    workdir: Path,
    *,
    split: str = "test",
    step: str = "latest",
    average: int | None = None,
    data_path: str | None = None,
) -> tuple[dict[str, Any], str]:
    """Restores a run's parameters and evaluates them on a split.

    Args:
      config: the run's.
      workdir: the run's folder.
      split: train, valid or test.
      step: "latest", "best" (by validation loss), or a number.
      average: mean of so many newest checkpoints, up to and with `step`; None: as the config says,
        but for one named step or the best one, which stand alone.
      data_path: where the data is now, in place of the config's.

    Returns:
      The metrics, and a report to read.

    Raises:
      UserError: no checkpoint, no such step, no such split.
    """
    if jax.process_count() > 1:
        raise UserError("Evaluation runs in one process; start it on one host alone.")
    if split not in ("train", "valid", "test"):
        raise UserError(f"--split {split!r} is none of train, valid, test.")
    if average is not None and not 1 <= average <= config.train.keep:
        raise UserError(f"--average {average}: this run keeps 1 to {config.train.keep} steps.")
    if data_path is not None and not hasattr(config.data, "path"):
        raise UserError("--data.path: the data of this run has no path.")
    if data_path is not None:
        config = dataclasses.replace(config, data=dataclasses.replace(config.data, path=data_path))
    checkpoints = Checkpoints(workdir, read_only=True)
    last = _find_step(checkpoints, step)
    if average is None:
        average = config.train.average_last if step == "latest" else 1
    steps = [s for s in checkpoints.steps() if s <= last][-average:]

    mesh = make_mesh(_fitting(config.mesh))
    config = dataclasses.replace(
        config, train=dataclasses.replace(config.train, batch_size=jax.device_count() * 8)
    )
    task = build_task(config, workdir, mesh)
    shapes = jax.eval_shape(task.init_params, jax.random.key(0))
    layout = shardings(shapes, mesh, task.sharding_rules)
    params = checkpoints.average(steps, jax.tree.map(with_layout, shapes, layout))
    checkpoints.close()

    metrics: dict[str, Any] = {"step": last, "split": split, "averaged": len(steps)}
    metrics |= make_mean_loss(task, mesh)(params, split)
    found = task.evaluate(params, split)
    metrics |= found.metrics
    return metrics, found.report


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


def _fitting(mesh: MeshConfig) -> MeshConfig:
    """The run's mesh where the devices that are here allow it; else copies of the model."""
    if jax.device_count() % (mesh.fsdp * mesh.model):
        return MeshConfig()
    return MeshConfig(fsdp=mesh.fsdp, model=mesh.model)

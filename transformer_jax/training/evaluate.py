"""Evaluation of a run from its folder."""

from __future__ import annotations

import dataclasses
from pathlib import Path

from jax.sharding import Mesh

from transformer_jax.data.sources import SPLITS
from transformer_jax.errors import UserError
from transformer_jax.tasks.task import Evaluation, Task
from transformer_jax.training.config import ExperimentConfig
from transformer_jax.training.loop import make_mean_loss, make_terms
from transformer_jax.training.restore import restore_run
from transformer_jax.typing import Params


def evaluate(
    config: ExperimentConfig,
    workdir: Path,
    *,
    split: str = "test",
    step: str = "latest",
    average: int | None = None,
    data_path: str | None = None,
) -> Evaluation:
    """Restores a run's parameters and evaluates them on a split.

    Args:
      config: the run's.
      workdir: the run's folder.
      split: train, valid or test.
      step: which checkpoint, see `restore_run`.
      average: mean of how many checkpoints, see `restore_run`.
      data_path: where the data is now, in place of the config's.

    Returns:
      What `evaluate_task` found, and which step and split it is of.

    Raises:
      UserError: no checkpoint, no such step, no such split.
    """
    if data_path is not None:
        if not hasattr(config.data, "path"):
            raise UserError("--data.path: the data of this run has no path.")
        config = dataclasses.replace(config, data=dataclasses.replace(config.data, path=data_path))
    run = restore_run(config, workdir, step=step, average=average)
    found = evaluate_task(run.task, run.params, run.mesh, split)
    of = {"step": run.steps[-1], "split": split, "averaged": len(run.steps)}
    return dataclasses.replace(found, metrics=of | dict(found.metrics))


def evaluate_task(task: Task, params: Params, mesh: Mesh, split: str) -> Evaluation:
    """What the task finds of a split, with the mean loss among the metrics."""
    if split not in SPLITS:
        raise UserError(f"--split {split!r} is none of {', '.join(SPLITS)}.")
    means = make_mean_loss(task, mesh, make_terms(task))(params, split)
    found = task.evaluate(params, split)
    return dataclasses.replace(found, metrics=means | dict(found.metrics))

"""What training starts from: fresh parameters, or those of another run."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import jax
import numpy as np

from transformer_jax.errors import UserError
from transformer_jax.interop.bert import PretrainedBert
from transformer_jax.interop.huggingface import is_pretrained, load_pretrained
from transformer_jax.parallel.sharding import path_of
from transformer_jax.tasks.task import Task
from transformer_jax.training.checkpoint import Checkpoints
from transformer_jax.training.differences import misfits
from transformer_jax.typing import Params


def starting_params(task: Task, fresh: Params, init_from: str | None) -> Params:
    """The fresh parameters, or in their layout those of the run in the folder `init_from`.

    `init_from` may also be a Hugging Face folder, whose encoder is then taken. A task whose
    parameters are made of another's, as a student's are of its teacher's, has a method
    `adopt_params(params, fresh) -> params` besides those of `Task`.

    Raises:
      UserError: there is no such run or folder, its parameters do not fit, or the task needs one.
    """
    adopt = getattr(task, "adopt_params", None)
    if init_from is None:
        if adopt is not None:
            raise UserError(
                f"{type(task).__name__} starts from the parameters of another run. Name its folder "
                f"with --train.init_from."
            )
        return fresh
    found, where = _read_params(init_from)
    params = found if adopt is None else adopt(found, fresh)
    if problems := misfits(_shapes(fresh), _shapes(params)):
        raise UserError(
            f"--train.init_from {where}: its parameters are not those of this model:\n  "
            + "\n  ".join(problems)
            + "\nMake the models' sizes and heads agree."
        )
    return jax.tree.map(_placed, params, fresh)


def _read_params(init_from: str) -> tuple[Params, str]:
    """The parameters of a run's newest step, or of a Hugging Face folder; and where they are."""
    if is_pretrained(init_from):
        loaded = load_pretrained(init_from)
        is_encoder = isinstance(loaded, PretrainedBert) and loaded.kind == "encoder"
        return {"bert": loaded.params} if is_encoder else loaded.params, init_from
    checkpoints = Checkpoints(Path(init_from), read_only=True)
    step = checkpoints.latest()
    if step is None:
        raise UserError(f"--train.init_from {init_from} has no finished checkpoint.")
    found = checkpoints.read_params(step)
    checkpoints.close()
    return found, f"{init_from}, step {step}"


def _shapes(tree: Params) -> dict[str, tuple[int, ...]]:
    return {path_of(p): x.shape for p, x in jax.tree_util.tree_leaves_with_path(tree)}


def _placed(value: Any, like: jax.Array) -> jax.Array:
    return jax.device_put(np.asarray(value, like.dtype), like.sharding)

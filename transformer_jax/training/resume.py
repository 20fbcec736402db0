"""How a run begins: alone in its folder, as the run that it was, from its newest checkpoint."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import jax
import optax
from jax.sharding import Mesh

from transformer_jax.data.pipeline import DataState
from transformer_jax.errors import UserError
from transformer_jax.files import alone_in
from transformer_jax.parallel.distributed import one_process_first
from transformer_jax.parallel.hosts import check_alike
from transformer_jax.parallel.sharding import with_layout
from transformer_jax.tasks.task import Task
from transformer_jax.training.checkpoint import Checkpoints
from transformer_jax.training.config import ExperimentConfig, TrainConfig
from transformer_jax.training.config_json import read_json, to_json, write_config
from transformer_jax.training.differences import (
    check_allowed,
    differences,
    host_differences,
    refusal,
)
from transformer_jax.training.start import starting_params
from transformer_jax.training.step import TrainState, init_state, state_layout


@contextlib.contextmanager
def only_run_in(workdir: Path, config: ExperimentConfig) -> Iterator[None]:
    """Within it no other run writes the folder; process 0 sees to it for all of this run."""
    mine = to_json(config) | {"jax": jax.__version__}  # which compiles what they run together
    check_alike("their config", mine, host_differences)
    with contextlib.ExitStack() as held:
        with one_process_first(f"the folder {workdir}"):
            if jax.process_index() == 0:
                if re.match("[a-z0-9]+:/", str(workdir)):
                    raise UserError(
                        f"--workdir {workdir} must be a folder on a disk. Checkpoints alone may be "
                        f"in a store: --train.checkpoint_dir gs://BUCKET/PATH."
                    )
                try:
                    workdir.mkdir(parents=True, exist_ok=True)
                    held.enter_context(alone_in(workdir))
                except OSError as error:
                    message = f"--workdir {workdir} cannot be used: {error.strerror}."
                    raise UserError(message) from error
        yield


def open_checkpoints(workdir: Path, config: ExperimentConfig, allow: Sequence[str]) -> Checkpoints:
    """The checkpoints in the workdir, if it is new, or holds this very run."""
    path, now = workdir / "config.json", to_json(config)
    try:
        folder = config.train.checkpoint_dir or workdir
        checkpoints = Checkpoints(folder, keep=config.train.keep, config=now)
        if checkpoints.latest() is None:  # nothing was trained here, so nothing can be lost
            path.unlink(missing_ok=True)
    except OSError as error:
        raise UserError(f"--workdir {workdir} cannot be used: {error.strerror}.") from error
    kept = None if path.exists() else checkpoints.config()
    before = read_json(path) if path.exists() else kept or now
    check_allowed(allow, before, now)
    if changed := differences(before, now, allow):
        raise UserError(f"{workdir} holds another run; it differs in{refusal(changed)}")
    if kept is not None and jax.process_index() == 0:
        write_config(config, path)  # or the run's tokenizer would be taken for a left-over
    return checkpoints


def resume(
    task: Task,
    optimizer: optax.GradientTransformation,
    checkpoints: Checkpoints,
    settings: TrainConfig,
    mesh: Mesh,
    allow: Sequence[str],
) -> tuple[TrainState, DataState, Any, list[str]]:
    """The state to go on from, where its data goes on, the state's layout, and what to say."""

    def init(key: jax.Array) -> TrainState:
        return init_state(task.init_params(key), optimizer)

    key = jax.random.key(settings.seed)
    shapes = jax.eval_shape(init, key)
    layout = state_layout(shapes, mesh, task.sharding_rules)
    # All processes take the same step, which the removal of left-overs by one does not change.
    notes = checkpoints.clean_up() if jax.process_index() == 0 else []
    wanted = jax.tree.map(with_layout, shapes, layout)
    restored = checkpoints.restore_newest(wanted, task.fingerprint, allow)
    if restored is None:  # parameters are born where they are to live
        state = jax.jit(init, out_shardings=layout)(key)
        params = starting_params(task, state.params, settings.init_from)
        return state.replace(params=params), DataState(), layout, notes
    return restored.state, restored.position, layout, notes + restored.notes

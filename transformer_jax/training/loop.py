"""The training loop, from top to bottom: mesh, task, state, steps, checkpoints."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
import optax
from jax.sharding import Mesh

from transformer_jax.data.pipeline import DataState
from transformer_jax.parallel.distributed import host_slice, one_process_first
from transformer_jax.parallel.hosts import check_alike
from transformer_jax.parallel.mesh import make_mesh
from transformer_jax.parallel.sharding import (
    batch_sharding,
    check_batch_size,
    put_batch,
    replicated,
)
from transformer_jax.tasks.task import Task
from transformer_jax.training.config import ExperimentConfig, TrainConfig
from transformer_jax.training.config_json import write_config
from transformer_jax.training.differences import fingerprint_differences
from transformer_jax.training.metrics import Clock, Display, MetricsLog
from transformer_jax.training.optimizer import make_optimizer
from transformer_jax.training.profile import Tracer
from transformer_jax.training.resume import only_run_in, open_checkpoints, resume
from transformer_jax.training.skip_watch import SkipWatch
from transformer_jax.training.step import TrainState, make_train_step
from transformer_jax.training.stopping import Stop, Stopped, heeding_signals
from transformer_jax.typing import Batch, Metrics, Params, Terms


class Programs(NamedTuple):
    """What is compiled for a run: its step, and the terms of its loss without dropout."""

    train_step: Callable[[TrainState, Batch, jax.Array], tuple[TrainState, Metrics]]
    terms: Callable[[Params, Batch], Terms]


def train(
    config: ExperimentConfig,
    workdir: Path,
    *,
    profile: bool = False,
    programs: Programs | None = None,
    allow: Sequence[str] = (),
) -> tuple[Programs, dict[str, float]]:
    """Trains, or goes on training, the run in `workdir`.

    Args:
      config: the run. Where the workdir holds one already, they must agree in all that the result
        depends on.
      workdir: gets config.json, metrics.jsonl, tensorboard/, checkpoints/ and the task's files.
      profile: traces a few steps into workdir/profile, for TensorBoard or Perfetto.
      programs: those of a run that differs in nothing but its seed; None compiles them.
      allow: fields in which the config, or the data, may differ from the run in the workdir.

    Returns:
      What was compiled, and what the last validation of this start found; nothing if there was
      nothing left to do.

    Raises:
      UserError: bad data, a mesh that does not divide, a workdir of another run or in use by one,
        processes that differ, a save that failed, or too many skipped updates in a row.
      Stopped: by SIGTERM or Ctrl-C; the last step is saved.
    """
    with heeding_signals() as stop, only_run_in(workdir, config):
        return _train(config, workdir, profile, programs, allow, stop)


def _train(
    config: ExperimentConfig,
    workdir: Path,
    profile: bool,
    programs: Programs | None,
    allow: Sequence[str],
    stop: Stop,
) -> tuple[Programs, dict[str, float]]:
    # Act 1: the devices, the task on them, and its state, restored or fresh.
    settings = config.train
    mesh = make_mesh(config.mesh)
    rows = settings.batch_size // settings.microbatches
    check_batch_size(rows, mesh, "train.batch_size / train.microbatches")
    checkpoints = open_checkpoints(workdir, config, allow)
    with one_process_first("its data and its tokenizer"):
        task = build_task(config, workdir, mesh)
        summary = task.summary  # reads the data: what is bad there shows before this is a run
    check_alike("their data", dict(task.fingerprint), fingerprint_differences)
    host, hosts = host_slice(mesh)
    optimizer = make_optimizer(config.optimizer, settings.steps)
    state, position, layout, notes = resume(task, optimizer, checkpoints, settings, mesh, allow)
    first_step = int(state.step)
    last_step = min(settings.steps, settings.stop_at or settings.steps)

    # Act 2: the step and the validation, compiled for that layout.
    programs = programs or make_programs(task, optimizer, settings, mesh, layout)
    mean_loss = make_mean_loss(task, mesh, programs.terms)
    schedule = config.optimizer.schedule.build(settings.steps)
    # Initial parameters are threefry's on every layout; dropout's bits are the config's choice.
    dropout_key = jax.random.key(settings.seed, impl=settings.dropout_bits)

    # Act 3: one step after the other.
    quiet = jax.process_index() != 0  # one process speaks and writes for all
    if not quiet:
        write_config(config, workdir / "config.json")
    display = Display(first_step, last_step, quiet=quiet)
    display.say(f"{summary}\nmesh {dict(mesh.shape)}, {num_params(state.params):,} parameters")
    for note in notes:
        display.say(note)
    if first_step:
        nothing = ": nothing left to do" if first_step >= last_step else ""
        display.say(f"restored step {first_step} of {last_step}{nothing}")
    log = MetricsLog(workdir, resumed_at=first_step, quiet=quiet)
    clock = Clock(first_step, last_step)
    watch = SkipWatch(workdir, settings.max_skipped, int(state.guard.skipped), display.say)
    valid: dict[str, float] = {}
    tracer = Tracer(workdir / "profile", _profiled(first_step, last_step) if profile else range(0))
    try:
        batches = task.train_batches(position, host, hosts)
        for step, batch, position in _numbered(batches, first_step, last_step):
            with jax.set_mesh(mesh), tracer.step(step):
                state, metrics = programs.train_step(state, put_batch(batch, mesh), dropout_key)
            watch.look(step, batch, metrics)
            clock.count(task.count_tokens(batch) * hosts)
            checkpoints.check()
            stopped = stop.asked(f"step {step}", metrics)

            validates = step % settings.checkpoint_every == 0 or step == last_step
            if validates or step % settings.log_every == 0:
                watch.settle()  # before a save
                metrics = {name: float(value) for name, value in metrics.items()}
                metrics["learning_rate"] = float(schedule(int(metrics.pop("updates"))))
                metrics |= clock.lap(step)
                display.update(step, metrics)
                if validates:
                    with clock.paused():
                        valid = mean_loss(state.params, "valid", stop)
                        valid = {f"valid_{name}": value for name, value in valid.items()}
                        checkpoints.save(state, position, task.fingerprint, valid)
                    display.say(f"step {step}/{last_step}  {_line(valid)}  saving checkpoint")
                    metrics |= valid
                log.write(step, metrics)
            if stopped and not validates:
                checkpoints.save(state, position, task.fingerprint, {})
            if stop.agreed:
                raise Stopped(stop.agreed, step)
    finally:
        display.close()
        tracer.close()
        log.close()
        checkpoints.close()  # last, as it waits for saves, and raises what went wrong in them
    return programs, valid


def make_programs(
    task: Task,
    optimizer: optax.GradientTransformation,
    settings: TrainConfig,
    mesh: Mesh,
    layout: Any,
) -> Programs:
    """The run's programs; each is compiled when it is first called."""
    step = make_train_step(
        task.loss_terms,
        task.coefficients,
        optimizer,
        microbatches=settings.microbatches,
        copies=mesh if settings.sum_once else None,
        spike_sigmas=settings.spike_sigmas,
    )
    train_step = jax.jit(
        step,
        in_shardings=(layout, batch_sharding(mesh), replicated(mesh)),
        out_shardings=(layout, None),
        donate_argnums=0,
    )
    return Programs(train_step, make_terms(task))


def build_task(config: ExperimentConfig, workdir: Path, mesh: Mesh) -> Task:
    """Builds the config's task on a mesh."""
    return config.task.build(
        model=config.model,
        data=config.data,
        batch_size=config.train.batch_size,
        seed=config.train.seed,
        workdir=workdir,
        mesh=mesh,
    )


def make_terms(task: Task) -> Callable[[Params, Batch], Terms]:
    """The terms of a task's loss, without dropout, jitted."""
    return jax.jit(lambda params, batch: task.loss_terms(params, batch, None))


def make_mean_loss(
    task: Task, mesh: Mesh, terms: Callable[[Params, Batch], Terms]
) -> Callable[..., dict[str, float]]:
    """Makes `mean_loss(params, split) -> {"loss": ..., each term's mean}`, by `make_terms`.

    With a `Stop` as third argument it gives nothing where the run is to stop.
    """

    def mean_loss(params: Params, split: str, stop: Stop | None = None) -> dict[str, float]:
        total: dict[str, np.ndarray] = {}
        for batch in task.eval_batches(split, *host_slice(mesh)):
            if stop is not None and stop.agreed:
                return {}
            with jax.set_mesh(mesh):
                found = terms(params, put_batch(batch, mesh))
            if stop is not None:
                stop.asked(f"the evaluation on {split}", found)
            for name, pair in found.items():
                total[name] = total.get(name, np.zeros(2)) + np.asarray(pair, np.float64)
        means = {name: float(value / max(weight, 1e-9)) for name, (value, weight) in total.items()}
        return {"loss": sum(c * means[k] for k, c in task.coefficients.items())} | means

    return mean_loss


def _numbered(
    batches: Iterator[tuple[Batch, DataState]], first_step: int, last_step: int
) -> Iterator[tuple[int, Batch, DataState]]:
    """Each batch with the number of updates after it: first_step+1..last_step."""
    for number in range(first_step + 1, last_step + 1):
        batch, position = next(batches)
        yield number, batch, position


def _profiled(first_step: int, last_step: int) -> range:
    """Five steps, after the compilation if the run is long enough."""
    begin = max(min(first_step + 10, last_step - 4), first_step + 1)
    return range(begin, begin + 5)


def num_params(params: Params) -> int:
    """Number of parameters in a tree."""
    return sum(x.size for x in jax.tree.leaves(params))


def _line(metrics: dict[str, float]) -> str:
    return "  ".join(f"{name} {value:.3f}" for name, value in metrics.items())

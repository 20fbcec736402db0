"""What a config file returns: one frozen dataclass with everything that a run depends on."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any, Literal

from transformer_jax.parallel.mesh import MeshConfig
from transformer_jax.training.optimizer import OptimizerConfig


@dataclasses.dataclass(frozen=True)
class TrainConfig:
    """The loop.

    Attributes:
      steps: updates of the whole run, the horizon of the schedule.
      init_from: folder of a run whose newest parameters this one starts from, in place of random
        ones; its optimizer's state stays behind. Or a Hugging Face folder: an encoder to fine-tune,
        or with its pretraining heads to go on with.
      stop_at: ends this start of the run after that many updates; the horizon stays.
      batch_size: rows of a batch over all devices.
      microbatches: parts that a batch is cut into to save memory.
      sum_once: copies of the model (mesh.data) add up their gradients once, after the last
        microbatch, in float32; else after each microbatch and, for products in bfloat16 on TPUs, in
        bfloat16. Dropout's bits are then others for each number of copies. Goes with one axis of
        the mesh more.
      seed: initial parameters, dropout, order of the data.
      log_every: updates between two lines of metrics.
      checkpoint_every: updates between two validations, each with a checkpoint after it.
      checkpoint_dir: where checkpoints/ is, if not in the workdir, such as gs://BUCKET/PATH or
        s3://BUCKET/PATH (for which gcsfs or s3fs must be installed).
      keep: newest checkpoints that are kept; the best by validation loss is kept too.
      average_last: newest checkpoints whose mean is evaluated.
      spike_sigmas: skips an update whose loss or gradient norm is so many standard deviations above
        the mean of the last 128, once there are 64; OLMo's value is 6. None skips none for that.
        What is not finite is always skipped.
      max_skipped: so many skipped updates in a row end the run and leave the last batch in the
        workdir; None: they never do.
      dropout_bits: generator of dropout's random bits. threefry draws the same on any layout of
        devices; rbg is cheaper.
    """

    steps: int = 100_000
    init_from: str | None = None
    stop_at: int | None = None
    batch_size: int = 128
    microbatches: int = 1
    sum_once: bool = False
    seed: int = 0
    log_every: int = 50
    checkpoint_every: int = 1000
    checkpoint_dir: str | None = None
    keep: int = 3
    average_last: int = 1
    spike_sigmas: float | None = None
    max_skipped: int | None = 20
    dropout_bits: Literal["threefry2x32", "rbg"] = "threefry2x32"

    def __post_init__(self) -> None:
        names = ("steps", "batch_size", "microbatches", "log_every", "checkpoint_every", "keep")
        for name in (*names, "average_last"):
            if getattr(self, name) < 1:
                raise ValueError(f"train.{name}={getattr(self, name)} must be at least 1.")
        for name in ("stop_at", "max_skipped"):
            if getattr(self, name) is not None and getattr(self, name) < 1:
                raise ValueError(f"train.{name}={getattr(self, name)} must be at least 1.")
        if self.spike_sigmas is not None and not self.spike_sigmas > 0:
            raise ValueError(f"train.spike_sigmas={self.spike_sigmas} must be positive.")
        if self.batch_size % self.microbatches:
            raise ValueError(
                f"train.microbatches={self.microbatches} must divide "
                f"train.batch_size={self.batch_size}."
            )
        if self.init_from is not None and Path(self.init_from).is_dir():
            object.__setattr__(self, "init_from", str(Path(self.init_from).resolve()))
        if self.average_last > self.keep:
            raise ValueError(
                f"train.average_last={self.average_last} needs train.keep to be as large; "
                f"it is {self.keep}."
            )


@dataclasses.dataclass(frozen=True)
class ExperimentConfig:
    """A run: what is trained, on what, how, and where.

    Attributes:
      task: settings of the task; a `TaskConfig`.
      model: sizes of the model, as the task wants them.
      data: where the data is, as the task wants it.
      optimizer: optimizer and learning rate.
      train: the loop.
      mesh: the devices.
    """

    task: Any
    model: Any
    data: Any
    optimizer: OptimizerConfig = OptimizerConfig()
    train: TrainConfig = TrainConfig()
    mesh: MeshConfig = MeshConfig()

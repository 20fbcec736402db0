"""Reads a config file, and changes its config by typed command-line flags."""

from __future__ import annotations

import dataclasses
import importlib.util
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import tyro

from transformer_jax.errors import UserError
from transformer_jax.parallel.distributed import DistributedConfig
from transformer_jax.training.config import ExperimentConfig


def load_config(path: Path) -> ExperimentConfig:
    """Runs a config file and returns what its get_config() gives.

    Raises:
      UserError: there is no such file, or it has no get_config.
    """
    if not path.is_file():
        near = sorted(p.name for p in path.parent.glob("*.py")) if path.parent.is_dir() else []
        there = f" {path.parent} has {', '.join(near)}." if near else ""
        raise UserError(f"--config {path} does not exist.{there}")
    spec = importlib.util.spec_from_file_location(f"config_{path.stem}", path)
    if spec is None or spec.loader is None:
        raise UserError(f"--config {path} is not a Python file.")
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # dataclasses look their module up
    folder = str(path.resolve().parent)
    if folder not in sys.path:  # as for a script: it may import its neighbours
        sys.path.insert(0, folder)
    try:
        spec.loader.exec_module(module)
        get_config = getattr(module, "get_config", None)
        config = get_config() if callable(get_config) else None
    except ValueError as error:  # a value that a config's own check refuses
        raise UserError(f"--config {path}: {error}") from error
    if not isinstance(config, ExperimentConfig):
        raise UserError(f"--config {path} must define get_config() -> ExperimentConfig.")
    return config


@dataclasses.dataclass(frozen=True)
class RunArgs:
    """What a start of a run has besides its config.

    Attributes:
      workdir: folder of the run: its config, tokenizer, metrics and checkpoints.
      profile: trace a few steps into WORKDIR/profile.
      seeds: train so many runs that differ in their seed, in WORKDIR/seed_0, seed_1, ...
      allow: fields, with commas between, in which a run that goes on may differ from what it was:
        model.dropout_rate,optimizer.schedule. `data` is the data itself too.
      distributed: how the processes of the run find one another.
    """

    workdir: Path
    profile: bool = False
    seeds: int | None = None
    allow: str = ""
    distributed: DistributedConfig = DistributedConfig()

    @property
    def allowed(self) -> tuple[str, ...]:
        """The names in `allow`."""
        return tuple(name.strip() for name in self.allow.split(",") if name.strip())


def parse_overrides(
    config: ExperimentConfig, argv: Sequence[str], description: str
) -> tuple[RunArgs, ExperimentConfig]:
    """Parses --workdir, --profile and one flag for each field of the config.

    A wrong flag or value ends the program with a message that names it, and --help with a list.
    """

    def command(
        run: Annotated[RunArgs, tyro.conf.arg(name="")],
        config: Annotated[ExperimentConfig, tyro.conf.arg(name="")] = config,
    ) -> tuple[RunArgs, ExperimentConfig]:
        return run, config

    return tyro.cli(
        command,
        args=list(argv),
        prog="train.py --config FILE",
        description=description,
        config=(tyro.conf.AvoidSubcommands,),
    )


def change_config(
    config: ExperimentConfig, argv: Sequence[str], prog: str, description: str
) -> ExperimentConfig:
    """Parses one flag for each field of the config, and nothing else; as `parse_overrides`."""

    def command(
        config: Annotated[ExperimentConfig, tyro.conf.arg(name="")] = config,
    ) -> ExperimentConfig:
        return config

    return tyro.cli(
        command,
        args=list(argv),
        prog=prog,
        description=description,
        config=(tyro.conf.AvoidSubcommands,),
    )

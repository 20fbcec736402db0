"""Trains a run: `python train.py --config configs/NAME.py --workdir DIR [overrides]`."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from transformer_jax.cli.config_file import RunArgs, load_config, parse_overrides
from transformer_jax.cli.pretrained_sizes import with_sizes
from transformer_jax.errors import UserError
from transformer_jax.parallel.distributed import initialize
from transformer_jax.training.config import ExperimentConfig
from transformer_jax.training.loop import train
from transformer_jax.training.seeds import seed_folders, spread, spread_table, train_seeds

USAGE = """usage: train.py --config FILE --workdir DIR [overrides]

Trains what the config file describes, or goes on where the run in DIR stopped.
`train.py --config FILE --help` lists every override."""


def main(argv: Sequence[str] | None = None) -> int:
    """Parses the command line and trains.

    Returns:
      0; 1 after an error of the user's; 2 without a config; 130 after Ctrl-C.
    """
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    parser.add_argument("--config", type=Path)
    known, overrides = parser.parse_known_args(argv)
    if known.config is None:
        wants_help = {"-h", "--help"} & set(overrides)
        print(USAGE, file=sys.stdout if wants_help else sys.stderr)
        return 0 if wants_help else 2
    try:
        run, config = parse_overrides(load_config(known.config), overrides, __doc__ or "")
        initialize(run.distributed)
        if run.seeds is None:
            train(with_sizes(config, run.workdir), run.workdir, profile=run.profile)
        else:
            _train_seeds(config, run)
    except UserError as error:
        print(f"train.py: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("\ntrain.py: stopped; the same command goes on from the last checkpoint.")
        return 130
    return 0


def _train_seeds(config: ExperimentConfig, run: RunArgs) -> None:
    if run.seeds is None or run.seeds < 1 or run.profile:
        raise UserError(f"--seeds {run.seeds} must be at least 1, and goes without --profile.")
    before = seed_folders(run.workdir)
    config = with_sizes(config, before[0] if before else run.workdir)
    results = train_seeds(config, run.workdir, run.seeds)
    if all(results):
        print(spread_table(spread(results)))
    else:
        print(f"some were finished before; `eval.py --workdir {run.workdir}` compares all")

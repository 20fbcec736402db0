"""Trains a run: `python train.py --config configs/NAME.py --workdir DIR [overrides]`."""

from __future__ import annotations

import argparse
import sys
import traceback
from collections.abc import Sequence
from pathlib import Path
from typing import NoReturn

from transformer_jax.cli.config_file import RunArgs, load_config, parse_overrides
from transformer_jax.cli.ending import end_process
from transformer_jax.cli.pretrained_sizes import with_sizes
from transformer_jax.errors import UserError
from transformer_jax.parallel import hosts, watch
from transformer_jax.parallel.distributed import initialize
from transformer_jax.training.config import ExperimentConfig
from transformer_jax.training.loop import train
from transformer_jax.training.seeds import seed_folders, spread, spread_table, train_seeds
from transformer_jax.training.stopping import Stopped

USAGE = """usage: train.py --config FILE --workdir DIR [overrides]

Trains what the config file describes, or goes on where the run in DIR stopped.
`train.py --config FILE --help` lists every override."""


def main(argv: Sequence[str] | None = None) -> int:
    """Parses the command line and trains.

    Returns:
      0; 1 after an error of the user's; 2 without a config; 128 and the signal's number where one
      stopped the run, 130 after Ctrl-C. Of several processes, one that fails ends all.
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
            config = with_sizes(config, run.workdir)
            train(config, run.workdir, profile=run.profile, allow=run.allowed)
        else:
            _train_seeds(config, run)
    except UserError as error:
        return _fail(1, str(error))
    except Stopped as stopped:
        if stopped.step is None:
            return _fail(128 + stopped.signal, str(stopped))
        if hosts.rank() == 0:
            print(f"train.py: {stopped}", flush=True)
        return 128 + stopped.signal
    except KeyboardInterrupt:
        return _fail(130, "stopped; the same command goes on from the last checkpoint.")
    except Exception as error:
        if not hosts.several():
            raise
        if reason := watch.cut_off(error):
            return _fail(watch.UNFINISHED, reason)
        traceback.print_exc()
        return _fail(1, f"{type(error).__name__}: {error}")
    return 0


def program() -> NoReturn:
    """The command: `main`, and the end of its process."""
    end_process(main())


def _fail(code: int, reason: str) -> int:
    """Says why this process ends, to the others of a run too."""
    print(f"train.py: {reason}", file=sys.stderr)
    watch.leave(code, reason)
    return code


def _train_seeds(config: ExperimentConfig, run: RunArgs) -> None:
    if run.seeds is None or run.seeds < 1 or run.profile:
        raise UserError(f"--seeds {run.seeds} must be at least 1, and goes without --profile.")
    before = seed_folders(run.workdir)
    config = with_sizes(config, before[0] if before else run.workdir)
    results = train_seeds(config, run.workdir, run.seeds, run.allowed)
    if all(results):
        print(spread_table(spread(results)))
    else:
        print(f"some were finished before; `eval.py --workdir {run.workdir}` compares all")

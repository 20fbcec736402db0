"""Evaluates a run: `python eval.py --workdir DIR [--split test]`."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from transformer_jax.cli.run_config import read_run_config
from transformer_jax.errors import UserError
from transformer_jax.training.curves import draw_loss
from transformer_jax.training.evaluate import evaluate
from transformer_jax.training.metrics import to_line
from transformer_jax.training.seeds import seed_folders, spread, spread_table


def main(argv: Sequence[str] | None = None) -> int:
    """Restores, evaluates, prints; the last line on stdout is one JSON object.

    Returns:
      0; 1 after an error of the user's.
    """
    parser = argparse.ArgumentParser(prog="eval.py", description=__doc__)
    parser.add_argument(
        "--workdir",
        type=Path,
        required=True,
        help="folder of the run, or of runs with several seeds",
    )
    parser.add_argument("--split", default="test", help="train, valid or test")
    parser.add_argument(
        "--step", default="latest", help="a step, latest, or best: by validation loss"
    )
    parser.add_argument(
        "--average", type=int, help="newest checkpoints to average; default: as the config says"
    )
    parser.add_argument("--config", type=Path, help="a config file whose classes are your own")
    parser.add_argument("--data.path", dest="data_path", help="where the data is now")
    args = parser.parse_args(argv)
    folders = seed_folders(args.workdir)
    try:
        found = [_evaluate(folder, args) for folder in folders or [args.workdir]]
    except UserError as error:
        print(f"eval.py: {error}", file=sys.stderr)
        return 1
    if folders:
        print(spread_table(spread(found)))
        print(to_line(spread(found)))
    return 0


def _evaluate(workdir: Path, args: argparse.Namespace) -> dict[str, Any]:
    """Evaluates one run, and prints and writes what is found."""
    metrics, report = evaluate(
        read_run_config(workdir, args.config),
        workdir,
        split=args.split,
        step=args.step,
        average=args.average,
        data_path=args.data_path,
    )
    print(report, end="\n\n")
    line = to_line(metrics)
    try:
        (workdir / f"eval_{args.split}.txt").write_text(report + "\n", encoding="utf-8")
        (workdir / f"eval_{args.split}.json").write_text(line + "\n", encoding="utf-8")
        curve = draw_loss(workdir)
        print(f"loss curve: {curve}" if curve else "no metrics.jsonl, so no loss curve")
    except OSError as error:  # another's run, read-only: the result is printed all the same
        print(f"eval.py: {workdir} was not written: {error.strerror}.", file=sys.stderr)
    print(line)
    return metrics

"""Writes a run, or a checkpoint of fairseq or Google, as a folder that `transformers` loads.

`python -m transformer_jax.cli.export --model DIR --output FOLDER`

With --report, which needs no --output, there is a line for each tensor of a BERT: ok, left out (the
model has no place for it), missing, misshapen or unknown; with the last three nothing is written.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from transformer_jax.cli.model_folder import open_pretrained
from transformer_jax.errors import UserError
from transformer_jax.interop.bert import PretrainedBert
from transformer_jax.interop.bert_saving import report
from transformer_jax.interop.huggingface import save_pretrained
from transformer_jax.interop.tensors import TensorsError


def main(argv: Sequence[str] | None = None) -> int:
    """Restores a run, writes the folder, reports.

    Returns:
      0; 1 after an error of the user's.
    """
    parser = argparse.ArgumentParser(
        prog="export", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--model", type=Path, required=True, help="a run of train.py, or another's model")
    add("--output", type=Path, help="folder to write")
    add("--step", help="a step, latest (default), or best")
    add("--average", type=int, help="newest checkpoints to average")
    add("--report", action="store_true", help="of a BERT: a line for each tensor")
    args = parser.parse_args(argv)
    if args.output is None and not args.report:
        parser.error("--output or --report is needed")
    try:
        _export(args)
    except UserError as error:
        print(f"export: {error}", file=sys.stderr)
        return 1
    return 0


def _export(args: argparse.Namespace) -> None:
    try:
        found, _ = open_pretrained(args.model, step=args.step, average=args.average)
    except TensorsError as error:
        if args.report:
            print("\n".join(error.report))
        raise
    if args.report:
        if not isinstance(found, PretrainedBert):
            raise UserError(f"--report is of a BERT, and {args.model} is of a translation.")
        print("\n".join(report(found)))
    if args.output is not None:
        save_pretrained(args.output, found)
        print(f"written: {args.output}")


if __name__ == "__main__":
    sys.exit(main())

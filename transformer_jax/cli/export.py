"""Writes a run, or a checkpoint of fairseq or Google, as a folder that `transformers` loads.

`python -m transformer_jax.cli.export --model DIR --output FOLDER`
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from transformer_jax.cli.model_folder import open_pretrained
from transformer_jax.errors import UserError
from transformer_jax.interop.bert import PretrainedBert, report
from transformer_jax.interop.huggingface import save_pretrained


def main(argv: Sequence[str] | None = None) -> int:
    """Restores a run and writes the folder.

    Returns:
      0; 1 after an error of the user's.
    """
    parser = argparse.ArgumentParser(prog="export", description=__doc__)
    add = parser.add_argument
    add("--model", type=Path, required=True, help="a run of train.py, or another's model")
    add("--output", type=Path, required=True, help="folder to write")
    add("--step", help="a step, latest (default), or best")
    add("--average", type=int, help="newest checkpoints to average")
    add("--report", action="store_true", help="of a BERT: a line for each tensor")
    args = parser.parse_args(argv)
    try:
        found, _ = open_pretrained(args.model, step=args.step, average=args.average)
        save_pretrained(args.output, found)
    except UserError as error:
        print(f"export: {error}", file=sys.stderr)
        return 1
    if args.report and isinstance(found, PretrainedBert):
        print("\n".join(report(found)))
    print(f"written: {args.output}")
    return 0


if __name__ == "__main__":
    sys.exit(main())

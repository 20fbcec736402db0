"""Writes a run as a folder that `transformers` loads.

`python -m transformer_jax.cli.export --model DIR --output FOLDER`
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from transformer_jax.cli.model_folder import pretrained_of
from transformer_jax.cli.run_config import read_run_config
from transformer_jax.errors import UserError
from transformer_jax.interop.huggingface import save_pretrained
from transformer_jax.training.restore import restore_run


def main(argv: Sequence[str] | None = None) -> int:
    """Restores a run and writes the folder.

    Returns:
      0; 1 after an error of the user's.
    """
    parser = argparse.ArgumentParser(prog="export", description=__doc__)
    parser.add_argument("--model", type=Path, required=True, help="folder of a run of train.py")
    parser.add_argument("--output", type=Path, required=True, help="folder to write")
    parser.add_argument("--step", help="a step, latest (default), or best")
    parser.add_argument("--average", type=int, help="newest checkpoints to average")
    args = parser.parse_args(argv)
    try:
        config = read_run_config(args.model)
        run = restore_run(config, args.model, step=args.step or "latest", average=args.average)
        save_pretrained(args.output, pretrained_of(run))
    except UserError as error:
        print(f"export: {error}", file=sys.stderr)
        return 1
    print(f"written: {args.output}")
    return 0


if __name__ == "__main__":
    sys.exit(main())

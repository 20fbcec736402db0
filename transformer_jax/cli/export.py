"""Writes a run as a folder that `transformers` loads.

`python -m transformer_jax.cli.export --model DIR --output FOLDER`
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from transformer_jax.cli.model_folder import open_model
from transformer_jax.errors import UserError
from transformer_jax.interop.huggingface import Pretrained, save_pretrained


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
        opened = open_model(args.model, step=args.step, average=args.average)
        config, params = opened.model.config, opened.params
        found = Pretrained(config, opened.model, params, opened.tokenizer, opened.search)
        save_pretrained(args.output, found)
    except UserError as error:
        print(f"export: {error}", file=sys.stderr)
        return 1
    print(f"written: {args.output}")
    return 0


if __name__ == "__main__":
    sys.exit(main())

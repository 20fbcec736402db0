"""Fills masks: `python -m transformer_jax.cli.fill_mask --model DIR < lines > JSON lines`.

Each line on stdin has one or more [MASK] (or <mask>), and gives one JSON object on stdout:
{"text": the line with the best guesses, "masks": [[{"token": ..., "probability": ...}, ...], ...]}.
A line that cannot be filled gives {"text": ..., "error": ...}, and is named on stderr.
"""

from __future__ import annotations

import argparse
import functools
import json
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from transformer_jax.cli.lines import Answer, answer_lines
from transformer_jax.cli.run_config import read_run_config
from transformer_jax.errors import UserError
from transformer_jax.tasks.fill_mask import MaskFiller
from transformer_jax.tasks.masked_lm import MaskedLm
from transformer_jax.training.restore import restore_run

CHUNK = 256  # lines that are read, sorted by length and filled before the next are read


def main(argv: Sequence[str] | None = None) -> int:
    """Fills the masks of stdin to stdout.

    Returns:
      0, also where a line was in error; 1 after an error of the user's; 130 after Ctrl-C.
    """
    args = _parser().parse_args(argv)
    return answer_lines("fill_mask", functools.partial(_open, args), CHUNK)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="fill_mask", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--model", type=Path, required=True, help="folder of a run of train.py")
    add("--step", default="latest", help="a step, latest, or best: by validation loss")
    add("--top", type=int, default=5, help="guesses for each mask (5)")
    return parser


def _open(args: argparse.Namespace) -> Answer:
    run = restore_run(read_run_config(args.model), args.model, step=args.step)
    if not isinstance(run.task, MaskedLm):
        raise UserError(f"{args.model} is no run of a masked language model.")
    if not 1 <= args.top <= run.task.tokenizer.vocab_size:
        raise UserError(f"--top {args.top} must be 1 to {run.task.tokenizer.vocab_size}.")
    return functools.partial(_fill, run.task.mask_filler(run.params, top=args.top))


def _fill(filler: MaskFiller, lines: Sequence[str], first: int) -> Iterator[str]:
    """A JSON object for each line."""
    problems = [filler.problem(line) for line in lines]
    fine = [line for line, problem in zip(lines, problems, strict=True) if problem is None]
    filled = iter(filler(fine))
    for number, (line, problem) in enumerate(zip(lines, problems, strict=True), first):
        if problem is not None:
            print(f"fill_mask: line {number} {problem}", file=sys.stderr)
            yield _json({"text": line, "error": problem})
            continue
        found = next(filled)
        masks = [[{"token": t, "probability": round(p, 4)} for t, p in m] for m in found.masks]
        yield _json({"text": found.text, "masks": masks})


def _json(content: dict[str, Any]) -> str:
    return json.dumps(content, ensure_ascii=False)


if __name__ == "__main__":
    sys.exit(main())

"""Translates lines: `python -m transformer_jax.cli.translate --model DIR < text > translation`.

One line on stdin gives one line on stdout, in order, and nothing else is written there. What is
odd about a line is said on stderr.
"""

from __future__ import annotations

import argparse
import itertools
import os
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

from transformer_jax.cli.run_config import read_run_config
from transformer_jax.errors import UserError
from transformer_jax.tasks.translation import Translation
from transformer_jax.tasks.translation_search import Hypothesis, Translator
from transformer_jax.training.restore import restore_run

CHUNK = 1024  # lines that are read, sorted by length and translated before the next are read


def main(argv: Sequence[str] | None = None) -> int:
    """Translates stdin to stdout.

    Returns:
      0; 1 after an error of the user's.
    """
    args = _parser().parse_args(argv)
    try:
        if not 1 <= args.n_best <= args.beam_size:
            raise UserError(f"--n-best {args.n_best} must be 1 to --beam-size {args.beam_size}.")
        if args.max_tokens < 2:
            raise UserError(f"--max-tokens {args.max_tokens} must be at least 2.")
        config = read_run_config(args.model)
        run = restore_run(config, args.model, step=args.step, average=args.average)
    except UserError as error:
        print(f"translate: {error}", file=sys.stderr)
        return 1
    if not isinstance(run.task, Translation):
        print(f"translate: {args.model} is no run of a translation.", file=sys.stderr)
        return 1
    translator = run.task.translator(run.params, args.beam_size, args.length_penalty)
    try:
        first = 1
        while chunk := list(itertools.islice(sys.stdin.buffer, CHUNK)):
            lines = [_text(line, number) for number, line in enumerate(chunk, first)]
            for found in _translate(translator, lines, first, args.max_tokens):
                for hypothesis in itertools.islice(_padded(found), args.n_best):
                    print(_line(hypothesis, args.scores))
            sys.stdout.flush()
            first += len(chunk)
    except BrokenPipeError:  # who reads has enough, as `head` does
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="translate", description=__doc__)
    add = parser.add_argument
    add("--model", type=Path, required=True, help="folder of a run that train.py made")
    add("--step", default="latest", help="a step, latest, or best: by validation loss")
    add("--average", type=int, help="newest checkpoints to average; default: as the config says")
    add("--beam-size", type=int, default=4, help="hypotheses of the beam search (4)")
    add("--length-penalty", type=float, default=0.6, help="alpha of ((5 + length) / 6)^alpha (0.6)")
    add("--n-best", type=int, default=1, help="translations of each line, best first, a line each")
    add("--scores", action="store_true", help="write `score<TAB>translation`")
    add("--max-tokens", type=int, default=512, help="a longer line is cut there (512)")
    return parser


def _text(line: bytes, number: int) -> str:
    try:
        return line.decode("utf-8").strip()
    except UnicodeDecodeError:
        _say(number, "is not UTF-8; what cannot be read is replaced")
        return line.decode("utf-8", errors="replace").strip()


def _translate(
    translator: Translator, lines: Sequence[str], first: int, max_tokens: int
) -> Iterator[list[Hypothesis]]:
    """For each line its hypotheses; none for an empty one."""
    sources = translator.encode(lines)
    for number, source in enumerate(sources, first):
        if len(source) > max_tokens:
            _say(number, f"has {len(source)} tokens and is cut to {max_tokens}")
            source[max_tokens - 1 :] = source[-1:]  # the end token stays
    filled = [i for i, line in enumerate(lines) if line]
    found = dict(zip(filled, translator([sources[i] for i in filled]), strict=True))
    return (found.get(i, []) for i in range(len(lines)))


def _padded(found: Sequence[Hypothesis]) -> Iterator[Hypothesis]:
    """Endless, so that each line of input gets as many lines of output as any other."""
    return itertools.chain(found, itertools.repeat(Hypothesis("", 0.0)))


def _line(hypothesis: Hypothesis, scores: bool) -> str:
    text = " ".join(hypothesis.text.split())
    return f"{hypothesis.score:.4f}\t{text}" if scores else text


def _say(number: int, what: str) -> None:
    print(f"translate: line {number} {what}", file=sys.stderr)


if __name__ == "__main__":
    sys.exit(main())

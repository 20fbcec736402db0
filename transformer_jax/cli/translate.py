"""Translates lines: `python -m transformer_jax.cli.translate --model DIR < text > translation`.

One line on stdin gives one line on stdout, in order, and nothing else is written there. What is
odd about a line is said on stderr.
"""

from __future__ import annotations

import argparse
import dataclasses
import functools
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

from transformer_jax.cli.lines import Answer, answer_lines
from transformer_jax.cli.model_folder import open_model
from transformer_jax.decoding.sampling import Sampling
from transformer_jax.decoding.search_config import SearchConfig
from transformer_jax.errors import UserError
from transformer_jax.tasks.translation_search import Hypothesis, Translator

CHUNK = 1024  # lines that are read, sorted by length and translated before the next are read


def main(argv: Sequence[str] | None = None) -> int:
    """Translates stdin to stdout.

    Returns:
      0; 1 after an error of the user's; 130 after Ctrl-C.
    """
    args = _parser().parse_args(argv)
    return answer_lines("translate", functools.partial(_open, args), CHUNK)


def _open(args: argparse.Namespace) -> Answer:
    if args.max_tokens < 2:
        raise UserError(f"--max-tokens {args.max_tokens} must be at least 2.")
    if args.batch_size is not None and args.batch_size < 1:
        raise UserError(f"--batch-size {args.batch_size} must be at least 1.")
    opened = open_model(args.model, step=args.step, average=args.average)
    translator = opened.translator(_search(opened.search, args), args.seed, args.batch_size)
    return functools.partial(_translate, translator, args)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="translate",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        epilog="What is not given of the search is as the model's folder says.",
    )
    add = parser.add_argument
    add("--model", type=Path, required=True, help="a run of train.py, or a Hugging Face folder")
    add("--step", help="of a run: a step, latest (default), or best: by validation loss")
    add("--average", type=int, help="of a run: newest checkpoints to average")
    add("--beam-size", type=int, help="hypotheses of the beam search; 1 is greedy search")
    add("--length-penalty", type=float, help="alpha of the length rule")
    add("--length-rule", choices=("gnmt", "plain"), help="((5 + length) / 6)^alpha or length^alpha")
    add("--early-stopping", choices=("never", "heuristic", "full"), help="when a search ends")
    add("--coverage-penalty", type=float, help="beta of the coverage penalty; 0 is none")
    add("--max-length", type=int, help="most tokens of a translation")
    add("--sample", action="store_true", help="draw translations at random instead of searching")
    add("--temperature", type=float, default=1.0, help="of --sample; below 1 is bolder (1)")
    add("--top-k", type=int, help="of --sample: from so many likeliest tokens")
    add("--top-p", type=float, default=1.0, help="of --sample: from the likeliest of this sum (1)")
    add("--seed", type=int, default=0, help="of --sample (0)")
    add("--n-best", type=int, default=1, help="translations of each line, best first, a line each")
    add("--scores", action="store_true", help="write `score<TAB>translation`")
    add(
        "--alignments",
        action="store_true",
        help="add `<TAB>0-0 1-2`: pairs of a source word and a word of the translation, from 0",
    )
    add("--batch-size", type=int, help="sentences that are searched at once")
    add("--max-tokens", type=int, default=512, help="a longer line is cut there (512)")
    return parser


def _search(base: SearchConfig, args: argparse.Namespace) -> SearchConfig:
    names = [field.name for field in dataclasses.fields(SearchConfig)]
    given = {name: getattr(args, name, None) for name in names}
    try:
        if args.sample:
            given["sampling"] = Sampling(args.temperature, args.top_k, args.top_p)
            given["beam_size"] = args.n_best if args.beam_size is None else args.beam_size
        changes = {name: value for name, value in given.items() if value is not None}
        search = dataclasses.replace(base, **changes)
    except ValueError as error:
        raise UserError(str(error)) from error
    if not 1 <= args.n_best <= search.beam_size:
        raise UserError(f"--n-best {args.n_best} must be 1 to --beam-size {search.beam_size}.")
    return search


def _translate(
    translator: Translator, args: argparse.Namespace, lines: Sequence[str], first: int
) -> Iterator[str]:
    """For each line its n best translations as lines; an empty one has empty ones."""
    sources = translator.encode(lines)
    for number, source in enumerate(sources, first):
        if len(source) > args.max_tokens:
            _say(number, f"has {len(source)} tokens and is cut to {args.max_tokens}")
            source[args.max_tokens - 1 :] = source[-1:]  # the end token stays
    filled = [i for i, line in enumerate(lines) if line]
    found = translator([sources[i] for i in filled])
    best = {i: hypotheses[: args.n_best] for i, hypotheses in zip(filled, found, strict=True)}
    links: dict[int, list[list[tuple[int, int]]]] = {i: [] for i in filled}
    if args.alignments:
        flat = [(i, hypothesis) for i in filled for hypothesis in best[i]]
        aligned = translator.align([sources[i] for i, _ in flat], [h for _, h in flat])
        for (i, _), pairs in zip(flat, aligned, strict=True):
            links[i].append(pairs)
    for i in range(len(lines)):
        for k in range(args.n_best):  # so many lines for each, even where fewer were found
            there = i in best and k < len(best[i])
            hypothesis = best[i][k] if there else Hypothesis("", 0.0, ())
            yield _line(hypothesis, links[i][k] if there and args.alignments else [], args)


def _line(
    hypothesis: Hypothesis, links: Sequence[tuple[int, int]], args: argparse.Namespace
) -> str:
    columns = [" ".join(hypothesis.text.split())]
    if args.scores:
        columns.insert(0, f"{hypothesis.score:.4f}")
    if args.alignments:
        columns.append(" ".join(f"{source}-{target}" for source, target in links))
    return "\t".join(columns)


def _say(number: int, what: str) -> None:
    print(f"translate: line {number} {what}", file=sys.stderr)


if __name__ == "__main__":
    sys.exit(main())

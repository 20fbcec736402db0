"""Prepares a corpus for pretraining: tokenised, packed rows on disk, which training only reads.

`python -m transformer_jax.cli.prepare --path CORPUS --output DIR --tokenizer wordpiece
--vocab-size 30522`. A run that was stopped goes on when the same command is given again, and writes
the same bytes with any number of workers. What follows `--` goes to Apache Beam.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from transformer_jax.data.corpus_rows import MAKERS
from transformer_jax.data.documents import Source, open_source
from transformer_jax.data.prepare import Recipe, finish, plan_jobs, run_job
from transformer_jax.data.prepare_engines import run_beam, run_processes
from transformer_jax.data.rows_index import SETTINGS, Shard
from transformer_jax.data.sources import SPLITS
from transformer_jax.data.subword_tokenizers import load_tokenizer
from transformer_jax.errors import UserError
from transformer_jax.files import alone_in, write_whole
from transformer_jax.interrupts import sure_interrupts
from transformer_jax.tasks.bert_data import TRAINED, BertData, make_tokenizer
from transformer_jax.tasks.run_tokenizer import find_tokenizer


def main(argv: Sequence[str] | None = None) -> int:
    """Prepares rows and prints a table of the shards.

    Returns:
      0; 1 after an error of the user's; 130 after Ctrl-C.
    """
    argv = list(sys.argv[1:] if argv is None else argv)
    split = argv.index("--") if "--" in argv else len(argv)
    args = _parser().parse_args(argv[:split])
    try:
        with sure_interrupts():
            prepare(args, argv[split + 1 :])
    except UserError as error:
        print(f"prepare: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("\nprepare: stopped; the same command goes on.", file=sys.stderr)
        return 130
    return 0


def prepare(args: argparse.Namespace, beam_arguments: Sequence[str]) -> None:
    """Makes all that is missing in the folder.

    Raises:
      UserError: of the settings, the corpus, the folder or the tokenizer.
    """
    if beam_arguments and args.engine != "beam":
        raise UserError(f"{' '.join(beam_arguments)} after -- is for --engine beam.")
    if args.workers < 1:
        raise UserError(f"--workers {args.workers} must be at least 1.")
    length = args.row_length if args.example_length is None else args.example_length
    places = args.row_examples
    if places is None:
        places = 4 * max(1, args.row_length // max(1, length))
    try:
        recipe = Recipe(
            path=args.path,
            splits=tuple(split for split in SPLITS if split in args.splits),
            examples=args.examples,
            row_length=args.row_length,
            example_length=length,
            row_examples=places,
            repeats=args.repeats,
            seed=args.seed,
            shard_bytes=args.shard_bytes,
        )
    except ValueError as error:
        raise UserError(str(error)) from error
    source = open_source(recipe.path)
    if lacking := [split for split in recipe.splits if split not in source.parts]:
        raise UserError(
            f"{source.name} has no split {' and '.join(lacking)}. Name those that it has: --splits "
            f"{' '.join(source.parts)}."
        )
    folder = _folder(args.output)
    with alone_in(folder):
        _make(args, recipe, source, folder, beam_arguments)


def _make(
    args: argparse.Namespace,
    recipe: Recipe,
    source: Source,
    folder: Path,
    beam_arguments: Sequence[str],
) -> None:
    tokenizer = _tokenizer(args, recipe.path, folder)
    request = {"trained": args.tokenizer if args.tokenizer in TRAINED else None}
    if request["trained"]:
        request |= {"asked_size": args.vocab_size, "lowercase": not args.cased}
    jobs = plan_jobs(recipe, source, folder, tokenizer, request)
    if args.engine == "beam":
        run_beam(jobs, beam_arguments)
    elif args.workers == 1:
        for number, job in enumerate(jobs, 1):
            run_job(job)
            _say(f"{job.path.name}: {number} of {len(jobs)} shards are done")
    else:
        run_processes(jobs, args.workers, _say)
    print(_table(finish(jobs), recipe.row_length))


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="prepare",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    add = parser.add_argument
    add("--path", required=True, help="folder of *.txt, tfds:NAME, prose:installed, prose:FOLDER")
    add(
        "--output", type=Path, required=True, help="folder of the rows; new, or of the same command"
    )
    add(
        "--tokenizer",
        required=True,
        help=f"a file or a folder that has one; or {', '.join(TRAINED)} to train one on the corpus",
    )
    add("--vocab-size", type=int, help="tokens of a tokenizer that is trained")
    add("--cased", action="store_true", help="keep the case; without it text is lower-cased")
    add("--examples", choices=tuple(MAKERS), default="next_sentence", help="(next_sentence)")
    add("--row-length", type=int, default=128, help="tokens of a row (128)")
    add("--example-length", type=int, help="most tokens of an example (those of a row)")
    add("--row-examples", type=int, help="most examples of a row (four times its longest ones)")
    add("--repeats", type=int, default=1, help="times to cut the train split anew (1)")
    add("--seed", type=int, default=0, help="of the examples and of their order (0)")
    add("--splits", nargs="+", choices=SPLITS, default=SPLITS, help="(all)")
    add("--shard-bytes", type=int, default=1 << 26, help="of text, for a shard (67108864)")
    add("--workers", type=int, default=2, help="processes of --engine processes (2)")
    add("--engine", choices=("processes", "beam"), default="processes", help="(processes)")
    return parser


def _folder(folder: Path) -> Path:
    """The folder, made; it is empty or one of prepared rows."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        names = {path.name for path in folder.iterdir()}
    except OSError as error:
        raise UserError(f"--output {folder} cannot be written: {error}.") from error
    # A start that was killed left a tokenizer at most, or the beginning of one.
    foreign = {n for n in names if not n.lstrip(".").startswith(("tokenizer.", f"{SETTINGS}."))}
    if foreign and SETTINGS not in names:
        raise UserError(
            f"--output {folder} has other files ({', '.join(sorted(foreign)[:3])}) and no "
            f"{SETTINGS}. Name a new folder."
        )
    return folder.resolve()  # Beam's workers may have another working directory


def _tokenizer(args: argparse.Namespace, path: str, folder: Path) -> Path:
    """The tokenizer's file in the folder, trained or copied if the folder has just begun."""
    trained = args.tokenizer in TRAINED
    if trained and (args.vocab_size is None or args.vocab_size < 1):
        raise UserError(f"--tokenizer {args.tokenizer} needs --vocab-size, 30522 for example.")
    if not trained and args.vocab_size is not None:
        raise UserError(
            f"--vocab-size {args.vocab_size} is for a tokenizer that is trained; {args.tokenizer} "
            f"has its own. Leave it out."
        )
    begun, has = (folder / SETTINGS).exists(), list(folder.glob("tokenizer.*"))
    if trained and begun and has:
        return find_tokenizer(folder)
    wanted = BertData(path=path, tokenizer=args.tokenizer, lowercase=not args.cased)
    with tempfile.TemporaryDirectory() as temporary:
        made = make_tokenizer(wanted, args.vocab_size or 0, Path(temporary))
        tokenizer, data = load_tokenizer(made), made.read_bytes()
    if not begun or not has:
        for other in has:  # of a start that was killed
            other.unlink()
        write_whole(folder / made.name, data)
    elif load_tokenizer(find_tokenizer(folder)).fingerprint != tokenizer.fingerprint:
        raise UserError(f"{folder} has rows of another tokenizer than {args.tokenizer}.")
    return find_tokenizer(folder)


def _table(splits: Mapping[str, Sequence[Shard]], row_length: int) -> str:
    """Rows, tokens and fill of each shard and split; and what was left out."""
    lines = ["| shard | documents | rows | tokens | filled |", "|---|---|---|---|---|"]
    left_out: list[str] = []
    for split, shards in splits.items():
        made = [shard for shard in shards if shard.rows]
        lines += [_line(shard.name, [shard], row_length) for shard in made]
        lines.append(_line(f"**{split}**", made, row_length))
        if skipped := [shard for shard in shards if not shard.rows]:
            documents = sum(shard.documents for shard in skipped)
            left_out.append(
                f"{split}: {len(skipped)} of {len(shards)} parts, with {documents} documents, were "
                f"too small for examples and are left out. Another folder with a larger "
                f"--shard-bytes takes them in."
            )
    return "\n".join(lines + left_out)


def _line(name: str, shards: Sequence[Any], row_length: int) -> str:
    documents, rows, tokens = (
        sum(getattr(shard, what) for shard in shards) for what in ("documents", "rows", "tokens")
    )
    return f"| {name} | {documents:,} | {rows:,} | {tokens:,} | {tokens / rows / row_length:.1%} |"


def _say(text: str) -> None:
    print(f"prepare: {text}", file=sys.stderr, flush=True)


if __name__ == "__main__":
    sys.exit(main())

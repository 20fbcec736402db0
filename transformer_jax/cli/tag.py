"""Tags of words: `python -m transformer_jax.cli.tag --model DIR < lines > JSON lines`.

A line on stdin is a sentence, whose words white space divides. It gives one JSON object on stdout:
{"words": [...], "tags": [...], "entities": [{"type", "text", "first", "last"}]}, where first and
last are words, counted from 0. Of a model whose tags mark no entities, such as parts of speech,
there is no "entities". What is odd about a line is said on stderr.
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
from transformer_jax.cli.model_folder import open_bert
from transformer_jax.errors import UserError
from transformer_jax.models.bert_tasks import BertTagger
from transformer_jax.parallel.mesh import MeshConfig, make_mesh
from transformer_jax.tasks.entity_metrics import entities
from transformer_jax.tasks.tagger import Tagger, marks_entities

CHUNK = 4096  # lines that are read, sorted by length and tagged before the next are read


def main(argv: Sequence[str] | None = None) -> int:
    """Tags stdin to stdout.

    Returns:
      0; 1 after an error of the user's; 130 after Ctrl-C.
    """
    args = _parser().parse_args(argv)
    return answer_lines("tag", functools.partial(_open, args), CHUNK)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="tag", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--model", type=Path, required=True, help="a run of train.py, or a Hugging Face folder")
    add("--step", help="of a run: a step, latest (default), or best: by validation loss")
    add("--average", type=int, help="of a run: newest checkpoints to average")
    return parser


def _open(args: argparse.Namespace) -> Answer:
    found = open_bert(args.model, "tagging", step=args.step, average=args.average)
    assert found.tokenizer is not None  # open_bert saw to it
    if not found.labels:
        raise UserError(f"{args.model} has a single tag, and so there is nothing to find out.")
    tagger = Tagger(
        BertTagger(found.config, num_classes=len(found.labels)),
        found.params,
        found.tokenizer,
        found.labels,
        mesh=make_mesh(MeshConfig()),
    )
    return functools.partial(_tag, tagger, marks_entities(found.labels))


def _tag(tagger: Tagger, with_entities: bool, lines: Sequence[str], first: int) -> Iterator[str]:
    """A JSON object for each line."""
    sentences = [line.split() for line in lines]
    tags = tagger(sentences)
    for number, (words, found) in enumerate(zip(sentences, tags, strict=True), first):
        if lost := tagger.lost(words):
            print(
                f"tag: line {number} is cut to {tagger.max_tokens} tokens; the tag of its last "
                f"{lost} words is O",
                file=sys.stderr,
            )
        yield json.dumps(_result(words, found, with_entities), ensure_ascii=False)


def _result(words: list[str], tags: list[str], with_entities: bool) -> dict[str, Any]:
    result: dict[str, Any] = {"words": words, "tags": tags}
    if with_entities:
        result["entities"] = [
            {"type": kind, "text": " ".join(words[a : b + 1]), "first": a, "last": b}
            for kind, a, b in sorted(entities(tags), key=lambda entity: entity[1])
        ]
    return result


if __name__ == "__main__":
    sys.exit(main())

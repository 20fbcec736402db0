"""Answers from texts: `python -m transformer_jax.cli.answer --model DIR < lines > JSON lines`.

A line on stdin is a JSON object with "question" and "context". It gives one on stdout: {"answer",
"probability", "start", "end": characters start..end-1 of the context, "n_best": [...]}; a line that
is no such object gives {"error": ...}. With --threshold the answer may be "", that the context does
not tell it. The probability is among the best answers. What is odd is said on stderr.
"""

from __future__ import annotations

import argparse
import functools
import json
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from transformer_jax.cli.lines import Answer as AnswerLines
from transformer_jax.cli.lines import answer_lines
from transformer_jax.cli.model_folder import open_bert
from transformer_jax.data.encoder_tokenizer import well_formed
from transformer_jax.data.squad import Question
from transformer_jax.errors import UserError
from transformer_jax.models.bert_tasks import BertReader
from transformer_jax.parallel.mesh import MeshConfig, make_mesh
from transformer_jax.parsing import parse_json
from transformer_jax.tasks.answer_search import Answer, final_answer
from transformer_jax.tasks.reader import Reader

CHUNK = 256  # lines that are read, sorted by length and answered before the next are read
_SEARCHED = 20  # starts and ends, also where fewer answers are shown


def main(argv: Sequence[str] | None = None) -> int:
    """Answers stdin on stdout.

    Returns:
      0, also where a line was in error; 1 after an error of the user's; 130 after Ctrl-C.
    """
    args = _parser().parse_args(argv)
    return answer_lines("answer", functools.partial(_open, args), CHUNK)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="answer", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--model", type=Path, required=True, help="a run of train.py, or a Hugging Face folder")
    add("--step", help="of a run: a step, latest (default), or best: by validation loss")
    add("--average", type=int, help="of a run: newest checkpoints to average")
    add("--n-best", type=int, default=1, help="answers to list (1)")
    add(
        "--threshold",
        type=float,
        help='answer "" if its score is more than this above the best text\'s; 0 is usual, eval.py '
        "says the best one (never)",
    )
    add("--stride", type=int, default=128, help="tokens from window to window (128)")
    add("--max-answer-tokens", type=int, default=30, help="the most tokens of an answer (30)")
    return parser


def _open(args: argparse.Namespace) -> AnswerLines:
    for name in ("n_best", "stride", "max_answer_tokens"):
        if getattr(args, name) < 1:
            flag = name.replace("_", "-")
            raise UserError(f"--{flag} {getattr(args, name)} must be at least 1.")
    found = open_bert(args.model, "reading", step=args.step, average=args.average)
    assert found.tokenizer is not None  # open_bert saw to it
    reader = Reader(
        BertReader(found.config),
        found.params,
        found.tokenizer,
        mesh=make_mesh(MeshConfig()),
        stride=args.stride,
    )
    return functools.partial(_answer, reader, args)


def _answer(
    reader: Reader, args: argparse.Namespace, lines: Sequence[str], first: int
) -> Iterator[str]:
    """A JSON object for each line."""
    parsed = [_question(line) for line in lines]
    questions = [question for question in parsed if isinstance(question, Question)]
    found = iter(
        reader(
            questions,
            null=args.threshold is not None,
            n_best=max(args.n_best, _SEARCHED),
            max_answer_tokens=args.max_answer_tokens,
        )
    )
    for number, question in enumerate(parsed, first):
        if isinstance(question, str):
            print(f"answer: line {number} {question}", file=sys.stderr)
            yield json.dumps({"error": question})
            continue
        if cut := reader.cut(question.question):
            most = reader.max_question_tokens
            print(
                f"answer: line {number}: the question is cut to {most} tokens, by {cut}",
                file=sys.stderr,
            )
        yield json.dumps(_result(next(found), args), ensure_ascii=False)


def _question(line: str) -> Question | str:
    """The question of a line, or what is wrong with it."""
    try:
        record = parse_json(line.encode())
    except ValueError:
        return "is no JSON"
    if not isinstance(record, dict):
        return "is no JSON object"
    for name in ("question", "context"):
        if not isinstance(record.get(name), str):
            return f'has no "{name}" that is a text'
    # A lone surrogate, which JSON can hold and UTF-8 cannot, becomes one other character.
    question, context = well_formed(record["question"]), well_formed(record["context"])
    return Question("", question, context, (), False)


def _result(found: Sequence[Answer], args: argparse.Namespace) -> dict[str, Any]:
    """What is said of a question; a text without words has the answer "" too."""
    text = final_answer(found, args.threshold or 0.0)
    nothing = Answer("", 0.0, 0, 0, 0.0)
    best = next((answer for answer in found if answer.text == text), nothing)
    return _shown(best) | {"n_best": [_shown(answer) for answer in found[: args.n_best]]}


def _shown(answer: Answer) -> dict[str, Any]:
    return {
        "answer": answer.text,
        "probability": round(answer.probability, 6),
        "start": answer.start_char,
        "end": answer.end_char,
    }


if __name__ == "__main__":
    sys.exit(main())

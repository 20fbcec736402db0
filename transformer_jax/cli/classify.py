"""Classes of texts: `python -m transformer_jax.cli.classify --model DIR < lines > JSON lines`.

A line on stdin is a text, or two with a tab between them. It gives one JSON object on stdout:
{"label": the likeliest, "probabilities": {label: ...}}; {"score": ...} of a model of scores; of one
whose texts may have several labels {"labels": [those likelier than not], "probabilities": ...}.
What is odd about a line is said on stderr.
"""

from __future__ import annotations

import argparse
import functools
import json
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from transformer_jax.cli.lines import Answer, answer_lines
from transformer_jax.cli.model_folder import open_bert
from transformer_jax.parallel.mesh import MeshConfig, make_mesh
from transformer_jax.tasks.classifier import Classifier

CHUNK = 4096  # lines that are read, sorted by length and judged before the next are read


def main(argv: Sequence[str] | None = None) -> int:
    """Judges stdin to stdout.

    Returns:
      0; 1 after an error of the user's; 130 after Ctrl-C.
    """
    args = _parser().parse_args(argv)
    # A tab at an end stays: it divides an empty text of a pair from the other.
    return answer_lines("classify", functools.partial(_open, args), CHUNK, around=" \r\n")


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="classify", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--model", type=Path, required=True, help="a run of train.py, or a Hugging Face folder")
    add("--step", help="of a run: a step, latest (default), or best: by validation loss")
    add("--average", type=int, help="of a run: newest checkpoints to average")
    return parser


def _open(args: argparse.Namespace) -> Answer:
    found = open_bert(args.model, "classification", step=args.step, average=args.average)
    return functools.partial(_classify, Classifier(found, mesh=make_mesh(MeshConfig())))


def _classify(classifier: Classifier, lines: Sequence[str], first: int) -> Iterator[str]:
    """A JSON object for each line."""
    halves = [line.partition("\t") for line in lines]
    results: list[np.ndarray | None] = [None] * len(lines)
    for is_pair in (False, True):
        ids = [i for i, (_, tab, _) in enumerate(halves) if bool(tab) == is_pair]
        if not ids:
            continue
        texts = [halves[i][0].strip() for i in ids]
        seconds = [halves[i][2].strip() for i in ids] if is_pair else None
        examples = classifier.examples(texts, seconds)
        for i, cut in zip(ids, examples.cut, strict=True):
            if cut:
                most = classifier.max_tokens
                print(
                    f"classify: line {first + i} is cut to {most} tokens, by {cut}", file=sys.stderr
                )
        for i, values in zip(ids, classifier(examples), strict=True):
            results[i] = values
    for values in results:
        assert values is not None
        yield json.dumps(_result(classifier, values), ensure_ascii=False)


def _result(classifier: Classifier, values: np.ndarray) -> dict[str, Any]:
    if not classifier.labels:
        return {"score": round(float(values), 6)}
    shares = {name: round(float(p), 6) for name, p in zip(classifier.labels, values, strict=True)}
    if classifier.multi_label:
        return {"labels": [n for n, p in shares.items() if p > 0.5], "probabilities": shares}
    return {"label": classifier.labels[int(values.argmax())], "probabilities": shares}


if __name__ == "__main__":
    sys.exit(main())

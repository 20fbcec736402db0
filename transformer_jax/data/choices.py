"""SWAG (arXiv:1808.05326): which of four endings goes on from a sentence."""

from __future__ import annotations

import csv
import dataclasses
from pathlib import Path

import numpy as np

from transformer_jax.data.labelled_text import read_lines
from transformer_jax.data.sources import SPLITS
from transformer_jax.errors import UserError

_FILES = {"train": "train.csv", "valid": "val.csv", "test": "test.csv"}
_ENDINGS = ("ending0", "ending1", "ending2", "ending3")
NUM_CHOICES = len(_ENDINGS)
_EXPECTED = (
    "SWAG is in the files train.csv, val.csv and test.csv, with a header and the columns sent1, "
    f"sent2, {', '.join(_ENDINGS)} and, but for test.csv, label."
)


@dataclasses.dataclass(frozen=True, eq=False)
class Choices:
    """The questions of a split, in the order of their file.

    Attributes:
      contexts: the sentence before.
      starts: how the next sentence begins.
      endings: four ways of going on from the start.
      labels: the number of the true ending, int32 [questions]; None for a split without labels.
    """

    contexts: list[str]
    starts: list[str]
    endings: list[tuple[str, ...]]
    labels: np.ndarray | None

    def __len__(self) -> int:
        return len(self.contexts)


def read_swag(folder: str | Path, split: str) -> Choices:
    """Reads a split of SWAG from its official files.

    Raises:
      UserError: no such split or file, or a row that is no question, with the number of the line
        where it begins.
    """
    if split not in SPLITS:
        raise UserError(f"Split {split!r} is none of {', '.join(SPLITS)}.")
    file = Path(folder) / _FILES[split]
    (_, header), *rows = _read_rows(file)
    if not rows:
        raise UserError(f"{file} has no questions, only a header. {_EXPECTED}")
    labelled = split != "test" or "label" in header
    for name in ("sent1", "sent2", *_ENDINGS, *(["label"] if labelled else [])):
        if header.count(name) != 1:
            raise UserError(
                f"{file}:1 names {header.count(name)} columns {name!r} where it needs one: "
                f"{', '.join(map(repr, header))}. {_EXPECTED}"
            )
    questions = []
    for line, fields in rows:
        if len(fields) != len(header):
            raise UserError(
                f"{file}:{line} has {len(fields)} fields where it needs {len(header)}: "
                f"{', '.join(header)}. Put quotes around text with commas."
            )
        questions.append(dict(zip(header, fields, strict=True)))
        _check_question(questions[-1], f"{file}:{line}")
    labels = np.array([int(row["label"]) for row in questions], np.int32) if labelled else None
    return Choices(
        [row["sent1"] for row in questions],
        [row["sent2"] for row in questions],
        [tuple(row[name] for name in _ENDINGS) for row in questions],
        labels,
    )


def _read_rows(file: Path) -> list[tuple[int, list[str]]]:
    """The rows of a CSV file, each with the number of the line where it begins."""
    reader = csv.reader(read_lines(file, _EXPECTED), strict=True)
    rows, line = [], 1
    try:
        for fields in reader:
            rows.append((line, fields))
            line = reader.line_num + 1
    except csv.Error as error:
        raise UserError(f"{file}:{line} is not CSV ({error}). {_EXPECTED}") from error
    return rows


def _check_question(row: dict[str, str], where: str) -> None:
    if not row["sent1"].strip():
        raise UserError(f"{where} has an empty sent1. Fill it in or remove the row.")
    for name in _ENDINGS:
        if not (row["sent2"] + row[name]).strip():
            raise UserError(
                f"{where} has an empty sent2 and an empty {name}. Fill them in or remove the row."
            )
    choices = [str(number) for number in range(len(_ENDINGS))]
    if row.get("label", "0") not in choices:
        raise UserError(f"{where} has the label {row['label']!r}, none of {', '.join(choices)}.")

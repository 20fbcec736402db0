"""Texts and pairs of texts with a label each: what sentence classification learns from."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from transformer_jax.data.sources import SPLITS
from transformer_jax.errors import UserError

# Of each list the first name that a header has. A `sentence` beside a `question` is the second
# text, as in QNLI.
_FIRST = ("text", "text_a", "sentence1", "premise", "question", "question1", "sentence")
_SECOND = ("text_b", "sentence2", "hypothesis", "question2", "sentence")
_LABEL = ("label", "score")

_EXPECTED = (
    f"A data folder needs {', '.join(f'{split}.tsv' for split in SPLITS)}, each with a header that "
    f"names its columns, as `text<TAB>label`, and then one example a line."
)
_NAMES_SHOWN = 10
_LARGEST = float(np.finfo(np.float32).max)


@dataclasses.dataclass(frozen=True, eq=False)
class LabelledText:
    """The examples of a split, in the order of their file.

    Attributes:
      first: the text, or the first one of each pair.
      second: the second one of each pair; None where there are no pairs.
      labels: as they are written in the file; None for a split without labels.
      lines: where in its file each example stands, counted from 1; None if there is no file.
    """

    first: list[str]
    second: list[str] | None
    labels: list[str] | None
    lines: list[int] | None = None

    def __post_init__(self):
        for name in ("second", "labels", "lines"):
            column = getattr(self, name)
            if column is not None and len(column) != len(self.first):
                raise ValueError(f"{len(column)} {name} for {len(self.first)} examples.")

    def __len__(self) -> int:
        return len(self.first)


def read_labelled(folder: str | Path, split: str) -> LabelledText:
    """Reads FOLDER/{train,valid,test}.tsv: UTF-8, a header, and tabs between the columns.

    A quote is a character like any other. Only test.tsv may lack the label. Columns with other
    names than those we know are left out; a BOM, CRLF and blank lines at the end are tolerated.

    Raises:
      UserError: no such split, folder or file, or a line that is no example, with its number.
    """
    if split not in SPLITS:
        raise UserError(f"Split {split!r} is none of {', '.join(SPLITS)}.")
    if not Path(folder).is_dir():
        raise UserError(f"Data path {str(folder)!r} is no existing folder. {_EXPECTED}")
    file = Path(folder) / f"{split}.tsv"
    (_, header), *rows = read_fields(file, _EXPECTED)
    first = _one_of(_FIRST, header)
    second = _one_of([name for name in _SECOND if name != first], header)
    label = _one_of(_LABEL, header)
    if first is None:
        raise _no_column(file, header, "text", _FIRST)
    if label is None and split != "test":
        raise _no_column(file, header, "label", _LABEL)
    filled = [name for name in (first, second, label) if name is not None]
    return labelled_rows(file, header, rows, first, second, label, filled=filled)


def label_names(train: LabelledText) -> list[str]:
    """The classes of a training set: its distinct labels in order, numbers as numbers."""
    if train.labels is None:
        raise ValueError("A training set without labels has no classes.")
    names = set(train.labels)
    numbers = {name: _number(name) for name in names}
    if None in numbers.values():
        return sorted(names)
    return sorted(names, key=lambda name: (numbers[name], name))


def label_ids(text: LabelledText, names: Sequence[str], where: str | Path) -> np.ndarray:
    """The number of each label in `names`: int32 [examples].

    Args:
      text: examples with labels.
      names: the classes in the order of their numbers.
      where: the file of the examples, for messages.

    Raises:
      UserError: there are no labels, or one that is no class, with its line.
    """
    ids = {name: number for number, name in enumerate(names)}
    shown = ", ".join(names[:_NAMES_SHOWN]) + (", ..." if len(names) > _NAMES_SHOWN else "")
    for place, label in _labels(text, where):
        if label not in ids:
            raise UserError(
                f"{place} has the label {label!r}, which is none of {shown}. Correct it, or put "
                f"examples of it into the training set."
            )
    return np.array([ids[label] for _, label in _labels(text, where)], np.int32)


def scores(text: LabelledText, where: str | Path) -> np.ndarray:
    """The labels as numbers, for regression: float32 [examples].

    Raises:
      UserError: there are no labels, or one that is no finite number, with its line.
    """
    values = []
    for place, label in _labels(text, where):
        value = _number(label)
        if value is None or abs(value) > _LARGEST:
            raise UserError(f"{place} has the score {label!r}, which is no finite number.")
        values.append(value)
    return np.array(values, np.float32)


def read_lines(file: Path, expected: str) -> list[str]:
    r"""The lines of a UTF-8 file with their ends, without a BOM and without blank ones at the end.

    Only \n ends a line, so that line numbers are those of an editor.

    Args:
      file: what to read.
      expected: a sentence that says what should be there, for messages.

    Raises:
      UserError: there is no such file, it cannot be read, is not UTF-8, or has no text.
    """
    if not file.is_file():
        raise UserError(f"{file} is missing. {expected}")
    try:
        with file.open("rb") as raw:
            lines = [_decoded(line, file, number) for number, line in enumerate(raw, 1)]
    except OSError as error:
        raise UserError(f"{file} cannot be read: {error}") from error
    while lines and not lines[-1].strip(" \r\n"):
        lines.pop()
    if not lines:
        raise UserError(f"{file} is empty. {expected}")
    return lines


def read_fields(file: Path, expected: str) -> list[tuple[int, list[str]]]:
    """What stands between the tabs of each line, with the number of the line.

    Args, raises: as `read_lines`.
    """
    lines = enumerate(read_lines(file, expected), 1)
    return [(n, line.removesuffix("\n").removesuffix("\r").split("\t")) for n, line in lines]


def labelled_rows(
    file: Path,
    header: Sequence[str],
    rows: Sequence[tuple[int, list[str]]],
    first: str,
    second: str | None,
    label: str | None,
    *,
    filled: Sequence[str],
) -> LabelledText:
    """Picks columns by their names out of numbered rows.

    Args:
      file: where the rows are from, for messages.
      header: the names of all columns.
      rows: the number and the fields of each line.
      first: the column of the text; `second` and `label` likewise, None where there is none.
      filled: the columns in which nothing may be empty.

    Raises:
      UserError: there is no row, one that does not fit the header, or one with an empty field.
    """
    if not rows:
        raise UserError(f"{file} has no examples, only a header. Write one example a line.")
    for name in (first, second, label):
        if name is not None and header.count(name) > 1:
            raise UserError(f"{file}:1 names two columns {name!r}. Rename or remove one.")
    where_filled = [(name, header.index(name)) for name in filled]
    for number, fields in rows:
        if len(fields) != len(header):
            raise UserError(
                f"{file}:{number} has {len(fields)} fields where it needs {len(header)}: "
                f"{', '.join(header)}. Separate them by one tab each, and replace tabs inside the "
                f"text."
            )
        for name, column in where_filled:
            if not fields[column].strip():
                raise UserError(
                    f"{file}:{number} has an empty {name}. Fill it in or remove the line."
                )

    def column_of(name: str) -> list[str]:
        column = header.index(name)
        return [fields[column] for _, fields in rows]

    return LabelledText(
        column_of(first),
        None if second is None else column_of(second),
        None if label is None else column_of(label),
        [number for number, _ in rows],
    )


def _decoded(line: bytes, file: Path, number: int) -> str:
    try:
        return line.decode("utf-8-sig" if number == 1 else "utf-8")
    except UnicodeDecodeError as error:
        raise UserError(
            f"{file}:{number} is not UTF-8 ({error}). Save the file as UTF-8."
        ) from error


def _no_column(file: Path, header: Sequence[str], what: str, accepted: Sequence[str]) -> UserError:
    return UserError(
        f"{file}:1 names no column for the {what}, only {', '.join(map(repr, header))}. Name it "
        f"one of {', '.join(accepted)}."
    )


def _one_of(names: Sequence[str], header: Sequence[str]) -> str | None:
    return next((name for name in names if name in header), None)


def _number(label: str) -> float | None:
    """The finite number that a label is, or None."""
    try:
        value = float(label)
    except ValueError:
        return None
    return value if math.isfinite(value) else None


def _labels(text: LabelledText, where: str | Path) -> list[tuple[str, str]]:
    """Each label with its place, for people."""
    if text.labels is None:
        raise UserError(f"{where} has no labels. Add a column `label`, or use another split.")
    if text.lines is None:
        places = [f"{where}, example {number}," for number in range(1, len(text) + 1)]
    else:
        places = [f"{where}:{line}" for line in text.lines]
    return list(zip(places, text.labels, strict=True))

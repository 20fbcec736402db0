"""The tasks of GLUE (arXiv:1804.07461, section 3): their official files, classes and metrics."""

from __future__ import annotations

import dataclasses
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Literal

from transformer_jax.data.labelled_text import LabelledText, labelled_rows, read_fields
from transformer_jax.data.sources import SPLITS
from transformer_jax.errors import UserError

_FILES = {"train": "train.tsv", "valid": "dev.tsv", "test": "test.tsv"}
_MNLI = ("entailment", "neutral", "contradiction")
_ENTAILMENT = ("entailment", "not_entailment")
_BINARY = ("0", "1")


@dataclasses.dataclass(frozen=True)
class GlueTask:
    """A task as GLUE distributes it.

    Attributes:
      name: as TensorFlow Datasets calls it.
      files: the file of each split that it has.
      first: the column of the text, or of the first one of a pair.
      second: the column of the second text; None where there are no pairs.
      label: the column of the label, which most test files lack.
      labels: the classes as written in the files, in the order of their numbers, which is that of
        the GLUE of TensorFlow Datasets; empty for regression.
      metrics: what the benchmark judges it by (table 1 of the paper), as functions of
        `tasks.classification_metrics`.
      header: the columns of train and valid where those files name none themselves.
    """

    name: str
    files: Mapping[str, str]
    first: str
    second: str | None
    label: str
    labels: tuple[str, ...]
    metrics: tuple[str, ...]
    header: tuple[str, ...] = ()

    @property
    def kind(self) -> Literal["classification", "regression"]:
        """Whether its labels are classes or numbers."""
        return "classification" if self.labels else "regression"


def _mnli(name: str, part: str) -> GlueTask:
    files = {"train": "train.tsv", "valid": f"dev_{part}.tsv", "test": f"test_{part}.tsv"}
    return GlueTask(name, files, "sentence1", "sentence2", "gold_label", _MNLI, ("accuracy",))


def _pairs(name: str, labels: tuple[str, ...], *metrics: str, label: str = "label") -> GlueTask:
    return GlueTask(name, _FILES, "sentence1", "sentence2", label, labels, metrics)


_TASKS = (
    GlueTask(
        "cola",
        _FILES,
        "sentence",
        None,
        "label",
        _BINARY,
        ("matthews",),
        header=("source", "label", "star", "sentence"),  # its test file has a header
    ),
    GlueTask("sst2", _FILES, "sentence", None, "label", _BINARY, ("accuracy",)),
    GlueTask("mrpc", _FILES, "#1 String", "#2 String", "Quality", _BINARY, ("accuracy", "f1")),
    _pairs("stsb", (), "pearson", "spearman", label="score"),
    GlueTask("qqp", _FILES, "question1", "question2", "is_duplicate", _BINARY, ("accuracy", "f1")),
    _mnli("mnli", "matched"),
    _mnli("mnli_mismatched", "mismatched"),
    GlueTask("qnli", _FILES, "question", "sentence", "label", _ENTAILMENT, ("accuracy",)),
    _pairs("rte", _ENTAILMENT, "accuracy"),
    _pairs("wnli", _BINARY, "accuracy"),
    # The diagnostic set, for models of MNLI: it has nothing to train on.
    GlueTask(
        "ax", {"test": "diagnostic.tsv"}, "sentence1", "sentence2", "label", _MNLI, ("matthews",)
    ),
)
# The same with labels, as it is published beside the benchmark.
_LABELLED_AX = GlueTask(
    "ax", {"test": "diagnostic-full.tsv"}, "Premise", "Hypothesis", "Label", _MNLI, ("matthews",)
)
GLUE_TASKS: Mapping[str, GlueTask] = {task.name: task for task in _TASKS}


def glue_task(name: str) -> GlueTask:
    """The task of a name.

    Raises:
      UserError: GLUE has no such task.
    """
    if name not in GLUE_TASKS:
        raise UserError(f"GLUE has no task {name!r}, only {', '.join(GLUE_TASKS)}.")
    return GLUE_TASKS[name]


def _task_in(name: str, folder: str | Path) -> GlueTask:
    """The task of a name, as its folder has it."""
    task = glue_task(name)
    labelled = name == "ax" and (Path(folder) / _LABELLED_AX.files["test"]).is_file()
    return _LABELLED_AX if labelled else task


def glue_file(name: str, folder: str | Path, split: str) -> Path:
    """Where in the folder of a task a split is.

    Raises:
      UserError: GLUE has no such task, or the task no such split.
    """
    task = _task_in(name, folder)
    if split not in SPLITS:
        raise UserError(f"Split {split!r} is none of {', '.join(SPLITS)}.")
    if split not in task.files:
        raise UserError(f"GLUE's {name} has no split {split!r}, only {', '.join(task.files)}.")
    return Path(folder) / task.files[split]


def read_glue(name: str, folder: str | Path, split: str) -> LabelledText:
    """Reads a split of a task from its official files; a quote is a character like any other.

    MRPC is read from the train.tsv, dev.tsv and test.tsv that GLUE's script makes of Microsoft's
    msr_paraphrase_*.txt. An empty text is kept. Lines of QQP's train.tsv that do not have six
    fields are parts of questions with a line break; they are left out with a warning.

    Args:
      name: one of `GLUE_TASKS`.
      folder: where the files of this task are, as glue_data/CoLA.
      split: train, valid or test. The labels of a test split are None unless its file has them.

    Raises:
      UserError: no such task, split or file, or a line that is no example, with its number.
    """
    task, file = _task_in(name, folder), glue_file(name, folder, split)
    rows = read_fields(file, f"GLUE's {name} is in the files {', '.join(task.files.values())}.")
    if task.header and split != "test":
        header: list[str] = list(task.header)
    else:
        header, rows = rows[0][1], rows[1:]
    needed = [column for column in (task.first, task.second) if column is not None]
    label = task.label if split != "test" or task.label in header else None
    for column in needed + ([label] if label else []):
        if column not in header:
            raise UserError(
                f"{file}:1 names no column {column!r}, only {', '.join(map(repr, header))}. Use "
                f"the file as GLUE distributes it."
            )
    if name == "qqp" and split == "train":
        whole = [(number, fields) for number, fields in rows if len(fields) == len(header)]
        if broken := len(rows) - len(whole):
            warnings.warn(f"{file}: {broken} broken lines are left out.", stacklevel=2)
        rows = whole
    filled = [label] if label else []
    return labelled_rows(file, header, rows, task.first, task.second, label, filled=filled)

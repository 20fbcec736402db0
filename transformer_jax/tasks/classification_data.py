"""Labelled texts for fine-tuning: where they are, their classes, and their packed rows."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from transformer_jax.data.encoder_tokenizer import EncoderTokenizer
from transformer_jax.data.glue import glue_file, glue_task, read_glue
from transformer_jax.data.labelled_text import (
    LabelledText,
    label_ids,
    label_names,
    read_labelled,
    scores,
)
from transformer_jax.data.pipeline import Rows
from transformer_jax.data.text_examples import text_examples
from transformer_jax.errors import UserError
from transformer_jax.tasks.fine_tuning_data import ExampleRows, FineTuningData
from transformer_jax.tasks.run_labels import labels_of_run


@dataclasses.dataclass(frozen=True)
class ClassificationData(FineTuningData):
    """Labelled texts, or pairs of them.

    `path` is a folder with train.tsv, valid.tsv and test.tsv, tab-separated, whose header names the
    columns: text (and text_b for pairs) and label; or `glue:NAME:FOLDER` for a task of GLUE with
    its official files in FOLDER.

    Attributes:
      regression: labels are numbers, of which one is predicted; GLUE's stsb has it by itself.
    """

    regression: bool = False

    @property
    def glue_name(self) -> str | None:
        """Which task of GLUE it is, if it is one.

        Raises:
          UserError: GLUE has no such task, or the folder is not named.
        """
        scheme, *rest = self.path.split(":", 2)
        if scheme != "glue" or not rest:
            return None
        if len(rest) != 2:
            raise UserError(f"{self.path}: write glue:NAME:FOLDER.")
        return glue_task(rest[0]).name

    @property
    def has_classes(self) -> bool:
        """Whether labels are classes, and not numbers."""
        name = self.glue_name
        return not self.regression if name is None else glue_task(name).kind == "classification"

    def read(self, split: str) -> tuple[LabelledText, Path]:
        """The examples of a split, and their file.

        Raises:
          UserError: it is missing or malformed.
        """
        if (name := self.glue_name) is not None:
            folder = self.path.split(":", 2)[2]
            return read_glue(name, folder, split), glue_file(name, folder, split)
        return read_labelled(self.path, split), Path(self.path) / f"{split}.tsv"


@dataclasses.dataclass(frozen=True, eq=False)
class LabelledRows(ExampleRows):
    """A split as tokens and numbers.

    Attributes:
      labels: [N], int32 classes or float32 numbers; None if the split has none.
    """

    labels: np.ndarray | None

    @property
    def labelled(self) -> bool:
        """Whether it has labels."""
        return self.labels is not None

    @property
    def targets(self) -> tuple[np.ndarray, ...]:
        """The labels."""
        return (np.zeros(0, np.int32) if self.labels is None else self.labels,)

    def build(self, rows: Rows) -> dict[str, np.ndarray]:
        """The arrays of `example_rows`; with labels [B,E], and weights [B,E]: 1 for an example."""
        batch = super().build(rows)
        there = batch["examples"] >= 0
        labels = np.zeros(len(self), np.int32) if self.labels is None else self.labels
        batch["labels"] = np.where(there, labels[batch["examples"]], 0).astype(labels.dtype)
        batch["weights"] = there.astype(np.float32)
        return batch


def read_split(
    data: ClassificationData, split: str, tokenizer: EncoderTokenizer, labels: Sequence[str]
) -> LabelledRows:
    """Reads a split as tokens.

    Args:
      data: where it is.
      split: train, valid or test.
      tokenizer: of the encoder.
      labels: the classes; () for numbers.

    Raises:
      UserError: it is missing or malformed, or has a label that is no class or no number.
    """
    text, file = data.read(split)
    examples = text_examples(tokenizer, text.first, text.second, max_tokens=data.longest)
    if text.labels is None:
        return LabelledRows(examples, data, None)
    found = label_ids(text, labels, file) if data.has_classes else scores(text, file)
    return LabelledRows(examples, data, found)


def run_labels(data: ClassificationData, workdir: Path) -> tuple[str, ...]:
    """The classes of the run in `workdir`, found in its training data at its start; () for numbers.

    Raises:
      UserError: the data is missing or malformed, or has a single class.
    """
    return labels_of_run(workdir, functools.partial(_find_labels, data))


def _find_labels(data: ClassificationData) -> list[str]:
    if not data.has_classes:
        return []
    if (name := data.glue_name) is not None:
        return list(glue_task(name).labels)
    labels = label_names(data.read("train")[0])
    if len(labels) < 2:
        raise UserError(
            f"{data.path}: all training examples have the label {labels[0]!r}. Classes are two or "
            f"more; --data.regression predicts numbers."
        )
    return labels

"""Labelled texts for fine-tuning: where they are, their classes, and their packed rows."""

from __future__ import annotations

import dataclasses
import functools
import hashlib
from collections.abc import Iterator, Sequence
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
from transformer_jax.data.pipeline import DataState, Rows, batches
from transformer_jax.data.text_examples import (
    TextExamples,
    example_rows,
    pack_examples,
    text_examples,
)
from transformer_jax.errors import UserError
from transformer_jax.tasks.run_labels import labels_of_run
from transformer_jax.typing import Batch


@dataclasses.dataclass(frozen=True)
class ClassificationData:
    """Where the examples are, and how they are laid out.

    Attributes:
      path: a folder with train.tsv, valid.tsv and test.tsv, tab-separated, whose header names the
        columns: text (and text_b for pairs) and label; or `glue:NAME:FOLDER` for a task of GLUE
        with its official files in FOLDER.
      tokenizer: a tokenizer's file, or a folder that has one; "" is that of train.init_from.
      lowercase: says of a vocab.txt that it is of an uncased model.
      regression: labels are numbers, of which one is predicted; GLUE's stsb has it by itself.
      row_length: tokens of a packed row.
      example_length: most tokens of an example, which is cut; None: a row.
      row_examples: most examples of a row; None: one for each 8 tokens.
    """

    path: str = ""
    tokenizer: str = ""
    lowercase: bool = True
    regression: bool = False
    row_length: int = 128
    example_length: int | None = None
    row_examples: int | None = None

    def __post_init__(self) -> None:
        if not 8 <= self.longest <= self.row_length:
            raise ValueError(
                f"data.example_length={self.longest} must be in 8..{self.row_length}, the row."
            )
        if self.row_examples is not None and self.row_examples < 1:
            raise ValueError(f"data.row_examples={self.row_examples} must be at least 1.")
        # The run must find its data and its tokenizer from any folder.
        scheme, colon, folder = self.path.rpartition(":")
        if folder and Path(folder).is_dir():
            object.__setattr__(self, "path", f"{scheme}{colon}{Path(folder).resolve()}")
        if self.tokenizer and Path(self.tokenizer).exists():
            object.__setattr__(self, "tokenizer", str(Path(self.tokenizer).resolve()))

    @property
    def longest(self) -> int:
        """The most tokens of an example."""
        return self.example_length or self.row_length

    @property
    def places(self) -> int:
        """The most examples E of a row."""
        return self.row_examples or max(1, self.row_length // 8)

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
class LabelledRows:
    """A split as tokens and numbers.

    Attributes:
      examples: the tokens.
      labels: [N], int32 classes or float32 numbers; None if the split has none.
      data: how rows are laid out.
    """

    examples: TextExamples
    labels: np.ndarray | None
    data: ClassificationData

    @functools.cached_property
    def fingerprint(self) -> str:
        """A hash of tokens and labels."""
        digest = hashlib.sha256()
        tokens = self.examples.tokens
        labels = np.zeros(0, np.int32) if self.labels is None else self.labels
        for array in (tokens.tokens, tokens.offsets, self.examples.first_sizes, labels):
            digest.update(np.ascontiguousarray(array).data)
        return digest.hexdigest()[:16]

    def plan(self, epoch: int, *, seed: int) -> list[np.ndarray]:
        """The rows of an epoch."""
        shape = {"row_length": self.data.row_length, "row_examples": self.data.places}
        return pack_examples(self.examples, **shape, seed=seed, epoch=epoch)

    def build(self, rows: Rows) -> dict[str, np.ndarray]:
        """The arrays of `example_rows`; with labels [B,E], and weights [B,E]: 1 for an example."""
        shape = {"row_length": self.data.row_length, "row_examples": self.data.places}
        batch = example_rows(self.examples, rows, **shape)
        there = batch["examples"] >= 0
        labels = np.zeros(len(self.examples), np.int32) if self.labels is None else self.labels
        batch["labels"] = np.where(there, labels[batch["examples"]], 0).astype(labels.dtype)
        batch["weights"] = there.astype(np.float32)
        return batch

    def batches(
        self, seed: int, start: DataState, batch_size: int, process_index: int, process_count: int
    ) -> Iterator[tuple[Batch, DataState]]:
        """Endless batches of this host; see `pipeline.batches`."""
        return batches(
            functools.partial(self.plan, seed=seed),
            self.build,
            batch_size=batch_size,
            start=start,
            process_index=process_index,
            process_count=process_count,
        )


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
        return LabelledRows(examples, None, data)
    found = label_ids(text, labels, file) if data.has_classes else scores(text, file)
    return LabelledRows(examples, found, data)


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

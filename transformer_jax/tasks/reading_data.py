"""Questions of SQuAD for fine-tuning: their files, their windows, and their packed rows."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import ClassVar

import numpy as np

from transformer_jax.data.encoder_tokenizer import EncoderTokenizer
from transformer_jax.data.pipeline import Ragged, Rows
from transformer_jax.data.squad import SPECIAL_TOKENS, Question, Window, read_squad, windows
from transformer_jax.data.text_examples import TextExamples
from transformer_jax.errors import UserError
from transformer_jax.tasks.fine_tuning_data import ExampleRows, FineTuningData

# What SQuAD calls its files; the true answers of its test are not public.
_OFFICIAL = {"train": "train", "valid": "dev", "test": "dev"}


@dataclasses.dataclass(frozen=True)
class ReadingData(FineTuningData):
    """Questions and the texts that answer them; an example is a window of a text.

    `path` is a folder with train.json, valid.json and test.json in the format of SQuAD, or with the
    files of SQuAD itself, train-v1.1.json and dev-v1.1.json, or -v2.0; dev is valid and test.

    Attributes:
      stride: from the beginning of a window to that of the next one, in tokens.
      max_question_tokens: a longer question is cut.
    """

    row_length: int = 384
    stride: int = 128
    max_question_tokens: int = 64

    tokens_a_place: ClassVar[int] = 32

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("stride", "max_question_tokens"):
            if (number := getattr(self, name)) < 1:
                raise ValueError(f"data.{name}={number} must be at least 1.")
        least = self.max_question_tokens + SPECIAL_TOKENS + 2  # a second [SEP], and one of context
        if self.longest < least:
            raise ValueError(
                f"data.example_length={self.longest} must be at least {least}, more than "
                f"data.max_question_tokens."
            )

    def file(self, split: str) -> Path:
        """The file of a split: train, valid or test.

        Raises:
          UserError: there is none, or it is not clear which.
        """
        if split not in _OFFICIAL:
            raise UserError(f"There is no split {split!r}. Take train, valid or test.")
        folder = Path(self.path)
        if not self.path or not folder.is_dir():
            raise UserError(
                f"--data.path {self.path!r} is no existing folder. Name the one that has "
                f"train.json or train-v1.1.json."
            )
        if (own := folder / f"{split}.json").is_file():
            return own
        names = [f"{_OFFICIAL[split]}-v{version}.json" for version in ("1.1", "2.0")]
        found = [folder / name for name in names if (folder / name).is_file()]
        if len(found) == 1:
            return found[0]
        if found:
            raise UserError(f"{folder} has {' and '.join(names)}. Give each a folder of its own.")
        raise UserError(f"{folder} has no {split}.json, and no {' or '.join(names)}.")


@dataclasses.dataclass(frozen=True, eq=False)
class ReadingRows(ExampleRows):
    """A split as questions, and as N windows.

    Attributes:
      questions: in the order of the file.
      answers: int32 [N,2], the first and the last token of the answer, counted in the window with
        its special tokens; 0 and 0, which is [CLS], where not all of it is there.
    """

    questions: Sequence[Question]
    answers: np.ndarray

    @property
    def targets(self) -> tuple[np.ndarray, ...]:
        """The answers."""
        return (self.answers,)

    def build(self, rows: Rows) -> dict[str, np.ndarray]:
        """The arrays of `example_rows`, and what is learnt of each window.

        starts, ends: int32 [B,E], where in its row the answer starts and where it ends; weights:
        float32 [B,E], 1 for a window, 0 where there is none.
        """
        batch = super().build(rows)
        there = batch["examples"] >= 0
        for side, name in enumerate(("starts", "ends")):
            places = batch["first_tokens"] + self.answers[batch["examples"], side]
            batch[name] = np.where(there, places, 0).astype(np.int32)
        batch["weights"] = there.astype(np.float32)
        return batch


def read_split(data: ReadingData, split: str, tokenizer: EncoderTokenizer) -> ReadingRows:
    """Reads a split as windows.

    Args:
      data: where it is.
      split: train, valid or test.
      tokenizer: of the encoder.

    Raises:
      UserError: it is missing or malformed.
    """
    questions = read_squad(data.file(split))
    of_questions = question_windows(
        tokenizer,
        questions,
        max_tokens=data.longest,
        stride=data.stride,
        max_question_tokens=data.max_question_tokens,
    )
    flat = [window for of_question in of_questions for window in of_question]
    examples = window_examples(tokenizer, flat)
    return ReadingRows(examples, data, questions, _answers(tokenizer, flat))


def question_windows(
    tokenizer: EncoderTokenizer,
    questions: Sequence[Question],
    *,
    max_tokens: int,
    stride: int,
    max_question_tokens: int,
) -> list[list[Window]]:
    """The windows of each question; see `squad.windows`, which knows of a single [SEP] between."""
    room = max_tokens - tokenizer.separates_twice
    return [
        windows(
            tokenizer,
            question,
            max_tokens=room,
            stride=stride,
            max_question_tokens=max_question_tokens,
        )
        for question in questions
    ]


def window_examples(tokenizer: EncoderTokenizer, found: Sequence[Window]) -> TextExamples:
    """[CLS] question [SEP] context [SEP], with two [SEP] between if it `separates_twice`."""
    cls, sep = [np.int32(tokenizer.cls_id)], [np.int32(tokenizer.sep_id)]
    between = sep * (1 + tokenizer.separates_twice)
    rows = [np.concatenate([cls, w.question_ids, between, w.context_ids, sep]) for w in found]
    first_sizes = np.array([len(window.question_ids) + 2 for window in found], np.int64)
    return TextExamples(Ragged.from_lists(rows), first_sizes, np.zeros(len(found), np.int64))


def _answers(tokenizer: EncoderTokenizer, found: Sequence[Window]) -> np.ndarray:
    """The answers as tokens of the examples: int32 [N,2]."""
    answers = np.zeros((len(found), 2), np.int32)
    for i, window in enumerate(found):
        if window.answer is not None:
            answers[i] = window.answer
            answers[i] += len(window.question_ids) + 2 + tokenizer.separates_twice
    return answers

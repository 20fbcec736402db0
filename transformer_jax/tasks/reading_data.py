"""Questions of SQuAD for fine-tuning: their files, their windows, and their packed rows."""

from __future__ import annotations

import dataclasses
import functools
import hashlib
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

from transformer_jax.data.encoder_tokenizer import EncoderTokenizer
from transformer_jax.data.pipeline import DataState, Ragged, Rows, batches
from transformer_jax.data.squad import SPECIAL_TOKENS, Question, Window, read_squad, windows
from transformer_jax.data.text_examples import TextExamples, example_rows, pack_examples
from transformer_jax.errors import UserError
from transformer_jax.typing import Batch

# What SQuAD calls its files; the true answers of its test are not public.
_OFFICIAL = {"train": "train", "valid": "dev", "test": "dev"}


@dataclasses.dataclass(frozen=True)
class ReadingData:
    """Where the questions are, and how they are laid out.

    Attributes:
      path: a folder with train.json, valid.json and test.json in the format of SQuAD, or with the
        files of SQuAD itself, train-v1.1.json and dev-v1.1.json, or -v2.0; dev is valid and test.
      tokenizer: a tokenizer's file, or a folder that has one; "" is that of train.init_from.
      lowercase: says of a vocab.txt that it is of an uncased model.
      row_length: tokens of a packed row.
      example_length: most tokens of a window, with its question; None: a row.
      stride: from the beginning of a window to that of the next one, in tokens.
      max_question_tokens: a longer question is cut.
      row_examples: most windows of a row; None: one for each 32 tokens.
    """

    path: str = ""
    tokenizer: str = ""
    lowercase: bool = True
    row_length: int = 384
    example_length: int | None = None
    stride: int = 128
    max_question_tokens: int = 64
    row_examples: int | None = None

    def __post_init__(self) -> None:
        for name in ("stride", "max_question_tokens", "row_examples"):
            if (number := getattr(self, name)) is not None and number < 1:
                raise ValueError(f"data.{name}={number} must be at least 1.")
        least = self.max_question_tokens + SPECIAL_TOKENS + 2  # a second [SEP], and one of context
        if not least <= self.longest <= self.row_length:
            raise ValueError(
                f"data.example_length={self.longest} must be in {least}..{self.row_length}: more "
                f"than data.max_question_tokens, and no more than a row."
            )
        # The run must find its data and its tokenizer from any folder.
        for name in ("path", "tokenizer"):
            if (given := getattr(self, name)) and Path(given).exists():
                object.__setattr__(self, name, str(Path(given).resolve()))

    @property
    def longest(self) -> int:
        """The most tokens of a window."""
        return self.example_length or self.row_length

    @property
    def places(self) -> int:
        """The most windows E of a row."""
        return self.row_examples or max(1, self.row_length // 32)

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
class ReadingRows:
    """A split as questions, and as N windows.

    Attributes:
      questions: in the order of the file.
      examples: the tokens of their windows.
      answers: int32 [N,2], the first and the last token of the answer, counted in the window with
        its special tokens; 0 and 0, which is [CLS], where not all of it is there.
      data: how rows are laid out.
    """

    questions: Sequence[Question]
    examples: TextExamples
    answers: np.ndarray
    data: ReadingData

    @functools.cached_property
    def fingerprint(self) -> str:
        """A hash of tokens and answers."""
        digest = hashlib.sha256()
        tokens = self.examples.tokens
        for array in (tokens.tokens, tokens.offsets, self.examples.first_sizes, self.answers):
            digest.update(np.ascontiguousarray(array).data)
        return digest.hexdigest()[:16]

    def plan(self, epoch: int, *, seed: int) -> list[np.ndarray]:
        """The rows of an epoch."""
        shape = {"row_length": self.data.row_length, "row_examples": self.data.places}
        return pack_examples(self.examples, **shape, seed=seed, epoch=epoch)

    def build(self, rows: Rows) -> dict[str, np.ndarray]:
        """The arrays of `example_rows`, and what is learnt of each window.

        starts, ends: int32 [B,E], where in its row the answer starts and where it ends; weights:
        float32 [B,E], 1 for a window, 0 where there is none.
        """
        shape = {"row_length": self.data.row_length, "row_examples": self.data.places}
        batch = example_rows(self.examples, rows, **shape)
        there = batch["examples"] >= 0
        for side, name in enumerate(("starts", "ends")):
            places = batch["first_tokens"] + self.answers[batch["examples"], side]
            batch[name] = np.where(there, places, 0).astype(np.int32)
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
    return ReadingRows(questions, window_examples(tokenizer, flat), _answers(tokenizer, flat), data)


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

"""Sentences of tagged words for fine-tuning: their files, their tags, and their packed rows."""

from __future__ import annotations

import dataclasses
import functools
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from transformer_jax.data.conll import (
    TaggedSentence,
    encode_words,
    label_pieces,
    read_conll,
    tag_ids,
    tag_names,
)
from transformer_jax.data.encoder_tokenizer import EncoderTokenizer
from transformer_jax.data.pipeline import Ragged, Rows
from transformer_jax.data.text_examples import TextExamples
from transformer_jax.errors import UserError
from transformer_jax.tasks.fine_tuning_data import ExampleRows, FineTuningData
from transformer_jax.tasks.run_labels import labels_of_run


@dataclasses.dataclass(frozen=True)
class TaggingData(FineTuningData):
    """Sentences of tagged words.

    `path` is a folder with train.txt, valid.txt and test.txt, as of CoNLL-2003: a word a line, then
    columns of tags; a blank line between sentences.

    Attributes:
      column: of the tags; 0 is that of the words, -1 the last one.
    """

    column: int = -1

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.column == 0:
            raise ValueError("data.column=0 is that of the words, and not of their tags.")

    def file(self, split: str) -> Path:
        """The file of a split: train, valid or test.

        Raises:
          UserError: there is no such folder.
        """
        if not self.path or not Path(self.path).is_dir():
            raise UserError(
                f"--data.path {self.path!r} is no existing folder. Name the one that has "
                f"train.txt, valid.txt and test.txt."
            )
        return Path(self.path) / f"{split}.txt"

    def read(self, split: str) -> list[TaggedSentence]:
        """The sentences of a split.

        Raises:
          UserError: it is missing or malformed.
        """
        return read_conll(self.file(split), column=self.column)


@dataclasses.dataclass(frozen=True, eq=False)
class WordExamples:
    """N sentences as tokens.

    Attributes:
      examples: [CLS], the pieces of the words, [SEP].
      first_pieces: bool [T] of each sentence, where a word begins; never a special token.
      lost: int64 [N], the words that begin behind the place where a sentence is cut.
    """

    examples: TextExamples
    first_pieces: list[np.ndarray]
    lost: np.ndarray


@dataclasses.dataclass(frozen=True, eq=False)
class TaggedRows(ExampleRows):
    """A split as tokens and numbers.

    Attributes:
      sentences: in the order of the file.
      lost: int64 [N], the words of each that were left out.
      labels: the number of the tag at the first piece of each word, -1 at all other tokens.
    """

    sentences: Sequence[TaggedSentence]
    lost: np.ndarray
    labels: Ragged

    @property
    def targets(self) -> tuple[np.ndarray, ...]:
        """The labels."""
        return (self.labels.tokens,)

    def build(self, rows: Rows) -> dict[str, np.ndarray]:
        """The arrays of `example_rows`; with labels, int32 [B,T]: -1 where nothing is to learn."""
        batch = super().build(rows)
        labels = np.full(batch["tokens"].shape, -1, np.int32)
        for row, place in np.argwhere(batch["examples"] >= 0).tolist():
            found = self.labels[batch["examples"][row, place]]
            start = batch["first_tokens"][row, place]
            labels[row, start : start + len(found)] = found
        return batch | {"labels": labels}


def word_examples(
    tokenizer: EncoderTokenizer, sentences: Sequence[Sequence[str]], *, max_tokens: int
) -> WordExamples:
    """Tokenises sentences of words; one that is too long loses its end.

    Args:
      tokenizer: of the encoder.
      sentences: N sentences; one may be empty.
      max_tokens: the most of a sentence, special tokens included.
    """
    cls, sep = [np.int32(tokenizer.cls_id)], [np.int32(tokenizer.sep_id)]
    room = max_tokens - len(cls) - len(sep)
    rows, first_pieces, cut, lost = [], [], [], []
    for words in sentences:
        ids, word = encode_words(tokenizer, words, sys.maxsize)  # all, to count what is cut
        starts = np.diff(word, prepend=-1) > 0
        rows.append(np.concatenate([cls, ids[:room], sep]))
        first_pieces.append(np.concatenate([[False], starts[:room], [False]]))
        cut.append(max(0, len(ids) - room))
        lost.append(np.count_nonzero(starts[room:]))
    sizes = np.array([len(row) for row in rows], np.int64)
    examples = TextExamples(Ragged.from_lists(rows), sizes, np.array(cut, np.int64))
    return WordExamples(examples, first_pieces, np.array(lost, np.int64))


def read_split(
    data: TaggingData, split: str, tokenizer: EncoderTokenizer, labels: Sequence[str]
) -> TaggedRows:
    """Reads a split as tokens.

    Args:
      data: where it is.
      split: train, valid or test.
      tokenizer: of the encoder.
      labels: the tags.

    Raises:
      UserError: it is missing or malformed, or has a tag that is none of these.
    """
    sentences = data.read(split)
    try:
        tags = tag_ids(sentences, labels)
    except UserError as error:
        raise UserError(f"{data.file(split)}: {error}") from error
    words = word_examples(tokenizer, [s.words for s in sentences], max_tokens=data.longest)
    pieces = [label_pieces(*each) for each in zip(words.first_pieces, tags, strict=True)]
    tags_of_pieces = Ragged.from_lists(pieces)
    return TaggedRows(words.examples, data, sentences, words.lost, tags_of_pieces)


def run_labels(data: TaggingData, workdir: Path) -> tuple[str, ...]:
    """The tags of the run in `workdir`, found in its training data at its start.

    Raises:
      UserError: the data is missing or malformed, or has a single tag.
    """
    return labels_of_run(workdir, functools.partial(_find_labels, data))


def _find_labels(data: TaggingData) -> list[str]:
    labels = tag_names(data.read("train"))
    if len(labels) < 2:
        raise UserError(
            f"{data.file('train')}: all words have the tag {labels[0]!r}. Choose the column of the "
            f"tags with --data.column."
        )
    return labels

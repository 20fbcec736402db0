"""Sentences of tagged words for fine-tuning: their files, their tags, and their packed rows."""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import sys
from collections.abc import Iterator, Sequence
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
from transformer_jax.data.pipeline import DataState, Ragged, Rows, batches
from transformer_jax.data.text_examples import TextExamples, example_rows, pack_examples
from transformer_jax.errors import UserError
from transformer_jax.tasks.run_labels import labels_of_run
from transformer_jax.typing import Batch


@dataclasses.dataclass(frozen=True)
class TaggingData:
    """Where the sentences are, and how they are laid out.

    Attributes:
      path: a folder with train.txt, valid.txt and test.txt, as of CoNLL-2003: a word a line, then
        columns of tags; a blank line between sentences.
      tokenizer: a tokenizer's file, or a folder that has one; "" is that of train.init_from.
      lowercase: says of a vocab.txt that it is of an uncased model.
      column: of the tags; 0 is that of the words, -1 the last one.
      row_length: tokens of a packed row.
      example_length: most tokens of a sentence, which is cut; None: a row.
      row_examples: most sentences of a row; None: one for each 8 tokens.
    """

    path: str = ""
    tokenizer: str = ""
    lowercase: bool = True
    column: int = -1
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
        if self.column == 0:
            raise ValueError("data.column=0 is that of the words, and not of their tags.")
        # The run must find its data and its tokenizer from any folder.
        for name in ("path", "tokenizer"):
            if (given := getattr(self, name)) and Path(given).exists():
                object.__setattr__(self, name, str(Path(given).resolve()))

    @property
    def longest(self) -> int:
        """The most tokens of a sentence."""
        return self.example_length or self.row_length

    @property
    def places(self) -> int:
        """The most sentences E of a row."""
        return self.row_examples or max(1, self.row_length // 8)

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
class TaggedRows:
    """A split as tokens and numbers.

    Attributes:
      sentences: in the order of the file.
      words: their tokens.
      labels: the number of the tag at the first piece of each word, -1 at all other tokens.
      data: how rows are laid out.
    """

    sentences: Sequence[TaggedSentence]
    words: WordExamples
    labels: Ragged
    data: TaggingData

    @functools.cached_property
    def fingerprint(self) -> str:
        """A hash of tokens and labels."""
        digest = hashlib.sha256()
        tokens = self.words.examples.tokens
        for array in (tokens.tokens, tokens.offsets, self.labels.tokens):
            digest.update(np.ascontiguousarray(array).data)
        return digest.hexdigest()[:16]

    def plan(self, epoch: int, *, seed: int) -> list[np.ndarray]:
        """The rows of an epoch."""
        shape = {"row_length": self.data.row_length, "row_examples": self.data.places}
        return pack_examples(self.words.examples, **shape, seed=seed, epoch=epoch)

    def build(self, rows: Rows) -> dict[str, np.ndarray]:
        """The arrays of `example_rows`; with labels, int32 [B,T]: -1 where nothing is to learn."""
        shape = {"row_length": self.data.row_length, "row_examples": self.data.places}
        batch = example_rows(self.words.examples, rows, **shape)
        labels = np.full(batch["tokens"].shape, -1, np.int32)
        for row, place in np.argwhere(batch["examples"] >= 0).tolist():
            found = self.labels[batch["examples"][row, place]]
            start = batch["first_tokens"][row, place]
            labels[row, start : start + len(found)] = found
        return batch | {"labels": labels}

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
    return TaggedRows(sentences, words, Ragged.from_lists(pieces), data)


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

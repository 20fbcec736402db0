"""A split of a corpus in memory: its documents as tokens, and the packed rows of each epoch."""

from __future__ import annotations

import functools
import hashlib
import itertools
from collections.abc import Iterable, Iterator
from typing import Any, Literal, Protocol

import numpy as np

from transformer_jax.data.document_ranges import Document
from transformer_jax.data.encoder_rows import EncoderRows, build_rows, plan_rows
from transformer_jax.data.encoder_tokenizer import Encoded, EncoderTokenizer
from transformer_jax.data.pipeline import Rows
from transformer_jax.data.sentence_pairs import Documents, full_sentences, nsp_pairs, sop_pairs

ExampleKind = Literal["next_sentence", "sentence_order", "full_sentences"]

MAKERS = {
    "next_sentence": nsp_pairs,
    "sentence_order": sop_pairs,
    "full_sentences": full_sentences,
}

_BLOCK = 256  # documents that are tokenised at a time


class PretrainingRows(Protocol):
    """The packed rows of a split, epoch after epoch.

    Attributes:
      summary: how much there is of it, for people.
    """

    summary: str

    @property
    def fingerprint(self) -> str:
        """Names what the rows depend on, beside seed and epoch."""
        ...

    def plan(self, epoch: int, *, seed: int) -> Rows:
        """The rows of an epoch; pure, so that all hosts agree."""
        ...

    def filled(self, rows: Any) -> float:
        """The share of the positions of an epoch's rows that hold a token."""
        ...

    def build(self, rows: Rows) -> dict[str, np.ndarray]:
        """The arrays of `encoder_rows.build_rows`."""
        ...

    def unigrams(self) -> np.ndarray:
        """How often each token stands in the split: int64 [V]."""
        ...


class CorpusRows:
    """`PretrainingRows` of documents in memory: pairs and rows are made anew for each epoch."""

    def __init__(
        self,
        documents: Documents,
        tokenizer: EncoderTokenizer,
        *,
        examples: ExampleKind,
        row_length: int,
        example_length: int,
        row_examples: int,
    ) -> None:
        self.documents, self._tokenizer = documents, tokenizer
        self._examples, self._example_length = examples, example_length
        self._row_length, self._row_examples = row_length, row_examples
        tokens = len(documents.paragraphs.tokens)
        self.summary = f"{len(documents.borders) - 1:,} documents of {tokens:,} tokens"

    @functools.cached_property
    def fingerprint(self) -> str:
        """A hash of the tokens and of where words, paragraphs and documents begin."""
        digest = hashlib.sha256()
        paragraphs = self.documents.paragraphs
        for part in (paragraphs.tokens, paragraphs.offsets, self.documents.word_starts):
            digest.update(part.data)
        digest.update(self.documents.borders.data)
        return digest.hexdigest()[:16]

    def plan(self, epoch: int, *, seed: int) -> EncoderRows:
        """Cuts the corpus into examples, and packs them; each example stands in one row."""
        examples = MAKERS[self._examples](
            self.documents, max_tokens=self._example_length, seed=seed, epoch=epoch
        )
        return plan_rows(
            examples,
            row_length=self._row_length,
            row_examples=self._row_examples,
            seed=seed,
            epoch=epoch,
        )

    def filled(self, rows: EncoderRows) -> float:
        """The share of the positions of an epoch's rows that hold a token."""
        return float(rows.examples.lengths.sum() / (len(rows) * self._row_length))

    def build(self, rows: Rows) -> dict[str, np.ndarray]:
        """The arrays of `encoder_rows.build_rows`."""
        return build_rows(
            self.documents,
            rows,
            row_length=self._row_length,
            row_examples=self._row_examples,
            cls_id=self._tokenizer.cls_id,
            sep_id=self._tokenizer.sep_id,
        )

    def unigrams(self) -> np.ndarray:
        """How often each token stands in the split: int64 [V]."""
        tokens = self.documents.paragraphs.tokens
        return np.bincount(tokens, minlength=self._tokenizer.vocab_size)


def tokenise(documents: Iterable[Document], tokenizer: EncoderTokenizer) -> Documents:
    """Documents as tokens, a block at a time: as text they need not fit into memory."""
    return Documents.from_lists(_tokenised(iter(documents), tokenizer))


def _tokenised(
    documents: Iterator[Document], tokenizer: EncoderTokenizer
) -> Iterator[list[Encoded]]:
    while block := list(itertools.islice(documents, _BLOCK)):
        encoded = iter(tokenizer.encode([text for document in block for text in document]))
        yield from (list(itertools.islice(encoded, len(document))) for document in block)

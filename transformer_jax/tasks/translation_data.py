"""The sentence pairs of a translation task: where they are, and a split of them as tokens."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Literal

import numpy as np

from transformer_jax.data.packing import balanced_capacity
from transformer_jax.data.pipeline import Ragged, pair_lengths
from transformer_jax.data.sources import read_pairs
from transformer_jax.data.tokenizers import SentencePieceTokenizer
from transformer_jax.errors import UserError

_BLOCK = 100_000  # sentences that are encoded at a time


@dataclasses.dataclass(frozen=True)
class TranslationData:
    """Where the sentence pairs are.

    Attributes:
      path: a folder with train.tsv, valid.tsv and test.tsv of `source<TAB>target`;
        `tfds:NAME` for a TensorFlow dataset, as tfds:wmt14_translate/de-en;
        `catalogs:installed` or `catalogs:FOLDER` for gettext catalogs.
      source_language: language of the source, as the dataset names it.
      target_language: language of the target, as the dataset names it.
      row_length: tokens of a packed row, on its longer side.
      too_long: what happens to a pair that is longer than a row: it is dropped and counted, or
        it is an error.
    """

    path: str = ""
    source_language: str = "en"
    target_language: str = "de"
    row_length: int = 128
    too_long: Literal["drop", "error"] = "drop"

    def __post_init__(self) -> None:
        if self.row_length < 8:
            raise ValueError(f"data.row_length={self.row_length} must be at least 8.")
        # The run must find its data from any folder.
        scheme, colon, folder = self.path.rpartition(":")
        is_folder = scheme in ("", "catalogs") and folder not in ("", "installed")
        if is_folder and Path(folder).is_dir():
            object.__setattr__(self, "path", f"{scheme}{colon}{Path(folder).resolve()}")


@dataclasses.dataclass(frozen=True)
class Corpus:
    """A split as tokens.

    Attributes:
      source: token sequences, without their end token.
      target: likewise.
      lengths: int [n,2], the tokens of each pair on both sides, end tokens included.
      capacity: tokens of a packed row on both sides.
      dropped: how many pairs were longer than a row.
    """

    source: Ragged
    target: Ragged
    lengths: np.ndarray
    capacity: tuple[int, int]
    dropped: int


def read_split(data: TranslationData, split: str) -> list[tuple[str, str]]:
    """The pairs of train, valid or test as text; raises as `read_pairs`."""
    return read_pairs(
        data.path,
        split,
        source_language=data.source_language,
        target_language=data.target_language,
    )


def read_corpus(data: TranslationData, split: str, tokenizer: SentencePieceTokenizer) -> Corpus:
    """Reads a split as tokens, without the pairs that are longer than a row.

    Raises:
      UserError: no pair fits a row; or one does not, where the config calls that an error.
    """
    pairs = read_split(data, split)
    source = _encode([source for source, _ in pairs], tokenizer)
    target = _encode([target for _, target in pairs], tokenizer)
    limit = data.row_length - 1  # room for the end token
    kept = [i for i in range(len(pairs)) if max(len(source[i]), len(target[i])) <= limit]
    if len(kept) < len(pairs) and data.too_long == "error":
        i = next(i for i in range(len(pairs)) if max(len(source[i]), len(target[i])) > limit)
        file = Path(data.path) / f"{split}.tsv"
        where = f"{file}:{i + 1}" if file.exists() else f"{data.path}, {split}, pair {i + 1}"
        raise UserError(
            f"{where}: {len(source[i]) + 1} and {len(target[i]) + 1} tokens, more than a row of "
            f"{data.row_length}. Raise --data.row_length, or drop such pairs with "
            f"--data.too_long drop."
        )
    if not kept:
        raise UserError(
            f"{data.path}, {split}: no pair fits a row of {data.row_length} tokens. Raise "
            f"--data.row_length."
        )
    kept_source = Ragged.from_lists([source[i] for i in kept])
    kept_target = Ragged.from_lists([target[i] for i in kept])
    lengths = pair_lengths(kept_source, kept_target)
    source_row, target_row = balanced_capacity(lengths, data.row_length)
    capacity, dropped = (source_row, target_row), len(pairs) - len(kept)
    return Corpus(kept_source, kept_target, lengths, capacity, dropped)


def _encode(texts: list[str], tokenizer: SentencePieceTokenizer) -> list[np.ndarray]:
    """Block by block: millions of sentences as Python ints would fill the memory."""
    tokens: list[np.ndarray] = []
    for first in range(0, len(texts), _BLOCK):
        block = tokenizer.encode(texts[first : first + _BLOCK])
        tokens += [np.asarray(ids, np.int32) for ids in block]
    return tokens

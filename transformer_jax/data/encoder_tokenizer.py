"""What encoders like BERT need of a tokenizer, whichever kind it is."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import NamedTuple, Protocol

import numpy as np

from transformer_jax.errors import UserError
from transformer_jax.parsing import read_regular


class Encoded(NamedTuple):
    """One text as T tokens, without special tokens."""

    ids: np.ndarray  # int32 [T]
    word_starts: np.ndarray  # bool [T], True where a token begins a word


class EncoderTokenizer(Protocol):
    """Texts to ids and back. `fingerprint` differs where ids or texts would.

    Special tokens have ids that no text becomes: "[MASK]" in a text is plain text. Only unknown
    words become `unk_id`. Any string can be encoded; see `well_formed`. `separates_twice` where two
    SEP stand between the texts of a pair, as in RoBERTa.
    """

    pad_id: int
    unk_id: int
    cls_id: int
    sep_id: int
    mask_id: int
    special_ids: tuple[int, ...]  # these five, in order
    fingerprint: str
    separates_twice: bool

    @property
    def vocab_size(self) -> int:
        """The number of tokens V, special ones included."""
        ...

    def encode(self, texts: Sequence[str]) -> list[Encoded]:
        """The tokens of each text; many texts at once are faster than one at a time."""
        ...

    def decode(self, ids: Sequence[int]) -> str:
        """The text of ids; padding, CLS, SEP and MASK have none.

        Raises:
          ValueError: an id lies outside of the vocabulary.
        """
        ...

    def pieces(self, ids: Sequence[int]) -> list[str]:
        """What the vocabulary calls these tokens, to be shown.

        Raises:
          ValueError: an id lies outside of the vocabulary.
        """
        ...

    def save(self, path: str | os.PathLike[str]) -> None:
        """Writes the one file that `subword_tokenizers.load_tokenizer` reads.

        Raises:
          UserError: it cannot be written.
        """
        ...


def well_formed(text: str) -> str:
    """The text as Unicode has it: a surrogate pair is its character, a lone surrogate U+FFFD.

    Both stand in texts that came through JSON escapes or file names.
    """
    return text.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace")


def encoded(ids: Sequence[int], begins_word: np.ndarray) -> Encoded:
    """The tokens of one text; begins_word [V] tells of each id whether it begins a word."""
    array = np.array(ids, np.int32)
    word_starts = begins_word[array]
    word_starts[:1] = True  # whatever a text begins with
    return Encoded(array, word_starts)


def texted(ids: Sequence[int], vocab_size: int, silent: frozenset[int]) -> list[int]:
    """The ids that have a text; raises a ValueError if one lies outside of the vocabulary."""
    kept = []
    for token in map(int, ids):
        if not 0 <= token < vocab_size:
            raise ValueError(f"token id {token} is not in the vocabulary [0, {vocab_size})")
        if token not in silent:
            kept.append(token)
    return kept


def read_tokenizer(path: str | os.PathLike[str]) -> bytes:
    """A tokenizer's file; raises a UserError that names it."""
    try:
        return read_regular(path)
    except OSError as error:
        raise UserError(
            f"The tokenizer {path} cannot be read: {error.strerror}. It lies in the folder of the "
            f"run that trained it."
        ) from error

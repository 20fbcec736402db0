"""Text to token ids and back, by SentencePiece."""

from __future__ import annotations

import hashlib
import io
import os
import random
import re
from collections.abc import Iterable, Iterator, Sequence
from typing import Protocol

import sentencepiece

from transformer_jax.data.encoder_tokenizer import well_formed
from transformer_jax.errors import UserError
from transformer_jax.files import write_whole
from transformer_jax.parsing import read_regular

MAX_TRAINING_SENTENCES = 1_000_000
_PARTS = re.compile(r"\S.{0,999}(?!\S)|\S{1000}", re.DOTALL)


class Tokenizer(Protocol):
    """What translation needs: texts to ids and back, of a source and a target side.

    Decoding starts by reading `bos_id`. `fingerprint` differs where ids or texts would.
    """

    pad_id: int
    eos_id: int
    unk_id: int
    bos_id: int
    fingerprint: str

    @property
    def vocab_size(self) -> int:
        """The number of ids of the target side."""
        ...

    def encode(self, texts: Sequence[str]) -> list[list[int]]:
        """The ids of each source, without BOS and EOS."""
        ...

    def encode_target(self, texts: Sequence[str]) -> list[list[int]]:
        """The ids of each target, without BOS and EOS."""
        ...

    def decode(self, ids: Sequence[Sequence[int]]) -> list[str]:
        """The text of each target up to its first EOS."""
        ...

    def source_pieces(self, ids: Sequence[int]) -> list[str]:
        """The text of each id of a source; "▁" stands for a space."""
        ...

    def target_pieces(self, ids: Sequence[int]) -> list[str]:
        """The text of each id of a target."""
        ...


class SentencePieceTokenizer:
    """A unigram model (arXiv:1804.10959) whose special tokens have the same ids everywhere."""

    pad_id = 0
    eos_id = 1
    unk_id = 2
    bos_id = 3

    def __init__(self, path: str | os.PathLike[str]) -> None:
        """Loads a model file.

        Raises:
          UserError: the file is missing, damaged, or has other ids for the special tokens.
        """
        try:
            model = read_regular(path)
        except OSError as error:
            raise UserError(
                f"The tokenizer {path} cannot be read: {error.strerror}. It lies in the folder of "
                f"the run that trained it."
            ) from error
        self._processor = _processor(model, path)
        self.model = model
        self.fingerprint: str = hashlib.sha256(model).hexdigest()[:16]

    @classmethod
    def train(
        cls,
        texts: Iterable[str],
        path: str | os.PathLike[str],
        *,
        vocab_size: int,
        seed: int = 0,
    ) -> SentencePieceTokenizer:
        """Trains a model on the texts, or on a million of them, and writes it to `path`.

        Equal texts, size and seed give equal bytes.

        Raises:
          UserError: the texts are empty, or too few or too many characters for this size.
        """
        model = io.BytesIO()
        sentences = _sample(texts, MAX_TRAINING_SENTENCES, seed)
        try:
            sentencepiece.SentencePieceTrainer.train(
                sentence_iterator=iter(sentences),
                model_writer=model,
                model_type="unigram",
                vocab_size=vocab_size,
                character_coverage=1.0,
                # What is decoded is what was written: an ellipsis stays one character.
                normalization_rule_name="identity",
                pad_id=cls.pad_id,
                eos_id=cls.eos_id,
                unk_id=cls.unk_id,
                bos_id=cls.bos_id,
                minloglevel=2,
            )
        except RuntimeError as error:
            raise UserError(_explain(str(error), vocab_size)) from error
        write_whole(path, model.getvalue())
        return cls(path)

    @property
    def vocab_size(self) -> int:
        """The number of tokens V, special ones included."""
        return self._processor.get_piece_size()

    def encode(self, texts: Sequence[str]) -> list[list[int]]:
        """The token ids of each text, without BOS and EOS."""
        texts = [well_formed(text) for text in texts]
        return self._processor.encode(texts, out_type=int) if texts else []

    encode_target = encode  # one model for both sides

    def source_pieces(self, ids: Sequence[int]) -> list[str]:
        """The text of each id; "▁" stands for a space."""
        return [self._processor.id_to_piece(int(i)) for i in ids]

    target_pieces = source_pieces

    def decode(self, ids: Sequence[Sequence[int]]) -> list[str]:
        """The text of each sequence of ids up to its first EOS; PAD and BOS are left out.

        Raises:
          ValueError: an id lies outside of the vocabulary.
        """
        return [self._processor.decode(self._until_end(sequence)) for sequence in ids]

    def _until_end(self, sequence: Sequence[int]) -> list[int]:
        tokens = []
        for token in map(int, sequence):
            if token == self.eos_id:
                break
            if not 0 <= token < self.vocab_size:
                raise ValueError(
                    f"token id {token} is not in the vocabulary [0, {self.vocab_size})"
                )
            tokens.append(token)  # PAD and BOS are control tokens, which have no text
        return tokens


def _processor(model: bytes, path: str | os.PathLike[str]) -> sentencepiece.SentencePieceProcessor:
    processor = sentencepiece.SentencePieceProcessor()
    try:
        if not model:
            raise RuntimeError("it is empty")
        processor.load_from_serialized_proto(model)
    except RuntimeError as error:
        raise UserError(
            f"The tokenizer {path} is damaged ({error}). Restore it, or train a new one."
        ) from error
    found = tuple(getattr(processor, f"{name}_id")() for name in ("pad", "eos", "unk", "bos"))
    wanted = tuple(
        getattr(SentencePieceTokenizer, f"{name}_id") for name in ("pad", "eos", "unk", "bos")
    )
    if found != wanted:
        raise UserError(
            f"The tokenizer {path} has the ids {found} for padding, end, unknown and begin, where "
            f"{wanted} are needed. Train it with SentencePieceTokenizer.train."
        )
    return processor


def parts(texts: Iterable[str]) -> Iterator[str]:
    """The texts, cut into parts of at most 1000 characters, at spaces where there are some.

    A sample of a million parts is bounded in bytes, however long the paragraphs are.
    """
    return (part for text in texts for part in _PARTS.findall(text))


def _sample(texts: Iterable[str], count: int, seed: int) -> list[str]:
    """A uniform sample of the texts, or all of them; SentencePiece's own differs between runs."""
    rng = random.Random(seed)
    kept: list[str] = []
    for seen, text in enumerate(texts):
        if seen < count:
            kept.append(text)
        elif (place := rng.randrange(seen + 1)) < count:  # Vitter's algorithm R
            kept[place] = text
    return kept


def _explain(message: str, vocab_size: int) -> str:
    """SentencePiece's complaint, as what to do about it."""
    if most := re.search(r"too high.*<= (\d+)", message, re.DOTALL):
        return (
            f"The training texts are too few for vocab_size={vocab_size}: the largest possible is "
            f"{most[1]}. Lower vocab_size, or train on more text."
        )
    if least := re.search(r"required_chars. \d+ vs (\d+)", message):
        return (
            f"vocab_size={vocab_size} is too small: the characters of the training texts alone "
            f"need {least[1]}. Raise vocab_size."
        )
    return (
        f"The tokenizer could not be trained with vocab_size={vocab_size} ({message}). Check that "
        f"the training texts are not empty, or change vocab_size."
    )

"""SentencePiece for encoders, the tokens of ALBERT (arXiv:1909.11942, section 4.1)."""

from __future__ import annotations

import hashlib
import io
import os
from collections.abc import Iterable, Sequence

import numpy as np
import sentencepiece

from transformer_jax.data.encoder_tokenizer import (
    Encoded,
    encoded,
    read_tokenizer,
    texted,
    well_formed,
)
from transformer_jax.data.tokenizers import MAX_TRAINING_SENTENCES, _explain, _sample, parts
from transformer_jax.errors import UserError
from transformer_jax.files import write_whole

PAD, UNK, CLS, SEP, MASK = SPECIAL = ("<pad>", "<unk>", "[CLS]", "[SEP]", "[MASK]")  # ids 0 to 4
_COVERAGE = 0.9999  # of the characters of the training texts; the rarest may stay out


class SentencePieceEncoder:
    """A unigram model (arXiv:1804.10959) with [CLS], [SEP] and [MASK].

    What is done to a text before (NFKC, and lower case if it was trained so) is in the model file.
    A token that begins with "▁" begins a word.
    """

    separates_twice = False

    def __init__(self, path: str | os.PathLike[str]) -> None:
        """Loads a model file.

        Raises:
          UserError: the file is missing or damaged, or lacks a special token.
        """
        model = read_tokenizer(path)
        self._processor, pieces = _read(model, path)
        self.special_ids = tuple(_special_ids(self._processor, path))
        self.pad_id, self.unk_id, self.cls_id, self.sep_id, self.mask_id = self.special_ids
        self._silent = frozenset(self.special_ids) - {self.unk_id}
        self._begins_word = np.array([piece.startswith("▁") for piece in pieces])
        self._begins_word[list(self._silent)] = True
        self._model = model
        self.fingerprint: str = hashlib.sha256(model).hexdigest()[:16]

    @classmethod
    def train(
        cls,
        texts: Iterable[str],
        path: str | os.PathLike[str],
        *,
        vocab_size: int,
        lowercase: bool,
        seed: int = 0,
    ) -> SentencePieceEncoder:
        """Trains a model on the texts, or on a million parts of them, and writes it to `path`.

        Equal texts, settings and seed give equal bytes. Lower-casing leaves accents as they are.

        Raises:
          UserError: the texts are empty, or too few or too many characters for this size.
        """
        model = io.BytesIO()
        # The trainer takes no text that holds a NUL.
        whole = (well_formed(text).replace("\0", " ") for text in texts)
        sentences = parts(whole)  # for the trainer passes over a line of more than 4192 bytes
        try:
            sentencepiece.SentencePieceTrainer.train(
                sentence_iterator=iter(_sample(sentences, MAX_TRAINING_SENTENCES, seed)),
                model_writer=model,
                model_type="unigram",
                vocab_size=vocab_size,
                character_coverage=_COVERAGE,
                normalization_rule_name="nmt_nfkc_cf" if lowercase else "nmt_nfkc",
                pad_id=0,
                unk_id=1,
                bos_id=-1,
                eos_id=-1,
                pad_piece=PAD,
                unk_piece=UNK,
                control_symbols=[CLS, SEP, MASK],
                minloglevel=2,
            )
        except RuntimeError as error:
            raise UserError(_explain(str(error), vocab_size)) from error
        write_whole(path, model.getvalue())
        return cls(path)

    @property
    def vocab_size(self) -> int:
        """The number of tokens V, special ones included."""
        return len(self._begins_word)

    def encode(self, texts: Sequence[str]) -> list[Encoded]:
        """The tokens of each text, on all cores; special tokens' names are plain text."""
        texts = [well_formed(text) for text in texts]
        found = self._processor.encode(texts, out_type=int) if texts else []
        return [encoded(ids, self._begins_word) for ids in found]

    def decode(self, ids: Sequence[int]) -> str:
        """The text of ids; padding, CLS, SEP and MASK have none.

        Raises:
          ValueError: an id lies outside of the vocabulary.
        """
        return self._processor.decode(texted(ids, self.vocab_size, self._silent))

    def pieces(self, ids: Sequence[int]) -> list[str]:
        """What the vocabulary calls these tokens, to be shown.

        Raises:
          ValueError: an id lies outside of the vocabulary.
        """
        return [self._processor.id_to_piece(i) for i in texted(ids, self.vocab_size, frozenset())]

    def save(self, path: str | os.PathLike[str]) -> None:
        """Writes the model file.

        Raises:
          UserError: it cannot be written.
        """
        write_whole(path, self._model)


def _read(
    model: bytes, path: str | os.PathLike[str]
) -> tuple[sentencepiece.SentencePieceProcessor, list[str]]:
    """The model of a file, and the text of each id."""
    processor = sentencepiece.SentencePieceProcessor()
    try:
        if not model:
            raise RuntimeError("it is empty")
        processor.load_from_serialized_proto(model)
        pieces = [processor.id_to_piece(i) for i in range(processor.get_piece_size())]
    except (RuntimeError, UnicodeDecodeError) as error:
        raise UserError(
            f"The tokenizer {path} is damaged ({error}). Restore it, or train a new one."
        ) from error
    return processor, pieces


def _special_ids(
    processor: sentencepiece.SentencePieceProcessor, path: str | os.PathLike[str]
) -> list[int]:
    """The ids of the special tokens, which no text may become."""
    named = [processor.piece_to_id(name) for name in (CLS, SEP, MASK)]
    ids = [processor.pad_id(), processor.unk_id(), *named]
    fine = [ids[0] >= 0, ids[1] >= 0, *map(processor.is_control, named)]
    if missing := [name for name, is_fine in zip(SPECIAL, fine, strict=True) if not is_fine]:
        raise UserError(
            f"The tokenizer {path} has no {', '.join(missing)} as control symbols. It needs "
            f"{' '.join(SPECIAL)}: train it with SentencePieceEncoder.train."
        )
    return ids

"""SentencePiece's unigram model as a tokenizer.json: ALBERT's tokens (arXiv:1909.11942)."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Self

import sentencepiece
from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors

from transformer_jax.data.encoder_tokenizer import read_tokenizer
from transformer_jax.data.tokenizer_json import JsonTokenizer, setting, to_json
from transformer_jax.errors import UserError

PAD, UNK, CLS, SEP, MASK = SPECIAL = ("<pad>", "<unk>", "[CLS]", "[SEP]", "[MASK]")
_SPACE = "▁"  # how the space before a word is written
_RARE_SCORE = 100.0  # taken from the score of a number with a comma, so that it is never a token
# Numbers of fields in sentencepiece_model.proto, and of the kind of model.
_TRAINER, _NORMALIZER, _KIND, _CHARSMAP = 2, 3, 3, 2
_UNIGRAM = 1


class UnigramTokenizer(JsonTokenizer):
    """The likeliest pieces of each word (arXiv:1804.10959), after white space divides the words.

    A piece that begins with "▁" begins a word.
    """

    kind = "Unigram"
    special_names = SPECIAL
    unk_begins_word = False  # it stands for characters behind a "▁"
    decoder = {"type": "Metaspace", "replacement": _SPACE, "prepend_scheme": "always"}

    @classmethod
    def from_sentencepiece(
        cls, path: str | os.PathLike[str], *, lowercase: bool, keep_accents: bool
    ) -> Self:
        """The tokenizer of a published ALBERT's spiece.model.

        Quotes of two characters become one, and a number never keeps its comma, as in ALBERT's code
        (google-research/albert, tokenization.py) and in the tokenizer.json that `transformers` 4
        made of it; `transformers` 5.23 does not separate the comma.

        Args:
          path: the model file.
          lowercase: texts are lower-cased before what the file says is done to them.
          keep_accents: accents stay.

        Raises:
          UserError: the file is missing, damaged, no unigram model, or lacks a special token.
        """
        pieces, unk_id, own = _read(path)
        pieces = [(p, score - _RARE_SCORE * _is_number_with_comma(p)) for p, score in pieces]
        steps: list[Any] = [normalizers.Replace("``", '"'), normalizers.Replace("''", '"')]
        if not keep_accents:
            steps += [normalizers.NFKD(), normalizers.StripAccents()]
        if lowercase:
            steps.append(normalizers.Lowercase())
        return cls._of(_file(pieces, unk_id, [*steps, *own]), path)

    @classmethod
    def as_trained(cls, path: str | os.PathLike[str]) -> Self:
        """The tokenizer of a model file that does no more to a text than the file says.

        A text has the tokens that `SentencePieceEncoder` makes of it.

        Raises:
          UserError: as `from_sentencepiece`.
        """
        return cls._of(_file(*_read(path)), path)

    @staticmethod
    def problem(file: Mapping[str, Any]) -> str | None:
        """What in a file of this kind cannot be honoured, None if there is nothing."""
        if setting(file, "model", "byte_fallback"):
            return "falls back to bytes, which ALBERT does not"
        steps = setting(file, "pre_tokenizer", "pretokenizers") or [file.get("pre_tokenizer")]
        if not any(isinstance(step, dict) and step.get("type") == "Metaspace" for step in steps):
            return "does not write the spaces before words as SentencePiece does"
        return None

    @staticmethod
    def begins_word(token: str) -> bool:
        """Whether this token of the vocabulary begins a word."""
        return token.startswith(_SPACE)


def _file(pieces: Sequence[tuple[str, float]], unk_id: int, steps: list[Any]) -> bytes:
    """The tokenizer.json of pieces, of texts to which the steps are done first."""
    tokenizer = Tokenizer(models.Unigram(list(pieces), unk_id, False))
    tokenizer.normalizer = normalizers.Sequence([*steps, normalizers.Replace(Regex(" {2,}"), " ")])
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.WhitespaceSplit(),
            pre_tokenizers.Metaspace(replacement=_SPACE, prepend_scheme="always"),
        ]
    )
    tokenizer.decoder = decoders.Metaspace(replacement=_SPACE, prepend_scheme="always")
    ids = {piece: i for i, (piece, _) in enumerate(pieces)}
    if CLS in ids and SEP in ids:
        tokenizer.post_processor = processors.BertProcessing((SEP, ids[SEP]), (CLS, ids[CLS]))
    return to_json(tokenizer, [name for name in SPECIAL if name in ids])


def _read(path: str | os.PathLike[str]) -> tuple[list[tuple[str, float]], int, list[Any]]:
    """The pieces of a unigram model with scores, the unknown one's id, what is done to a text."""
    data, processor = read_tokenizer(path), sentencepiece.SentencePieceProcessor()
    try:
        if not data:
            raise RuntimeError("it is empty")
        processor.load_from_serialized_proto(data)
        ids = range(processor.get_piece_size())
        pieces = [(processor.id_to_piece(i), processor.get_score(i)) for i in ids]
        spec = dict(_fields(data))
        normalizer, trainer = (dict(_fields(spec.get(n, b""))) for n in (_NORMALIZER, _TRAINER))
    except (RuntimeError, UnicodeDecodeError, IndexError, TypeError) as error:
        raise UserError(f"The tokenizer {path} is damaged ({error}). Restore it.") from error
    if trainer.get(_KIND, _UNIGRAM) != _UNIGRAM:
        raise UserError(f"The tokenizer {path} is no unigram model of SentencePiece.")
    charsmap = normalizer.get(_CHARSMAP)
    try:
        steps = [normalizers.Precompiled(charsmap)] if charsmap else []
    except Exception as error:  # the package raises no narrower one
        raise UserError(f"The tokenizer {path} is damaged ({error}). Restore it.") from error
    return pieces, processor.unk_id(), steps


def _fields(message: bytes) -> Iterator[tuple[int, Any]]:
    """The numbers and values of a protocol buffer's fields; of a repeated one the last counts.

    The package's own class of the message asks for one version of protobuf, which others forbid.
    """
    at = 0

    def number() -> int:
        nonlocal at
        value = shift = 0
        while True:
            byte = message[at]
            at, value, shift = at + 1, value | (byte & 127) << shift, shift + 7
            if byte < 128:
                return value

    while at < len(message):
        key = number()
        if key & 7 == 0:
            yield key >> 3, number()
            continue
        size = {1: 8, 5: 4}.get(key & 7) or number()
        yield key >> 3, message[at : at + size]
        at += size


def _is_number_with_comma(piece: str) -> bool:
    return len(piece) > 1 and piece[-1] == "," and piece[-2].isdigit()

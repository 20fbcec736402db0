"""The tokenizer of a Marian folder (opus-mt): two SentencePiece models, one vocabulary or two."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path

import sentencepiece

from transformer_jax.data.encoder_tokenizer import well_formed
from transformer_jax.data.marian_files import (
    check_added,
    read_sentencepiece,
    read_settings,
    read_vocabulary,
    token_text,
    write_files,
)
from transformer_jax.data.tokenizers import SentencePieceTokenizer
from transformer_jax.errors import UserError

_SPECIAL = {"eos_token": "</s>", "unk_token": "<unk>", "pad_token": "<pad>"}
# What loses its spaces in a decoded text, in this order, if a folder wants them cleaned up.
_CLEANED = (" .", " ?", " !", " ,", " ' ", " n't", " 'm", " 's", " 've", " 're")


class MarianTokenizer:
    """Pieces by source.spm and target.spm, ids by vocab.json, for the target target_vocab.json if
    the vocabularies are separate.

    A source may start with `>>fra<<`, the target language of a model that has several. Ids and
    texts are those of `transformers`, but for three things. A line that holds "</s>", "<unk>",
    "<pad>" or "<s>" is text like any other here, and may become that token there. An id without a
    piece has no text here; there it is taken for the number of a SentencePiece piece, which is
    another one. The padding of a target vocabulary of its own has no text here; there it has.

    Args:
      folder: with these files, and tokenizer_config.json or special_tokens_map.json if the special
        tokens have other names or the vocabularies are separate.
      bos_id: what decoding starts with; None: padding, as Marian does.

    Raises:
      UserError: a file is missing or damaged, a vocabulary lacks a special token, tokens were added
        to the vocabulary, or the pieces are to be sampled.
    """

    def __init__(self, folder: str | os.PathLike[str], *, bos_id: int | None = None) -> None:
        folder = Path(folder)
        settings = read_settings(folder)
        self._source = read_sentencepiece(folder / "source.spm")
        self._target = read_sentencepiece(folder / "target.spm")
        self._source_ids = read_vocabulary(folder / "vocab.json")
        self._is_separate = bool(settings.get("separate_vocabs", False))
        self._is_cleaned = bool(settings.get("clean_up_tokenization_spaces", False))
        self._target_ids = self._source_ids
        if self._is_separate:
            self._target_ids = read_vocabulary(folder / "target_vocab.json")
        names = {key: token_text(settings.get(key, default)) for key, default in _SPECIAL.items()}
        self._names = names
        check_added(folder, settings, names)
        found = {}
        for key, name in names.items():
            ids = {vocabulary.get(name) for vocabulary in (self._source_ids, self._target_ids)}
            if None in ids or (len(ids) > 1 and key != "pad_token"):
                raise UserError(
                    f"{folder}: the vocabularies have no {key} {name!r}, or one with two ids."
                )
            found[key] = self._source_ids[name]
        # Padding comes last in a vocabulary; decoding starts with the number of the source's.
        self._silent = {found["pad_token"], self._target_ids[names["pad_token"]]}
        self.eos_id, self.unk_id, self.pad_id = found.values()
        self.bos_id = self.pad_id if bos_id is None else bos_id
        self._source_spelled = _spelled(self._source, self._source_ids, names)
        self._target_spelled = _spelled(self._target, self._target_ids, names)
        self._source_pieces = {i: piece for piece, i in self._source_ids.items()}
        self._target_pieces = {i: piece for piece, i in self._target_ids.items()}
        self.fingerprint: str = self._digest()

    @property
    def vocab_size(self) -> int:
        """One more than the largest id of the target side; a model may have more."""
        return max(self._target_pieces) + 1

    @property
    def source_vocab_size(self) -> int:
        """One more than the largest id of the source side."""
        return max(self._source_pieces) + 1

    @property
    def supported_language_codes(self) -> list[str]:
        """The `>>fra<<` that a source may start with; none if the target is one language."""
        return list(filter(_is_code, self._source_ids))

    def encode(self, texts: Sequence[str]) -> list[list[int]]:
        """The ids of each source, without its end token."""
        return [self._encode(text, self._source, self._source_spelled) for text in texts]

    def encode_target(self, texts: Sequence[str]) -> list[list[int]]:
        """The ids of each target, without its end token."""
        return [self._encode(text, self._target, self._target_spelled) for text in texts]

    def decode(self, ids: Sequence[Sequence[int]]) -> list[str]:
        """The text of each target up to its first end; special tokens and unknown ids have none."""
        silent = self._silent | {self.unk_id, self.bos_id}
        # One vocabulary holds the pieces of both models, and `transformers` puts them together by
        # the source's. For most pieces all models agree.
        processor = self._target if self._is_separate else self._source
        texts = []
        for sequence in ids:
            kept = list(map(int, sequence))
            if self.eos_id in kept:
                kept = kept[: kept.index(self.eos_id)]
            known = [i for i in kept if i in self._target_pieces and i not in silent]
            text = processor.decode_pieces(self.target_pieces(known)).replace("▁", " ").strip()
            for spaced in _CLEANED if self._is_cleaned else ():
                text = text.replace(spaced, spaced.strip())
            texts.append(text)
        return texts

    def source_pieces(self, ids: Sequence[int]) -> list[str]:
        """What each id of a source stands for."""
        return [self._source_pieces.get(int(i), self._names["unk_token"]) for i in ids]

    def target_pieces(self, ids: Sequence[int]) -> list[str]:
        """What each id of a target stands for."""
        return [self._target_pieces.get(int(i), self._names["unk_token"]) for i in ids]

    def save(self, folder: str | os.PathLike[str]) -> None:
        """Writes the files that `transformers` and we read again.

        Raises:
          UserError: the folder cannot be written.
        """
        target = self._target_ids if self._is_separate else None
        models = self._source.serialized_model_proto(), self._target.serialized_model_proto()
        names, is_cleaned = self._names, self._is_cleaned
        write_files(Path(folder), models, self._source_ids, target, names, is_cleaned)

    def _encode(
        self,
        text: str,
        processor: sentencepiece.SentencePieceProcessor,
        vocabulary: Mapping[str, int],
    ) -> list[int]:
        pieces = []
        if text.startswith(">>") and (end := text.find("<<")) >= 0:
            pieces, text = [text[: end + 2]], text[end + 2 :]
        pieces += processor.encode(well_formed(text), out_type=str)
        return [vocabulary.get(piece, self.unk_id) for piece in pieces]

    def _digest(self) -> str:
        """Of all that ids and texts depend on, not of how the files are laid out."""
        digest = hashlib.sha256()
        for model in (self._source, self._target):
            digest.update(model.serialized_model_proto())
        others = (self._source_ids, self._target_ids, self._names, self._is_separate)
        digest.update(json.dumps([*others, self._is_cleaned, self.bos_id], sort_keys=True).encode())
        return digest.hexdigest()[:16]


def save_as_marian(tokenizer: SentencePieceTokenizer, folder: str | os.PathLike[str]) -> None:
    """Writes a tokenizer of ours as that of a Marian folder, one model for both sides.

    Raises:
      UserError: the folder cannot be written.
    """
    pieces = tokenizer.source_pieces(range(tokenizer.vocab_size))
    ids = (tokenizer.eos_id, tokenizer.unk_id, tokenizer.pad_id)
    names = {key: pieces[i] for key, i in zip(_SPECIAL, ids, strict=True)}
    vocabulary = {piece: i for i, piece in enumerate(pieces)}
    write_files(Path(folder), (tokenizer.model, tokenizer.model), vocabulary, None, names, False)


def _is_code(piece: str) -> bool:
    return piece.startswith(">>") and piece.endswith("<<")


def _spelled(
    processor: sentencepiece.SentencePieceProcessor,
    vocabulary: Mapping[str, int],
    names: Mapping[str, str],
) -> dict[str, int]:
    """What a text can become: characters that a model lacks are one piece, which may be "</s>"."""
    pieces = enumerate(map(processor.id_to_piece, range(processor.get_piece_size())))
    control = {piece for i, piece in pieces if processor.is_control(i) and not _is_code(piece)}
    return {p: i for p, i in vocabulary.items() if p not in control.union(names.values())}

"""The tokenizer of a Marian folder (opus-mt): two SentencePiece models, one vocabulary or two."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import sentencepiece

from transformer_jax.data.tokenizers import SentencePieceTokenizer
from transformer_jax.errors import UserError
from transformer_jax.files import write_whole

_SPECIAL = {"eos_token": "</s>", "unk_token": "<unk>", "pad_token": "<pad>"}
_ADDED = "added_tokens_decoder"  # the setting in which `transformers` keeps tokens that it added
_ADDING = (_ADDED, "_special_tokens", "_token")  # how settings end whose tokens are added
# What loses its spaces in a decoded text, in this order, if a folder wants them cleaned up.
_CLEANED = (" .", " ?", " !", " ,", " ' ", " n't", " 'm", " 's", " 've", " 're")


class MarianTokenizer:
    """Pieces by source.spm and target.spm, ids by vocab.json, for the target target_vocab.json if
    the vocabularies are separate.

    A source may start with `>>fra<<`, the target language of a model that has several. Ids and
    texts are those of `transformers`, but for two things. A line that holds "</s>", "<unk>",
    "<pad>" or "<s>" is text like any other here, and may become that token there. An id without a
    piece has no text here; there it is taken for the number of a SentencePiece piece, which is
    another one.

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
        settings = _settings(folder)
        self._source = _load(folder / "source.spm")
        self._target = _load(folder / "target.spm")
        self._source_ids = _vocabulary(folder / "vocab.json")
        self._is_separate = bool(settings.get("separate_vocabs", False))
        self._is_cleaned = bool(settings.get("clean_up_tokenization_spaces", False))
        self._target_ids = self._source_ids
        if self._is_separate:
            self._target_ids = _vocabulary(folder / "target_vocab.json")
        names = {key: _text(settings.get(key, default)) for key, default in _SPECIAL.items()}
        self._names = names
        _check_added(folder, settings, names)
        found = {}
        for key, name in names.items():
            ids = {vocabulary.get(name) for vocabulary in (self._source_ids, self._target_ids)}
            if len(ids) > 1 or None in ids:
                raise UserError(
                    f"{folder}: the vocabularies have no {key} {name!r}, or one with two ids."
                )
            found[key] = self._source_ids[name]
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
        silent = {self.pad_id, self.unk_id, self.bos_id}
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
        _write_files(Path(folder), models, self._source_ids, target, names, is_cleaned)

    def _encode(
        self,
        text: str,
        processor: sentencepiece.SentencePieceProcessor,
        vocabulary: Mapping[str, int],
    ) -> list[int]:
        pieces = []
        if text.startswith(">>") and (end := text.find("<<")) >= 0:
            pieces, text = [text[: end + 2]], text[end + 2 :]
        pieces += processor.encode(text, out_type=str)
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
    _write_files(Path(folder), (tokenizer.model, tokenizer.model), vocabulary, None, names, False)


def _write_files(
    folder: Path,
    models: tuple[bytes, bytes],
    vocabulary: Mapping[str, int],
    target_vocabulary: Mapping[str, int] | None,
    names: Mapping[str, str],
    is_cleaned: bool,
) -> None:
    write_whole(folder / "source.spm", models[0])
    write_whole(folder / "target.spm", models[1])
    write_whole(folder / "vocab.json", _json(vocabulary))
    if target_vocabulary is not None:
        write_whole(folder / "target_vocab.json", _json(target_vocabulary))
    settings = dict(names) | {
        "tokenizer_class": "MarianTokenizer",
        "separate_vocabs": target_vocabulary is not None,
        "clean_up_tokenization_spaces": is_cleaned,
        "model_max_length": 512,
        # With this, files that an older tokenizer left in the folder count no more.
        _ADDED: {vocabulary[name]: {"content": name, "special": True} for name in names.values()},
    }
    write_whole(folder / "tokenizer_config.json", _json(settings))


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


def _settings(folder: Path) -> dict[str, Any]:
    """tokenizer_config.json, and the files of older folders where it does not stand for them."""
    settings = _optional(folder / "tokenizer_config.json")
    if _ADDED not in settings:
        settings |= _optional(folder / "special_tokens_map.json")
        settings[_ADDED] = dict(enumerate(_optional(folder / "added_tokens.json")))
    return settings


def _check_added(folder: Path, settings: Mapping[str, Any], names: Mapping[str, str]) -> None:
    if settings.get("sp_model_kwargs"):
        raise UserError(
            f"{folder}: sp_model_kwargs in tokenizer_config.json would sample the pieces, and ids "
            f"have to repeat themselves. Take it out."
        )
    found = set().union(*(_tokens(v) for k, v in settings.items() if k.endswith(_ADDING)))
    if others := sorted(found - set(names.values())):
        raise UserError(
            f"{folder}: tokens were added to the vocabulary, which cannot be read: "
            f"{', '.join(map(repr, others[:5]))}{', ...' if others[5:] else ''}."
        )


def _tokens(setting: Any) -> set[str]:
    """The texts of a token, or of a list or an object of tokens."""
    if isinstance(setting, dict) and "content" not in setting:
        setting = list(setting.values())
    tokens = setting if isinstance(setting, list) else [setting]
    return {_text(token) for token in tokens if isinstance(token, (str, dict))}


def _text(token: Any) -> str:
    """A token's text: older files hold an object with its text as "content"."""
    return str(token["content"] if isinstance(token, dict) and "content" in token else token)


def _load(path: Path) -> sentencepiece.SentencePieceProcessor:
    processor, data = sentencepiece.SentencePieceProcessor(), _read(path)
    try:
        if not data:
            raise RuntimeError("it is empty")
        processor.load_from_serialized_proto(data)
    except RuntimeError as error:
        raise UserError(f"{path} is no SentencePiece model ({error}).") from error
    return processor


def _vocabulary(path: Path) -> dict[str, int]:
    vocabulary = _object(path)
    ids = vocabulary.values()
    if any(type(i) is not int or i < 0 for i in ids) or len(set(ids)) != len(ids):
        raise UserError(f"{path} must give each piece an id of its own: 0, 1, ...")
    return vocabulary


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise UserError(
            f"{path} cannot be read: {error.strerror}. A Marian folder has source.spm, target.spm "
            f"and vocab.json."
        ) from error


def _optional(path: Path) -> dict[str, Any]:
    return _object(path) if path.exists() else {}


def _object(path: Path) -> dict[str, Any]:
    data = _read(path)
    try:
        found = json.loads(data)
    except (ValueError, RecursionError) as error:
        raise UserError(f"{path} is damaged: {error}.") from error
    if not isinstance(found, dict):
        raise UserError(f"{path} holds no JSON object.")
    return found


def _json(data: Mapping[str, Any]) -> bytes:
    return (json.dumps(data, indent=2) + "\n").encode()

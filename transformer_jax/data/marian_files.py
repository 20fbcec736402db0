"""The files of a Marian tokenizer, read and written."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import sentencepiece

from transformer_jax.errors import UserError
from transformer_jax.files import write_whole
from transformer_jax.parsing import parse_json, read_regular

_ADDED = "added_tokens_decoder"  # the setting in which `transformers` keeps tokens that it added
_ADDING = (_ADDED, "_special_tokens", "_token")  # how settings end whose tokens are added


def read_settings(folder: Path) -> dict[str, Any]:
    """tokenizer_config.json, and the files of older folders where it does not stand for them."""
    settings = _optional(folder / "tokenizer_config.json")
    if _ADDED not in settings:
        settings |= _optional(folder / "special_tokens_map.json")
        settings[_ADDED] = dict(enumerate(_optional(folder / "added_tokens.json")))
    return settings


def check_added(folder: Path, settings: Mapping[str, Any], names: Mapping[str, str]) -> None:
    """Raises a UserError if tokens were added that the vocabulary does not have, or are sampled."""
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
    return {token_text(token) for token in tokens if isinstance(token, (str, dict))}


def token_text(token: Any) -> str:
    """A token's text: older files hold an object with its text as "content"."""
    return str(token["content"] if isinstance(token, dict) and "content" in token else token)


def read_sentencepiece(path: Path) -> sentencepiece.SentencePieceProcessor:
    """A model; raises a UserError that names the file."""
    processor, data = sentencepiece.SentencePieceProcessor(), _read(path)
    try:
        if not data:
            raise RuntimeError("it is empty")
        processor.load_from_serialized_proto(data)
    except RuntimeError as error:
        raise UserError(f"{path} is no SentencePiece model ({error}).") from error
    return processor


def read_vocabulary(path: Path) -> dict[str, int]:
    """Piece -> id; raises a UserError that names the file."""
    vocabulary = _object(path)
    ids = vocabulary.values()
    if any(type(i) is not int or i < 0 for i in ids) or len(set(ids)) != len(ids):
        raise UserError(f"{path} must give each piece an id of its own: 0, 1, ...")
    return vocabulary


def _read(path: Path) -> bytes:
    try:
        return read_regular(path)
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
        found = parse_json(data)
    except ValueError as error:
        raise UserError(f"{path} is damaged: {error}.") from error
    if not isinstance(found, dict):
        raise UserError(f"{path} holds no JSON object.")
    return found


def _json(data: Mapping[str, Any]) -> bytes:
    return (json.dumps(data, indent=2) + "\n").encode()


def write_files(
    folder: Path,
    models: tuple[bytes, bytes],
    vocabulary: Mapping[str, int],
    target_vocabulary: Mapping[str, int] | None,
    names: Mapping[str, str],
    is_cleaned: bool,
) -> None:
    """Writes what `transformers` and we read; `names` are those of the special tokens."""
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

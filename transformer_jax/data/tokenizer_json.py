"""tokenizer.json, the format of the `tokenizers` package, and what its kinds have in common."""

from __future__ import annotations

import abc
import hashlib
import json
import os
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, Self

import numpy as np
import tokenizers

from transformer_jax.data.encoder_tokenizer import (
    Encoded,
    encoded,
    read_tokenizer,
    texted,
    well_formed,
)
from transformer_jax.errors import UserError
from transformer_jax.files import write_whole
from transformer_jax.parsing import parse_json


class JsonTokenizer(abc.ABC):
    """An `EncoderTokenizer` that is one tokenizer.json; a kind says which files are its own."""

    kind: ClassVar[str]  # the type of the file's model
    special_names: ClassVar[tuple[str, ...]]  # of padding, unknown, CLS, SEP and MASK
    decoder: ClassVar[Mapping[str, Any]]  # how the file says what text the tokens are
    separates_twice = False
    unk_begins_word = True  # for an unknown word is unknown as a whole

    def __init__(self, path: str | os.PathLike[str]) -> None:
        """Loads a tokenizer.json, one of ours or of a published model of this kind.

        Raises:
          UserError: the file is missing or damaged, of another kind, lacks a special token, or has
            tokens that were added to its vocabulary.
        """
        self._load(read_tokenizer(path), path)

    @staticmethod
    @abc.abstractmethod
    def problem(file: Mapping[str, Any]) -> str | None:
        """What in a file of this kind cannot be honoured, None if there is nothing."""

    @staticmethod
    @abc.abstractmethod
    def begins_word(token: str) -> bool:
        """Whether this token of the vocabulary begins a word."""

    @classmethod
    def _of(cls, data: bytes, path: str | os.PathLike[str]) -> Self:
        """The tokenizer of a file's content, which was made of the file at `path`."""
        tokenizer = cls.__new__(cls)
        tokenizer._load(data, path)
        return tokenizer

    def _load(self, data: bytes, path: str | os.PathLike[str]) -> None:
        file = parse(data, path)
        if (kind := file["model"].get("type")) != self.kind:
            raise UserError(
                f"The tokenizer {path} is of the kind {kind}, and not {self.kind}. Load it by "
                f"load_tokenizer, which knows the kinds that can be read."
            )
        vocabulary = _vocabulary(file, path)
        if problem := self.problem(file):
            raise UserError(f"The tokenizer {path} {problem}. Train one, or take another file.")
        self.special_ids = tuple(_ids(vocabulary, self.special_names, path))
        self.pad_id, self.unk_id, self.cls_id, self.sep_id, self.mask_id = self.special_ids
        self._silent = frozenset(self.special_ids) - {self.unk_id}
        # Without the added tokens, a special token's name in a text is plain text; what else is
        # left out here is up to whoever asks for ids.
        runtime = {key: file.get(key) for key in ("model", "normalizer", "pre_tokenizer")}
        try:
            self._tokenizer = tokenizers.Tokenizer.from_str(
                json.dumps({"version": "1.0", **runtime, "decoder": dict(self.decoder)})
            )
        except (KeyboardInterrupt, SystemExit):
            raise
        except BaseException as error:  # the package raises no narrower one; and it may panic
            raise _damaged(path, error) from error
        self._begins_word = np.zeros(len(vocabulary), bool)
        for token, i in vocabulary.items():
            self._begins_word[i] = self.begins_word(token)
        self._names = {i: token for token, i in vocabulary.items()}
        self._begins_word[list(self.special_ids)] = True
        self._begins_word[self.unk_id] = self.unk_begins_word
        self._data = data
        self.fingerprint: str = hashlib.sha256(data).hexdigest()[:16]

    @property
    def vocab_size(self) -> int:
        """The number of tokens V, special ones included."""
        return len(self._begins_word)

    def encode(self, texts: Sequence[str]) -> list[Encoded]:
        """The tokens of each text, on all cores; special tokens' names are plain text."""
        texts = list(texts)
        try:
            found = self._tokenizer.encode_batch_fast(texts, add_special_tokens=False)
        except TypeError:  # so it says that a string holds surrogates; looking first takes longer
            texts = [well_formed(text) for text in texts]
            found = self._tokenizer.encode_batch_fast(texts, add_special_tokens=False)
        return [encoded(encoding.ids, self._begins_word) for encoding in found]

    def decode(self, ids: Sequence[int]) -> str:
        """The text of ids; padding, CLS, SEP and MASK have none.

        Raises:
          ValueError: an id lies outside of the vocabulary.
        """
        kept = texted(ids, self.vocab_size, self._silent)
        return self._tokenizer.decode(kept, skip_special_tokens=False)

    def pieces(self, ids: Sequence[int]) -> list[str]:
        """What the vocabulary calls these tokens, to be shown.

        Raises:
          ValueError: an id lies outside of the vocabulary.
        """
        return [self._names[i] for i in texted(ids, self.vocab_size, frozenset())]

    def save(self, path: str | os.PathLike[str]) -> None:
        """Writes the tokenizer.json, which the `tokenizers` package reads too.

        Raises:
          UserError: it cannot be written.
        """
        write_whole(path, self._data)


def parse(data: bytes, path: str | os.PathLike[str]) -> dict[str, Any]:
    """The content of a tokenizer.json; raises a UserError that names it."""
    try:
        file = parse_json(data)
    except ValueError as error:
        raise _damaged(path, error) from error
    if not isinstance(file, dict) or not isinstance(file.get("model"), dict):
        raise _damaged(path, "it is no object with a model")
    return file


def setting(file: Mapping[str, Any], part: str, key: str) -> Any:
    """What a part of the file says of a key, None if it has no such part or key."""
    found = file.get(part)
    return found.get(key) if isinstance(found, dict) else None


def to_json(tokenizer: tokenizers.Tokenizer, special_names: Sequence[str]) -> bytes:
    """The bytes of a tokenizer.json in which these tokens of the vocabulary are special."""
    tokenizer.add_special_tokens(list(special_names))
    return tokenizer.to_str().encode()


def check_size(found: int, vocab_size: int) -> None:
    """Raises a UserError if training found fewer tokens than it was asked for."""
    if found < vocab_size:
        raise UserError(
            f"The training texts are too few for vocab_size={vocab_size}: the largest possible is "
            f"{found}. Lower vocab_size, or train on more text."
        )


def _vocabulary(file: Mapping[str, Any], path: str | os.PathLike[str]) -> dict[str, int]:
    """Token -> id, of the model and of the special tokens that stand beside it."""
    found = file["model"].get("vocab")
    added = file.get("added_tokens") or []
    try:
        if isinstance(found, list):  # of a unigram model: pieces with their scores
            vocabulary = {str(piece): i for i, (piece, _) in enumerate(found)}
        else:
            vocabulary = dict(found)
        others = [str(token["content"]) for token in added if not token["special"]]
        vocabulary |= {token["content"]: token["id"] for token in added}
    except (TypeError, ValueError, KeyError) as error:
        raise _damaged(path, "its vocabulary or its added tokens cannot be read") from error
    if others:
        raise UserError(
            f"The tokenizer {path} has tokens that were added to its vocabulary, which cannot be "
            f"read: {', '.join(map(repr, others[:5]))}. Take a file without them."
        )
    numbers = vocabulary.values()
    if any(type(i) is not int for i in numbers) or sorted(numbers) != list(range(len(vocabulary))):
        raise _damaged(path, "its tokens do not have the ids 0, 1, ..., each once")
    return vocabulary


def _ids(
    vocabulary: Mapping[str, int], names: Sequence[str], path: str | os.PathLike[str]
) -> list[int]:
    if missing := [name for name in names if name not in vocabulary]:
        raise UserError(
            f"The vocabulary of {path} has no {', '.join(missing)}. This kind of tokenizer has the "
            f"special tokens {' '.join(names)}: add them, or train one."
        )
    return [vocabulary[name] for name in names]


def _damaged(path: str | os.PathLike[str], reason: object) -> UserError:
    return UserError(f"The tokenizer {path} is damaged ({reason}). Restore it, or train a new one.")

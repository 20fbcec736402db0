"""The attention weights of one example with their tokens, and the file that keeps them exactly."""

from __future__ import annotations

import dataclasses
import io
import json
import os
import unicodedata
from typing import Any

import numpy as np

from transformer_jax.errors import UserError
from transformer_jax.files import write_whole
from transformer_jax.parsing import parse_json, parse_npz, read_regular

ABOVE_ONE = 1e-3  # what rounding, in bfloat16 say, may add to a weight of 1

_JOINERS = "\u200c\u200d"  # inside a token they shape its letters


@dataclasses.dataclass(frozen=True, eq=False)
class AttentionPart:
    """One attention of a model: what each query token takes from each key token.

    Attributes:
      name: an identifier, as "encoder", "decoder" or "cross".
      weights: float [L,N,T,S], each from 0 to 1.
      query_tokens: the T tokens that attend, the rows of a map.
      key_tokens: the S tokens that are attended to, its columns.

    Raises:
      ValueError: an attribute is not as said here.
    """

    name: str
    weights: np.ndarray
    query_tokens: tuple[str, ...]
    key_tokens: tuple[str, ...]

    def __post_init__(self) -> None:
        if not self.name.isidentifier():
            raise ValueError(f"the name of a part must be an identifier, not {self.name!r}")
        weights, tokens = self.weights, (len(self.query_tokens), len(self.key_tokens))
        if not np.issubdtype(weights.dtype, np.floating):
            raise ValueError(f"{self.name}: weights must be float, not {weights.dtype}")
        if weights.ndim != 4 or weights.shape[2:] != tokens or 0 in weights.shape:
            raise ValueError(
                f"{self.name}: weights {weights.shape} must be [L,N,T,S] with T, S = {tokens}, "
                f"the numbers of query and key tokens, and not empty"
            )
        low, high = weights.min(), weights.max()
        if not (low >= 0 and high <= 1 + ABOVE_ONE):  # not a number compares as False
            raise ValueError(f"{self.name}: weights must lie in [0, 1], not [{low}, {high}]")


@dataclasses.dataclass(frozen=True, eq=False)
class AttentionMaps:
    """All attentions of one example, in the order in which they are shown.

    Raises:
      ValueError: there are no parts, or two of one name.
    """

    title: str
    parts: tuple[AttentionPart, ...]

    def __post_init__(self) -> None:
        names = [part.name for part in self.parts]
        if not names or len(set(names)) < len(names):
            raise ValueError(f"parts must be there and have different names, not {names}")

    def save_arrays(self, path: str | os.PathLike[str]) -> None:
        """Writes an .npz file: for each part NAME.weights, exactly, and all text as JSON in about.

        Raises:
          UserError: the file cannot be written.
        """
        about = {
            "title": self.title,
            "parts": [
                {
                    "name": part.name,
                    "query_tokens": list(part.query_tokens),
                    "key_tokens": list(part.key_tokens),
                }
                for part in self.parts
            ],
        }
        file = io.BytesIO()
        arrays: dict[str, Any] = {f"{part.name}.weights": part.weights for part in self.parts}
        # As JSON, because an array of strings loses a NUL at the end of one.
        np.savez(file, about=np.array(json.dumps(about)), **arrays)
        write_whole(path, file.getvalue())

    @classmethod
    def load_arrays(cls, path: str | os.PathLike[str]) -> AttentionMaps:
        """Reads what `save_arrays` wrote.

        Raises:
          UserError: the file is missing, damaged, or holds something else.
        """
        try:
            return cls._parsed(parse_npz(read_regular(path)))
        except OSError as error:
            raise UserError(f"{path} cannot be read: {error}. Name an existing file.") from error
        except (ValueError, LookupError, TypeError) as error:
            raise UserError(
                f"{path} does not hold attention maps ({error}). Write it with save_arrays."
            ) from error

    @classmethod
    def _parsed(cls, arrays: dict[str, np.ndarray]) -> AttentionMaps:
        about = parse_json(str(arrays["about"]).encode())
        parts = []
        for part in about["parts"]:
            name, queries, keys = (part[key] for key in ("name", "query_tokens", "key_tokens"))
            if not all(isinstance(text, str) for text in (about["title"], name, *queries, *keys)):
                raise ValueError("a title, a name or a token is no text")
            parts.append(
                AttentionPart(name, arrays[f"{name}.weights"], tuple(queries), tuple(keys))
            )
        return cls(about["title"], tuple(parts))


def printable(text: str) -> str:
    """Text with each character that cannot be seen as its escape: a newline as \\n."""
    return "".join(
        char if char.isprintable() or char in _JOINERS else _escape(char) for char in text
    )


def token_label(token: str) -> str:
    """A token as it is shown: SentencePiece's space and any other as ␣, the empty one as ∅."""
    if token in ("", *_JOINERS):
        return _escape(token) or "∅"
    label = printable(token.replace("▁", "␣").replace(" ", "␣"))
    # A mark has no letter to sit on.
    return "◌" + label if unicodedata.category(label[0]).startswith("M") else label


def _escape(text: str) -> str:
    return text.encode("unicode_escape").decode("ascii")

"""rows.json: what a folder of prepared rows says of itself, which anyone may have written."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

from transformer_jax.data.row_records import LONGEST_ROW, VERSION
from transformer_jax.errors import UserError
from transformer_jax.parsing import is_plain_name, is_text, parse_json, read_regular

INDEX, SETTINGS = "rows.json", "settings.json"


@dataclasses.dataclass(frozen=True)
class Shard:
    """What is known of a shard: `tokens` are the filled positions of its rows, `counts` is the
    SHA-256 of its .npy.
    """

    name: str
    documents: int
    examples: int
    rows: int
    tokens: int
    bytes: int
    sha256: str
    counts: str


def read_index(folder: Path) -> dict[str, Any]:
    """The settings and splits of a folder of prepared rows.

    Raises:
      UserError: it is none, is not finished, of another version or damaged.
    """
    path = folder / INDEX
    if not path.is_file():
        there = "is not finished" if (folder / SETTINGS).is_file() else "has no prepared rows"
        raise UserError(
            f"{folder} {there}: it lacks {INDEX}. Run `python -m transformer_jax.cli.prepare "
            f"--output {folder}` with its other settings; it goes on where it stopped."
        )
    try:
        index: dict[str, Any] = parse_json(read_regular(path))
        if index["version"] != VERSION:
            raise UserError(
                f"{path} is of version {index['version']!r:.40}; this version reads {VERSION}. "
                f"Prepare the rows anew, in another folder."
            )
        _check_settings(index)
        for split in index["splits"].values():
            if not [_check_shard(Shard(**shard)) for shard in split["shards"]]:
                raise ValueError("a split without shards")
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise damaged(path, f"cannot be read ({type(error).__name__}: {error})") from error
    return index


def _check_settings(index: dict[str, Any]) -> None:
    """Raises a ValueError if a setting cannot be, or a KeyError if it is not there."""
    tokenizer = index["tokenizer"]
    vocab_size, longest = tokenizer["vocab_size"], index["row_length"]
    limits = {
        "row_length": (index["row_length"], 1, LONGEST_ROW),
        "row_examples": (index["row_examples"], 1, longest),
        "example_length": (index["example_length"], 1, longest),
        "vocab_size": (vocab_size, 1, 2**31 - 1),
        "cls_id": (tokenizer["cls_id"], 0, vocab_size - 1),
        "sep_id": (tokenizer["sep_id"], 0, vocab_size - 1),
    }
    for name, (value, least, most) in limits.items():
        if type(value) is not int or not least <= value <= most:
            raise ValueError(f"{name}={value!r:.40} is not in {least}..{most}")
    if not is_plain_name(tokenizer["file"]):
        raise ValueError(f"the tokenizer's file is {tokenizer['file']!r:.60}, and no plain name")
    for name, value in (("fingerprint", tokenizer["fingerprint"]), ("examples", index["examples"])):
        if not is_text(value):
            raise ValueError(f"{name} is {value!r:.40}")


def _check_shard(shard: Shard) -> Shard:
    """The same; raises a ValueError if it cannot be. A row takes a byte at least."""
    if not is_plain_name(shard.name):
        raise ValueError(f"a shard is called {shard.name!r:.60}, which is no plain name")
    for field in dataclasses.fields(shard):
        value = getattr(shard, field.name)
        fine = is_text(value) if field.type == "str" else type(value) is int and 0 <= value < 2**48
        if not fine:
            raise ValueError(f"the {field.name} of {shard.name!r:.60} is {value!r:.40}")
    if not 0 < shard.rows <= shard.bytes:
        raise ValueError(f"{shard.name!r:.60} has {shard.rows} rows in {shard.bytes} bytes")
    return shard


def damaged(path: Path, what: str) -> UserError:
    """The error of a file of the folder."""
    return UserError(
        f"{path} {what}. Run the command of transformer_jax.cli.prepare again that wrote the "
        f"folder: it makes what is missing or damaged anew."
    )

"""A config as JSON and back. Classes come from a table, never from a name to import."""

from __future__ import annotations

import dataclasses
import json
import types
import typing
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from transformer_jax.errors import UserError
from transformer_jax.files import write_whole

_TAG = "class"


def to_json(config: Any) -> Any:
    """A dataclass as plain dicts, each with the name of its class, lists and scalars.

    Raises:
      UserError: a value that JSON cannot hold.
    """
    if dataclasses.is_dataclass(config) and not isinstance(config, type):
        fields = {f.name: to_json(getattr(config, f.name)) for f in dataclasses.fields(config)}
        return {_TAG: type(config).__name__} | fields
    if isinstance(config, tuple | list):
        return [to_json(x) for x in config]
    if config is None or isinstance(config, bool | int | float | str):
        return config
    raise UserError(
        f"A config holds dataclasses, tuples, texts, numbers and None; {config!r} is none of them."
    )


def from_json(data: Any, classes: Iterable[type], *, where: str = "config.json") -> Any:
    """Builds the config again from classes of those names.

    A field that is missing takes its default, which stands for what was before the field was.

    Raises:
      UserError: a class that is not in the table, a field that is unknown, or missing and without
        a default, or a value that the class refuses.
    """
    table = {cls.__name__: cls for cls in classes}
    if isinstance(data, list):
        return tuple(from_json(x, table.values(), where=where) for x in data)
    if not isinstance(data, dict):
        return data
    name = data.get(_TAG)
    if name not in table:
        raise UserError(
            f"{where}: no class {name!r} is known here. If it is of a config file of yours, name "
            f"that file with --config. Known are {', '.join(sorted(table))}."
        )
    fields = {f.name: f for f in dataclasses.fields(table[name])}
    given = {key: value for key, value in data.items() if key != _TAG}
    odd = given.keys() - fields.keys()
    odd |= {key for key in fields.keys() - given.keys() if _is_required(fields[key])}
    if odd:
        found = ", ".join(sorted(odd))
        raise UserError(f"{where}: {name} has other fields in this version: {found}.")
    values = {k: from_json(v, table.values(), where=where) for k, v in given.items()}
    try:
        return table[name](**values)
    except (TypeError, ValueError) as error:
        raise UserError(f"{where}: {name}: {error}") from error


def _is_required(field: dataclasses.Field) -> bool:
    return field.default is field.default_factory is dataclasses.MISSING


def classes_in(config: Any) -> set[type]:
    """The classes of a config's parts, alternatives of its fields included."""
    found: set[type] = set()
    if isinstance(config, tuple):
        return found.union(*map(classes_in, config))
    if not dataclasses.is_dataclass(config) or isinstance(config, type):
        return found
    found.add(type(config))
    hints = typing.get_type_hints(type(config))
    for field in dataclasses.fields(config):
        found |= classes_in(getattr(config, field.name))
        if typing.get_origin(hints[field.name]) in (types.UnionType, typing.Union):
            found |= {
                t
                for t in typing.get_args(hints[field.name])
                if isinstance(t, type) and dataclasses.is_dataclass(t)
            }
    return found


def write_config(config: Any, path: Path) -> None:
    """Writes the JSON form, whole or not at all."""
    write_whole(path, (json.dumps(to_json(config), indent=2) + "\n").encode())


def read_json(path: Path) -> Any:
    """Reads a JSON file.

    Raises:
      UserError: there is none, or it is damaged.
    """
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise UserError(
            f"{path} does not exist: {path.parent} is not the folder of a run. "
            f"Name the --workdir that train.py wrote."
        ) from None
    except OSError as error:
        raise UserError(f"{path} cannot be read: {error.strerror}.") from error
    except (UnicodeDecodeError, json.JSONDecodeError) as error:
        raise UserError(f"{path} is damaged: {error}.") from error

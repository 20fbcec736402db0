"""A config as JSON and back. Classes come from a table, never from a name to import."""

from __future__ import annotations

import builtins
import dataclasses
import json
import types
import typing
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from transformer_jax.errors import UserError
from transformer_jax.files import write_whole
from transformer_jax.parsing import is_text, parse_json, read_regular

_TAG = "class"
_LARGEST = 2**63  # what no number of a config comes near


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
        a default, or a value that is not of the field's type or that the class refuses.
    """
    table = {cls.__name__: cls for cls in classes}
    if isinstance(data, list):
        return tuple(from_json(x, table.values(), where=where) for x in data)
    if not isinstance(data, dict):
        return data
    name = data.get(_TAG)
    if not isinstance(name, str) or name not in table:
        raise UserError(
            f"{where}: no class {name!r:.60} is known here. If it is of a config file of yours, "
            f"name that file with --config. Known are {', '.join(sorted(table))}."
        )
    fields = {f.name: f for f in dataclasses.fields(table[name])}
    given = {key: value for key, value in data.items() if key != _TAG}
    odd = given.keys() - fields.keys()
    odd |= {key for key in fields.keys() - given.keys() if _is_required(fields[key])}
    if odd:
        found = ", ".join(sorted(odd))
        raise UserError(f"{where}: {name} has other fields in this version: {found}.")
    values = {k: from_json(v, table.values(), where=where) for k, v in given.items()}
    hints = typing.get_type_hints(table[name])
    for key, value in values.items():
        if not fits(value, hints[key]):
            raise UserError(
                f"{where}: {name}.{key} cannot be {value!r:.60}; it is of the type "
                f"{_shown(hints[key])}."
            )
    try:
        return table[name](**values)
    except (TypeError, ValueError, OSError) as error:  # OSError: a path that no file can have
        raise UserError(f"{where}: {name}: {error}") from error


def fits(value: Any, hint: Any) -> bool:
    """Whether a value is of the type that a field's annotation names; other annotations fit all."""
    arguments = typing.get_args(hint)
    match typing.get_origin(hint):
        case types.UnionType | typing.Union:
            return any(fits(value, argument) for argument in arguments)
        case typing.Literal:
            return any(type(value) is type(x) and value == x for x in arguments)
        case builtins.tuple if arguments[-1] is ...:
            return isinstance(value, tuple) and all(fits(x, arguments[0]) for x in value)
        case builtins.tuple:
            same = isinstance(value, tuple) and len(value) == len(arguments)
            return same and all(map(fits, value, arguments))
    if hint is float:
        return type(value) in (int, float) and abs(value) < _LARGEST
    if hint is int:  # steps=1e5 in a config file is one
        whole = type(value) is int or (isinstance(value, float) and value.is_integer())
        return whole and abs(value) < _LARGEST
    if hint is str:
        return is_text(value)
    known = hint in (bool, types.NoneType) or dataclasses.is_dataclass(hint)
    return isinstance(value, hint) if known else True


def _shown(hint: Any) -> str:
    return hint.__name__ if isinstance(hint, type) else str(hint).replace("typing.", "")


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
        return parse_json(read_regular(path))
    except FileNotFoundError:
        raise UserError(
            f"{path} does not exist: {path.parent} is not the folder of a run. "
            f"Name the --workdir that train.py wrote."
        ) from None
    except OSError as error:
        raise UserError(f"{path} cannot be read: {error.strerror}.") from error
    except ValueError as error:
        raise UserError(f"{path} is damaged: {error}.") from error

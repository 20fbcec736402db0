"""In what two runs differ, or two hosts of one, and what of it a run that goes on may change."""

from __future__ import annotations

import difflib
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from transformer_jax.errors import UserError

# What a resumed run may change. Everything else would make it another run.
MAY_CHANGE = (
    "data.path",  # the data itself must be the same, which its fingerprint tells
    "mesh",
    "task.beam_size",
    "task.length_penalty",
    "task.threshold",
    "train.average_last",
    "train.checkpoint_dir",
    "train.checkpoint_every",
    "train.keep",
    "train.log_every",
    "train.max_skipped",
    "train.stop_at",
)


# What the processes of a run may have of their own; all else steers what they do together.
_OF_A_HOST = ("data.path",)

# Names of what a fingerprint of data has, as fields of the config where they are of one.
_FIELDS = {"batch_size": "train.batch_size", "seed": "train.seed", "row": "data.row_length"}
_CONTENT = ("data.text", "data.pairs", "data.examples", "data.tokenizer")


def differences(old: Any, new: Any, allow: Sequence[str] = ()) -> list[str]:
    """The fields, as "name: old -> new", in which two JSON forms of a config differ.

    Args:
      old: of the run as it was.
      new: as it is to go on.
      allow: fields, or groups of them, that may differ, beside `MAY_CHANGE`.
    """
    return [
        f"{name}: {before!r} -> {now!r}"
        for name, before, now in _unequal(old, new, "")
        if not _covered(name, (*MAY_CHANGE, *allow))
    ]


def fingerprint_differences(
    old: Mapping[str, Any], new: Mapping[str, Any], allow: Sequence[str] = ()
) -> list[str]:
    """The same for two fingerprints of a task's data: "data.KEY", or the field that it is of.

    What the old one lacks was not looked at by an older version, and is passed over.
    """
    found = []
    for key in sorted(old):
        name = _FIELDS.get(key, f"data.{key}")
        if old[key] != new.get(key) and not _covered(name, allow):
            found.append(f"{name}: {old[key]!r} -> {new.get(key)!r}")
    return found


def host_differences(first: Any, other: Any) -> list[str]:
    """The fields in which the configs of two processes of a run differ, and must not."""
    return [
        f"{name}: {before!r} -> {now!r}"
        for name, before, now in _unequal(first, other, "")
        if not _covered(name, _OF_A_HOST)
    ]


def misfits(want: Mapping[str, Any], have: Mapping[str, Any]) -> list[str]:
    """How the arrays that there are differ from those that are wanted, by what is said of each."""
    lines = [f"{name} {want[name]} is missing" for name in want.keys() - have.keys()]
    lines += [f"{name} {have[name]} has no place" for name in have.keys() - want.keys()]
    lines += [
        f"{name} is {have[name]}, not {want[name]}"
        for name in want.keys() & have.keys()
        if want[name] != have[name]
    ]
    return sorted(lines)


def refusal(changed: Sequence[str]) -> str:
    """The rest of a message that ends in "differs in": what differs, and what to do."""
    names = ",".join(line.partition(":")[0] for line in changed)
    return (
        "\n  "
        + "\n  ".join(changed)
        + f"\nTake back the change, take a new --workdir, or go on with it by --allow {names}"
    )


def check_allowed(allow: Sequence[str], *configs: Any) -> None:
    """Refuses to allow fields that there are not.

    Args:
      allow: names of fields, or of groups of them.
      configs: JSON forms.

    Raises:
      UserError: one is unknown; it says which ones are near.
    """
    known = {*_CONTENT, *(name for config in configs for name in _names(config))}
    for name in allow:
        if name in known:
            continue
        near = difflib.get_close_matches(name, sorted(known), cutoff=0.8)
        group = name.partition(".")[0]
        inside = sorted(n for n in known if n.startswith(f"{group}.")) or sorted(
            n for n in known if "." not in n and n != "class"
        )
        hint = f"Do you mean {' or '.join(near)}?" if near else f"There are {', '.join(inside)}."
        raise UserError(f"--allow {name}: no field has this name. {hint}")


def _unequal(old: Any, new: Any, path: str) -> Iterator[tuple[str, Any, Any]]:
    """Name and both values of each leaf in which two JSON forms differ."""
    if isinstance(old, dict) and isinstance(new, dict):
        for key in sorted(old.keys() | new.keys()):
            yield from _unequal(old.get(key), new.get(key), f"{path}.{key}" if path else key)
    elif old != new:
        yield path, old, new


def _covered(name: str, groups: Sequence[str]) -> bool:
    """Whether a field is one of these, or lies in one."""
    return any(f"{name}.".startswith(f"{group}.") for group in groups)


def _names(config: Any, path: str = "") -> Iterator[str]:
    """The names of all fields of a JSON form, and of their groups."""
    if isinstance(config, dict):
        for key, value in config.items():
            name = f"{path}.{key}" if path else key
            yield name
            yield from _names(value, name)

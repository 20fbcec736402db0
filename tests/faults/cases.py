"""What a fault is, and what may come of it."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from pathlib import Path
from random import Random
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from tests.faults.lab import Lab

SURVIVED = "survived"  # the run ends as if nothing had happened
REFUSED = "refused"  # with a message that says what is wrong, and nothing is changed


class Failed(Exception):
    """A promise that was not kept, and how that shows."""


class Silent(Failed):
    """The worst: a wrong result, and no word about it."""


class NotTried(Exception):
    """This machine does not allow the fault; why."""


@dataclasses.dataclass(frozen=True)
class Case:
    """One fault done to one run.

    Attributes:
      name: what is done.
      run: does it, in a folder of its own; returns SURVIVED or REFUSED, or raises `Failed`.
    """

    name: str
    run: Callable[[Lab, Random, Path], str]


@dataclasses.dataclass(frozen=True)
class Fault:
    """A kind of fault.

    Attributes:
      name: for --only and the table.
      what: a line for --help.
      cases: the cases of the whole list, or of the short one.
      at_once: how many of them may run at a time; those of one run in this process.
      in_short: not so of those of several processes, which `make test` does to runs as well.
    """

    name: str
    what: str
    cases: Callable[[Lab, Random, bool], Sequence[Case]]
    at_once: int = 1
    in_short: bool = True


def check(kept: bool, message: str) -> None:
    """Raises `Failed` with the message where a promise is not kept."""
    if not kept:
        raise Failed(message)

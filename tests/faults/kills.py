"""SIGKILL at any moment; the run then goes to its end as if nothing had happened."""

from __future__ import annotations

import functools
import os
import signal
import time
from collections.abc import Sequence
from pathlib import Path
from random import Random

from tests.faults.cases import SURVIVED, Case, check
from tests.faults.lab import EVERY, STEPS, Lab, checkpoint_steps, last_step

_KILLS = 20
_SAVE = 0.2  # seconds; a save of the tiny run takes about so long


def kills(lab: Lab, random: Random, short: bool) -> Sequence[Case]:
    """Half of them at any moment of a run, and half while a checkpoint is being saved."""
    cases = []
    for i in range(2 if short else _KILLS):
        step = EVERY * random.randint(1, STEPS // EVERY)
        save = Case(f"while step {step} is saved", functools.partial(_in_save, step))
        cases.append(save if i % 2 else Case("at any moment", _at_any_moment))
    return cases


def _at_any_moment(lab: Lab, random: Random, folder: Path) -> str:
    workdir = folder / "run"
    delay = random.random() * lab.seconds
    command = lab.train(workdir)
    command.until(workdir.is_dir, "its folder")
    end = time.monotonic() + delay
    while time.monotonic() < end and not command.ended and last_step(workdir) < STEPS - 1:
        time.sleep(0.001)  # not behind the end, however quick the run is
    command.signal(signal.SIGKILL)
    return _goes_on(lab, workdir, command)


def _in_save(step: int, lab: Lab, random: Random, folder: Path) -> str:
    workdir = folder / "run"
    delay = random.random() * _SAVE
    command = lab.train(workdir)
    command.until(lambda: under_way(workdir, step) or _saved(workdir, step), f"the save of {step}")
    end = time.monotonic() + delay
    while time.monotonic() < end and under_way(workdir, step):
        time.sleep(0.0005)
    command.signal(signal.SIGKILL)
    lab.count(f"kills met a save of the {_KILLS // 2} aimed at one", under_way(workdir, step))
    return _goes_on(lab, workdir, command)


def _goes_on(lab: Lab, workdir: Path, killed) -> str:
    code = killed.wait().code
    check(code in (0, -signal.SIGKILL), f"exit code {code} before it was killed")
    lab.train(workdir).succeed()
    lab.check_equal(workdir)
    return SURVIVED


def under_way(workdir: Path, step: int) -> bool:
    """Whether there are signs of a save of this step that is not finished."""
    folder = workdir / "checkpoints"
    names = os.listdir(folder) if folder.is_dir() else []
    return any(name.startswith(f"{step}.") for name in names)


def _saved(workdir: Path, step: int) -> bool:
    return step in checkpoint_steps(workdir) and not under_way(workdir, step)

"""A run that goes on on other devices, and as another number of processes."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from random import Random

from tests.faults.cases import SURVIVED, Case, Silent
from tests.faults.commands import Command
from tests.faults.lab import EVERY, STEPS, Lab

_LAYOUTS = ((8, 1), (1, 1), (4, 1), (8, 2))  # devices, and how many of them share the parameters


def elsewhere(lab: Lab, random: Random, short: bool) -> Sequence[Case]:
    """8 -> 1 -> 4 -> 2x4 devices, and 1 -> 2 -> 1 processes."""
    cases = [
        Case("8 -> 1 -> 4 -> 2x4 devices", _devices),
        Case("1 -> 2 -> 1 processes", _processes),
    ]
    return cases[1:] if short else cases


def _devices(lab: Lab, random: Random, folder: Path) -> str:
    workdir = folder / "run"
    for i, (devices, fsdp) in enumerate(_LAYOUTS, 1):
        until = ["--train.stop_at", str(i * EVERY), "--mesh.fsdp", str(fsdp)]
        lab.train(workdir, *until, devices=devices).succeed()
        next_devices, next_fsdp = _LAYOUTS[i % len(_LAYOUTS)]
        _check_restored(lab, workdir, i * EVERY, next_devices, next_fsdp)
    lab.check_close(workdir)
    return SURVIVED


def _check_restored(lab: Lab, workdir: Path, step: int, devices: int, fsdp: int) -> None:
    """The same bits on these devices as on one."""
    arguments = ["-m", "tests.faults.state", str(workdir), str(step), str(fsdp)]
    done = Command(arguments, lab.env, workdir.parent, devices=devices).succeed()
    if done.said.split()[-1] != lab.read(workdir, step).digest():
        raise Silent(f"step {step} is another one on {devices} devices")


def _processes(lab: Lab, random: Random, folder: Path) -> str:
    workdir = lab.copy(folder, until=EVERY)
    for command in lab.train_two(workdir, "--train.stop_at", str(STEPS // 2)):
        command.succeed()
    lab.train(workdir).succeed()
    lab.check_close(workdir)
    lab.check_tidy(workdir)
    return SURVIVED

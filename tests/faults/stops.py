"""Signals that ask a run to stop, as one process and as two of which one is told."""

from __future__ import annotations

import functools
import time
from collections.abc import Sequence
from pathlib import Path
from random import Random
from signal import SIGCONT, SIGINT, SIGSTOP, SIGTERM, Signals

from tests.faults.cases import SURVIVED, Case, Failed, check
from tests.faults.commands import Command, Done
from tests.faults.lab import EVERY, STEPS, Lab, finished_steps, last_step

_FAR = "--train.stop_at 240 --train.checkpoint_every 120".split()  # so that none is saved before
_CODES = {SIGTERM: 143, SIGINT: 130}
_WITHIN = 2  # steps until the save, beside the one that was under way
_AT_ONCE = 10  # seconds; nothing is waited for, but this machine may be busy


def stops(lab: Lab, random: Random, short: bool) -> Sequence[Case]:
    """SIGTERM, SIGINT, one after the other, early, and to one of two processes."""
    step = functools.partial(random.randint, EVERY + 1, STEPS - 2 * EVERY)
    cases = [
        Case("SIGTERM", functools.partial(_stopped, SIGTERM, step())),
        Case("SIGINT", functools.partial(_stopped, SIGINT, step())),
        Case("a second signal", functools.partial(_stopped_twice, step())),
        Case("SIGTERM before the first step", functools.partial(_stopped_early, SIGTERM)),
        Case("SIGINT before the first step", functools.partial(_stopped_early, SIGINT)),
    ]
    return cases[:1] if short else cases


def stops_of_two(lab: Lab, random: Random, short: bool) -> Sequence[Case]:
    """One of two processes is told to stop; both do."""
    step = functools.partial(random.randint, EVERY + 1, STEPS - 2 * EVERY)
    cases = [
        Case(
            f"{number.name} to process {rank} of 2",
            functools.partial(_one_told, number, rank, step()),
        )
        for number, rank in ((SIGTERM, 0), (SIGTERM, 1), (SIGINT, 1))
    ]
    return random.sample(cases, 1) if short else cases


def frozen_at(command: Command, workdir: Path, step: int) -> int:
    """Stops the process for a while at this step or one behind; the last one in its log."""
    command.until(lambda: last_step(workdir) >= step, f"step {step}")
    command.signal(SIGSTOP)
    time.sleep(0.05)  # until it has stopped
    return last_step(workdir)


def _stopped(number: Signals, step: int, lab: Lab, random: Random, folder: Path) -> str:
    workdir = folder / "run"
    command = lab.train(workdir, *_FAR)
    logged = frozen_at(command, workdir, step)
    command.signal(number, SIGCONT)
    command.wait().check(_CODES[number])
    _check_saved(workdir, logged)
    lab.train(workdir).succeed()
    lab.check_equal(workdir)
    return SURVIVED


def _stopped_twice(step: int, lab: Lab, random: Random, folder: Path) -> str:
    """Both signals are there when the process wakes: it ends at once, and saves nothing."""
    workdir = folder / "run"
    lab.train(workdir, "--train.stop_at", str(EVERY)).succeed()
    command = lab.train(workdir, *_FAR)
    frozen_at(command, workdir, step)
    command.signal(SIGTERM, SIGINT, SIGCONT)
    done = command.wait(_AT_ONCE)
    _check_ended_by_signal(done)
    lab.train(workdir).succeed()
    lab.check_equal(workdir)
    return SURVIVED


def _stopped_early(number: Signals, lab: Lab, random: Random, folder: Path) -> str:
    """While the data is read and the step compiled; nothing is there to be saved."""
    workdir = folder / "run"
    command = lab.train(workdir)
    command.until(workdir.is_dir, "its folder")
    time.sleep(random.random())
    command.signal(number)
    done = command.wait()
    if last_step(workdir) == STEPS:  # the machine was quicker
        check(done.code == 0, f"exit code {done.code}")
    else:
        _check_ended_by_signal(done)
    lab.train(workdir).succeed()
    lab.check_equal(workdir)
    return SURVIVED


def _one_told(number: Signals, rank: int, step: int, lab: Lab, random: Random, folder: Path) -> str:
    workdir = folder / "run"
    pair = lab.train_two(workdir, *_FAR)
    logged = frozen_at(pair[rank], workdir, step)
    pair[rank].signal(number, SIGCONT)
    codes = [command.wait().code for command in pair]
    check(codes[rank] == _CODES[number], f"the process that was told ended with {codes[rank]}")
    check(codes[1 - rank] in (0, *_CODES.values()), f"the other ended with {codes[1 - rank]}")
    _check_saved(workdir, logged)
    lab.train(workdir).succeed()  # as one process
    lab.check_close(workdir)
    lab.check_tidy(workdir)
    return SURVIVED


def _check_saved(workdir: Path, logged: int) -> None:
    """The newest checkpoint is of at most two steps behind the one that was under way."""
    steps = finished_steps(workdir)
    if not steps:
        raise Failed(f"nothing was saved after step {logged}")
    latest = logged + 1 + _WITHIN
    check(logged <= steps[-1] <= latest, f"saved step {steps[-1]}, not {logged} to {latest}")


def _check_ended_by_signal(done: Done) -> None:
    codes = (*_CODES.values(), *(-number for number in _CODES))
    check(done.code in codes, f"exit code {done.code}; it said {done.last_words}")
    done.check_words()

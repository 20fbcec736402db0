"""Processes of a run that die, hang, or disagree; and two runs in one folder."""

from __future__ import annotations

import functools
import time
from collections.abc import Sequence
from pathlib import Path
from random import Random
from signal import SIGCONT, SIGKILL, SIGSTOP, Signals

from tests.faults.cases import REFUSED, SURVIVED, Case, Failed, check
from tests.faults.commands import Command
from tests.faults.lab import EVERY, STEPS, Lab, checkpoint_steps, last_step

_HEARTBEAT = 8  # seconds
_GRACE = 5
_FAR = ["--train.stop_at", "249", "--distributed.heartbeat", str(_HEARTBEAT)]


def lost(lab: Lab, random: Random, short: bool) -> Sequence[Case]:
    """Process 0, which coordinates, and process 1 die, or stop."""
    roles = ("coordinator", "worker")
    cases = [
        Case(f"a {how} {roles[rank]}", functools.partial(_lost, number, rank))
        for how, number in (("dead", SIGKILL), ("stopped", SIGSTOP))
        for rank in (1, 0)
    ]
    return cases[:1] if short else cases


def differing(lab: Lab, random: Random, short: bool) -> Sequence[Case]:
    """Two processes with configs that differ in one field."""
    fields = [("optimizer.b1", "0.8"), ("train.seed", "1"), ("model.activation", "gelu")]
    cases = [
        Case(f"another {field} in process 1", functools.partial(_differs, field, value))
        for field, value in fields
    ]
    return random.sample(cases, 1) if short else cases[:2]


def second_run(lab: Lab, random: Random, short: bool) -> Sequence[Case]:
    """Another run is started in the folder of one that is running."""
    return [Case("a second run in one folder", _second)]


def _lost(number: Signals, rank: int, lab: Lab, random: Random, folder: Path) -> str:
    workdir = folder / "run"
    pair = lab.train_two(workdir, *_FAR)
    lost, other = pair[rank], pair[1 - rank]
    lost.until(lambda: last_step(workdir) > EVERY and checkpoint_steps(workdir), "step 7")
    lost.signal(number)
    _ends_in_time(other, "the other process")
    if number == SIGSTOP:  # it finds itself alone when it wakes
        lost.signal(SIGCONT)
        _ends_in_time(lost, "the process that had stopped")
    _goes_on(lab, workdir)
    return SURVIVED


def _ends_in_time(command: Command, what: str) -> None:
    began = time.monotonic()
    done = command.wait(4 * (_HEARTBEAT + _GRACE))
    seconds = time.monotonic() - began
    check(done.code != 0, f"{what} ended as if all was well")
    limit = _HEARTBEAT + _GRACE
    check(seconds <= limit, f"{what} ended after {seconds:.1f} s, not {limit}")
    done.check_words("process|host", "goes on|resume|again|last checkpoint")


def _goes_on(lab: Lab, workdir: Path) -> None:
    """As one process to the planned end, from the newest checkpoint that is not behind it."""
    found = checkpoint_steps(workdir)
    if max(found) > STEPS:
        raise Failed(f"the run went on to step {max(found)} without the other process")
    lab.train(workdir).succeed()
    lab.check_close(workdir)
    lab.check_tidy(workdir)


def _differs(field: str, value: str, lab: Lab, random: Random, folder: Path) -> str:
    workdir = folder / "run"
    pair = lab.train_two(workdir, second=[f"--{field}", value])
    done = [command.wait() for command in pair]
    for one in done:
        one.refused(field.replace(".", r"\."))
    check(not checkpoint_steps(workdir), "refused, and a checkpoint was written")
    return REFUSED


def _second(lab: Lab, random: Random, folder: Path) -> str:
    workdir = folder / "run"
    first = lab.train(workdir)
    first.until(lambda: last_step(workdir) > 0, "step 1")
    first.signal(SIGSTOP)  # so that it is there as long as the second one needs
    outcome = lab.train(workdir).wait().refused(workdir.name, "process|run|writing")
    first.signal(SIGCONT)
    first.succeed()
    lab.check_equal(workdir)
    return outcome

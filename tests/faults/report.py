"""Runs the cases of a fault, says what failed, and counts."""

from __future__ import annotations

import collections
import shutil
import threading
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from tests.faults.cases import REFUSED, SURVIVED, Case, Failed, Fault, NotTried, Silent
from tests.faults.commands import end_all
from tests.faults.lab import Lab

_COLUMNS = ("fault", "tried", "survived", "refused", "silent/failed", "seconds")


class Report:
    """What came of each fault."""

    def __init__(self, seed: int, short: bool) -> None:
        self._seed = seed
        self._again = f"--seed {seed}{' --short' * short} --only"
        self._counts: dict[str, collections.Counter[str]] = {}
        self._seconds: dict[str, float] = {}
        self._notes: list[str] = []
        self._lock = threading.Lock()

    def start(self, fault: Fault) -> None:
        """A line for a fault, even if it has no case."""
        self._counts[fault.name] = collections.Counter()

    def end(self, fault: Fault, seconds: float) -> None:
        """Says how it went, as the whole list takes minutes."""
        self._seconds[fault.name] = seconds
        counts = self._counts[fault.name]
        found = ", ".join(f"{count} {outcome}" for outcome, count in sorted(counts.items()))
        print(f"{fault.name}: {found or 'none tried'} ({seconds:.0f} s)", flush=True)

    def add(self, fault: Fault, case: Case, outcome: str, message: str = "") -> None:
        """Counts one case; what failed is said at once, with how to repeat it."""
        with self._lock:
            if outcome == "not tried":
                self._notes.append(f"not tried: {fault.name}: {case.name}: {message}")
                return
            self._counts[fault.name][outcome] += 1
            if message:
                again = f"python -m tests.faults {self._again} {fault.name}"
                print(f"{outcome}: {fault.name}: {case.name}: {message}\n    {again}", flush=True)

    @property
    def failed(self) -> int:
        """How many cases kept no promise."""
        return sum(self._wrong(counts) for counts in self._counts.values())

    def table(self, counts: Mapping[str, Sequence[bool]]) -> str:
        """A line a fault, and their sum; above it what was not tried, and what was counted."""
        rows = [
            (
                name,
                sum(counts.values()),
                counts[SURVIVED],
                counts[REFUSED],
                self._wrong(counts),
                f"{self._seconds.get(name, 0.0):.0f}",
            )
            for name, counts in self._counts.items()
        ]
        sums = [sum(row[i] for row in rows) for i in range(1, 5)]
        seconds = f"{sum(self._seconds.values()):.0f}"
        lines = [_COLUMNS, *rows, ("all", *sums, seconds)]
        width = max(len(str(line[0])) for line in lines)
        text = [
            " | ".join(
                [
                    f"{line[0]:{width}}",
                    *(
                        f"{cell:>{len(name)}}"
                        for cell, name in zip(line[1:], _COLUMNS[1:], strict=True)
                    ),
                ]
            )
            for line in lines
        ]
        text[1:1] = text[-1:-1] = ["-" * len(text[0])]
        told = [f"{sum(found)} of {len(found)} {what}" for what, found in counts.items()]
        return "\n".join([*self._notes, *told, *text])

    def summary(self) -> str:
        """The last line."""
        tried = sum(sum(counts.values()) for counts in self._counts.values())
        return f"{tried} faults tried, {self.failed} of them silent or failed; seed {self._seed}"

    @staticmethod
    def _wrong(counts: collections.Counter[str]) -> int:
        return counts["silent"] + counts["failed"]


def run_fault(fault: Fault, lab: Lab, report: Report, *, short: bool) -> None:
    """Does all cases of a fault, each in a folder of its own, with draws of its own."""
    report.start(fault)
    began = time.monotonic()
    try:
        cases = fault.cases(lab, lab.random(fault.name), short)
    except Failed as error:  # the undisturbed run itself
        report.add(fault, Case("its preparation", _nothing), "failed", str(error))
        cases = []

    def do(number: int, case: Case) -> None:
        folder = lab.folder / f"{fault.name}_{number}"
        folder.mkdir()
        _do(fault, case, lab, folder, report, number)
        shutil.rmtree(folder, ignore_errors=True)

    if fault.at_once == 1:  # in this thread, as commands that are called here set signal handlers
        for number, case in enumerate(cases):
            do(number, case)
    else:
        with ThreadPoolExecutor(fault.at_once) as pool:
            try:
                list(pool.map(do, range(len(cases)), cases))
            except BaseException:  # Ctrl-C: what the threads wait for has to end
                pool.shutdown(wait=False, cancel_futures=True)
                end_all()
                raise
    report.end(fault, time.monotonic() - began)


def _do(fault: Fault, case: Case, lab: Lab, folder: Path, report: Report, number: int) -> None:
    try:
        outcome, message = case.run(lab, lab.random(fault.name, number), folder), ""
    except NotTried as error:
        outcome, message = "not tried", str(error)
    except Silent as error:
        outcome, message = "silent", str(error)
    except Failed as error:
        outcome, message = "failed", str(error)
    except Exception as error:  # of the library, where it should have been a clear message
        outcome, message = "failed", f"{type(error).__name__}: {str(error)[:600]}"
    report.add(fault, case, outcome, message)


def _nothing(lab: Lab, random: object, folder: Path) -> str:
    return SURVIVED

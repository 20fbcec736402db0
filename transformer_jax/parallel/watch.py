"""Each process of a run looks after the others: who ends tells it, and who is behind is named.

A device that waits for another process waits for ever, and the main thread with it, so this is the
work of a thread. With one process there is nothing to look after.
"""

from __future__ import annotations

import atexit
import ctypes
import json
import os
import re
import signal
import sys
import threading
import time
from typing import Any

from transformer_jax.parallel.hosts import GOES_ON, KEYS, client, names, rank, rank_of

UNFINISHED = 75  # how a run ends that others broke off: as EX_TEMPFAIL of sysexits.h, "try again"
ABORTED = (
    "If the lines above speak of the JAX distributed service, another process of this run has "
    "died, or its host or the network: they name it, or mean process 0, which coordinates all."
)
_CUT_OFF = re.compile(r"gloo|nccl|connection (?:closed|reset|refused)|coordination service", re.I)
_watch: _Watch | None = None
_kept: list[Any] = []  # what C calls must not be collected


def start_watch(interval: float, patience: float) -> None:
    """Starts to look after the other processes, until this one ends.

    Args:
      interval: seconds between two looks.
      patience: seconds without progress, after the first, that end the run.
    """
    global _watch
    _watch = _Watch(interval, patience)
    _explain_aborts()
    atexit.register(_watch.close)  # registered after JAX's own hook, so called before it


def moved(place: str) -> None:
    """This process has come to `place`, such as "step 7"; then it must come on again in time."""
    if _watch is not None:
        _watch.move(place)


def rest() -> None:
    """This process need not come on any more."""
    if _watch is not None:
        _watch.moved = None


def leave(code: int, reason: str) -> None:
    """Ends this process if it is one of several, and so the others, with the same code.

    It does not wait for them, as JAX does at a usual end.
    """
    if _watch is not None:
        _watch.close()
        _watch.end(code, reason)


def cut_off(error: Exception) -> str | None:
    """What to say of an error that only tells that another process is gone; else None."""
    if _watch is None or not _CUT_OFF.search(str(error)):
        return None
    reason = str(error).partition("\n")[0][:300]
    return (
        f"process {rank()} has lost another process, whose own log, or that of its host, says why "
        f"({reason}). {GOES_ON}"
    )


def behind(places: dict[int, tuple[int, str]], patience: float) -> str:
    """Says which processes are behind.

    Args:
      places: of each process how often it came on, and where it is.
      patience: seconds that were waited.
    """
    least, most = min(places.values()), max(places.values())
    late = sorted(process for process, place in places.items() if place == least)
    if least == most:
        where = f"all processes are at {least[1]}, so a device or the network between them stands"
    else:
        where = f"{names(late)} behind, at {least[1]}; others are at {most[1]}"
    return f"no step was finished for {patience:g} seconds: {where}. {GOES_ON}"


class _Watch:
    """A thread that publishes where this process is, and reads whether others have ended."""

    def __init__(self, interval: float, patience: float) -> None:
        self.moved: float | None = None  # when this process last came on
        self._interval, self._patience = interval, patience
        self._count, self._place = 0, ""
        self._published = -1
        self._closing = threading.Event()
        self._thread = threading.Thread(target=self._run, name="watch-hosts", daemon=True)
        self._thread.start()

    def move(self, place: str) -> None:
        """See `moved`."""
        self._count, self._place, self.moved = self._count + 1, place, time.monotonic()

    def close(self) -> None:
        """Ends the thread."""
        self._closing.set()
        self._thread.join(2 * self._interval)

    def end(self, code: int, reason: str) -> None:
        """Tells the others that this process ends, which they do too, and ends it."""
        try:
            client().key_value_set(f"{KEYS}/ended/{rank():06}", json.dumps([code, reason]))
        except RuntimeError:
            pass  # without the coordinator, JAX ends the others
        self._exit(code)

    def _exit(self, code: int) -> None:
        if rank() == 0:  # the coordinator ends with this process; before, all shall have read it
            time.sleep(3 * self._interval)
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)

    def _run(self) -> None:
        while not self._closing.wait(self._interval):
            try:
                self._look()
            except RuntimeError:
                continue  # the coordinator does not answer; if it has died, JAX ends this process

    def _look(self) -> None:
        ended = client().key_value_dir_get(f"{KEYS}/ended/")
        if ended and not self._closing.is_set():
            key, said = min(ended)
            code, reason = json.loads(said)
            _say(f"process {rank()} ends, as process {rank_of(key)} has ended: {reason}")
            self._exit(code)
        if self._count != self._published:
            self._published = self._count
            place = json.dumps([self._count, self._place])
            client().key_value_set(f"{KEYS}/at/{rank()}", place, allow_overwrite=True)
        moved = self.moved
        if moved is not None and time.monotonic() - moved > self._patience:
            places = client().key_value_dir_get(f"{KEYS}/at/")
            at = {rank_of(key): tuple(json.loads(place)) for key, place in places}
            reason = behind(at, self._patience)
            _say(f"process {rank()} ends: {reason}")
            self.end(UNFINISHED, reason)


def _explain_aborts() -> None:
    """Says what it means where JAX ends this process from C++, as it does without coordinator.

    JAX's own hook for that (`missed_heartbeat_callback`) cannot be called from jaxlib 0.10: it has
    no Python form of the status that it would pass.
    """

    def explain(_: int) -> None:
        _say(f"process {rank()} is aborted. {ABORTED} {GOES_ON}")

    libc = ctypes.CDLL(None)
    libc.signal.restype = ctypes.c_void_p
    handler = ctypes.CFUNCTYPE(None, ctypes.c_int)(explain)
    _kept.append(handler)
    libc.signal(signal.SIGABRT, handler)


def _say(line: str) -> None:
    os.write(2, f"{line}\n".encode())

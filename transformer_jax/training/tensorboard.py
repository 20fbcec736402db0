"""Scalars for TensorBoard."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

from tensorboardX.event_file_writer import EventsWriter
from tensorboardX.proto.event_pb2 import Event, SessionLog
from tensorboardX.summary import scalar

_FLUSH = 10.0  # seconds


class ScalarBoard:
    """A file of events, written in the thread that calls.

    tensorboardX's SummaryWriter has a thread for it, which a full disk ends with a stack trace; the
    run then waits for it for ever.
    """

    def __init__(self, folder: Path, first_step: int) -> None:
        """A new file; what older ones say of this step and those after it is hidden.

        Raises:
          OSError: it cannot be written; so do all methods.
        """
        folder.mkdir(parents=True, exist_ok=True)
        self._writer = EventsWriter(str(folder / "events"))
        self._flushed = 0.0
        self._add(first_step, file_version="brain.Event:2")
        self._add(first_step, session_log=SessionLog(status=SessionLog.START))

    def write(self, name: str, value: float, step: int) -> None:
        """Adds a value."""
        self._add(step, summary=scalar(name, value))
        if time.monotonic() - self._flushed > _FLUSH:
            self._writer.flush()
            self._flushed = time.monotonic()

    def close(self) -> None:
        """Ends the file."""
        self._writer.close()

    def _add(self, step: int, **what: Any) -> None:
        self._writer.write_event(Event(wall_time=time.time(), step=step, **what))

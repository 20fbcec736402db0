"""Ctrl-C that is never lost."""

from __future__ import annotations

import contextlib
import gc
import os
import signal
import threading
from collections.abc import Iterator
from types import FrameType

_AGAIN = 0.01  # seconds after which a signal that would be lost comes once more


@contextlib.contextmanager
def sure_interrupts() -> Iterator[None]:
    """Within it Ctrl-C raises KeyboardInterrupt even while garbage is collected.

    JAX has a callback in `gc.callbacks`, and Python ignores what is raised in one. Where SIGINT is
    handled by others, or ignored, that stays so.
    """
    if (
        threading.current_thread() is not threading.main_thread()
        or signal.getsignal(signal.SIGINT) is not signal.default_int_handler
    ):
        yield
        return
    signal.signal(signal.SIGINT, _interrupt)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, signal.default_int_handler)


def _interrupt(number: int, frame: FrameType | None) -> None:
    raise_now_or_again(KeyboardInterrupt(), number, frame)


def raise_now_or_again(error: BaseException, number: int, frame: FrameType | None) -> bool:
    """Raises, in the handler of a signal; while garbage is collected the signal comes once more.

    Returns:
      True: it comes once more.
    """
    if not _collects_garbage(frame):
        raise error
    # To the process, not by raise_signal to the timer's thread: that would not wake the main
    # thread from a system call.
    threading.Timer(_AGAIN, os.kill, (os.getpid(), number)).start()
    return True


def _collects_garbage(frame: FrameType | None) -> bool:
    callbacks = {getattr(callback, "__code__", None) for callback in gc.callbacks}
    while frame is not None:
        if frame.f_code in callbacks:
            return True
        frame = frame.f_back
    return False

"""Ctrl-C that is never lost."""

from __future__ import annotations

import _thread
import contextlib
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator

_AGAIN = 0.05  # seconds after which a signal that was ignored comes once more


@contextlib.contextmanager
def sure_interrupts() -> Iterator[None]:
    """Within it Ctrl-C raises KeyboardInterrupt, again where Python has ignored it.

    Python ignores what is raised in `gc.callbacks`, where JAX has one, in callbacks of weak
    references and in `__del__`. Where SIGINT is handled by others, or ignored, that stays so.
    """
    if (
        threading.current_thread() is not threading.main_thread()
        or signal.getsignal(signal.SIGINT) is not signal.default_int_handler
    ):
        yield
        return
    with ignored_is_told(KeyboardInterrupt, lambda: send_again(signal.SIGINT)):
        yield


@contextlib.contextmanager
def ignored_is_told(kind: type[BaseException], tell: Callable[[], None]) -> Iterator[None]:
    """Within it `tell` is called when Python ignores an exception of a kind, instead of a print."""
    before = sys.unraisablehook

    def hook(ignored: sys.UnraisableHookArgs) -> None:
        if issubclass(ignored.exc_type, kind):
            tell()
        else:
            before(ignored)

    sys.unraisablehook = hook
    try:
        yield
    finally:
        sys.unraisablehook = before


def send_again(number: int) -> None:
    """Sends this process a signal, a moment later: the place that ignored it is then left."""
    # Not by a threading.Timer: on a busy machine its start can wait for the moment to be over, and
    # the signal would be ignored for good, in `sys.unraisablehook`.
    _thread.start_new_thread(_send, (number,))


def _send(number: int) -> None:
    time.sleep(_AGAIN)
    # To the process, not by raise_signal to this thread: that would not wake the main thread from
    # a system call.
    os.kill(os.getpid(), number)

"""A run that is told to stop, by SIGTERM or Ctrl-C, saves its last step and can be resumed."""

from __future__ import annotations

import contextlib
import os
import signal
import threading
from collections.abc import Callable, Iterator
from types import FrameType
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from transformer_jax.interrupts import ignored_is_told, send_again
from transformer_jax.parallel import watch

_HEEDED = (signal.SIGTERM, signal.SIGINT)
_DEFAULT = (signal.SIG_DFL, signal.default_int_handler)


class Stopped(KeyboardInterrupt):
    """A signal has ended the run; as with Ctrl-C, `except Exception` does not hold it up.

    Attributes:
      signal: its number.
      step: the one that was saved for it; None if nothing was: the run had not begun, or was done.
    """

    def __init__(self, number: int, step: int | None = None) -> None:
        self.signal, self.step = number, step
        name = signal.Signals(number).name
        if step is None:
            super().__init__(
                f"stopped by {name}; the same command goes on from the last step saved"
            )
        else:
            super().__init__(
                f"stopped by {name} at step {step}; the same command goes on from there"
            )


class Stop:
    """Whether the run is to stop: a signal of one process counts for all, at the same step.

    Attributes:
      agreed: the number of the signal that all processes know of, or 0.
    """

    def __init__(self) -> None:
        self.agreed = 0
        self.heard = 0  # the number of the signal that this process got
        self.resent = 0  # how many signals were no new ones
        self._begun = False
        self._before: tuple[Any, Any] | None = None  # what the last call began
        self._share = _sharing() if jax.process_count() > 1 else None

    def asked(self, place: str, begun: Any) -> int:
        """Whether to stop: the signal's number, or 0; the same in all processes.

        All of them call it at the same places. It waits until what was begun before the last call
        is done: so much stays queued that devices have work, and no more than two steps are made
        after a signal.

        Args:
          place: where this process has come to, for `watch.moved`.
          begun: arrays that the devices are at work on.
        """
        self._begun = True
        watch.moved(place)
        if self.agreed:
            return self.agreed
        shared = self.heard if self._share is None else self._share(self.heard)
        before, self._before = self._before, (shared, begun)
        if before is not None:
            jax.block_until_ready(before[1])
        if self._share is None:
            self.agreed = self.heard
        elif before is not None:
            self.agreed = int(before[0])
        return self.agreed

    def hear(self, number: int, frame: FrameType | None) -> None:
        """Handles a signal: notes it, and before the first step ends what is done."""
        self.heard = number
        if not self._begun:
            raise Stopped(number)

    def hear_again(self) -> None:
        """Lets the signal come once more: Python ignored what `hear` raised."""
        self.resent += 1
        send_again(self.heard)


@contextlib.contextmanager
def heeding_signals() -> Iterator[Stop]:
    """Within it SIGTERM and SIGINT are heard, and a second one of them ends the process at once.

    Not so in a thread that is not the main one, which gets no signals, and where the caller has a
    handler of its own or ignores the signal.

    Raises:
      Stopped: a signal came before the first step, or was heard when nothing was left to do.
    """
    with contextlib.ExitStack() as undo:
        undo.callback(watch.rest)
        stop = Stop()
        heeded: list[signal.Signals] = []
        if threading.current_thread() is threading.main_thread():
            heeded = [s for s in _HEEDED if signal.getsignal(s) in _DEFAULT]
        if heeded:
            undo.enter_context(_second_ends(stop, heeded))
            undo.enter_context(ignored_is_told(Stopped, stop.hear_again))
            for number in heeded:
                undo.callback(signal.signal, number, signal.getsignal(number))
                signal.signal(number, stop.hear)
        yield stop
    if stop.heard:  # only now that the handlers are gone no more can come
        raise Stopped(stop.heard)


@contextlib.contextmanager
def _second_ends(stop: Stop, heeded: list[signal.Signals]) -> Iterator[None]:
    """A thread that ends the process at the second signal, whatever the main thread waits for.

    Python runs handlers in the main thread alone, between two lines of it: not while that compiles
    or waits for a device. The number of a signal is written to a file at once.
    """
    read, write = os.pipe()
    os.set_blocking(write, False)

    def listen() -> None:
        count = 0
        while data := os.read(read, 1):
            if data[0] not in heeded:
                continue
            count += 1
            if count - stop.resent >= 2:
                name = signal.Signals(data[0]).name
                os.write(2, f"ended at once by a second signal, {name}\n".encode())
                os._exit(128 + data[0])
        os.close(read)

    before = signal.set_wakeup_fd(write, warn_on_full_buffer=False)
    threading.Thread(target=listen, name="second-signal", daemon=True).start()
    try:
        yield
    finally:
        signal.set_wakeup_fd(before)
        os.close(write)


def _sharing() -> Callable[[int], jax.Array]:
    """A program that takes a number of each process and gives all of them the largest."""
    devices = np.asarray(jax.devices())
    mesh = Mesh(devices, ("all",))
    split = NamedSharding(mesh, PartitionSpec("all"))
    largest = jax.jit(jnp.max, out_shardings=NamedSharding(mesh, PartitionSpec()))

    def share(number: int) -> jax.Array:
        mine = np.full(len(mesh.local_devices), number, np.int32)
        return largest(jax.make_array_from_process_local_data(split, mine, devices.shape))

    return share

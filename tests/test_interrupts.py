"""Ctrl-C is never lost."""

import gc
import os
import signal
import time

import pytest

from transformer_jax.interrupts import sure_interrupts


@pytest.fixture(autouse=True)
def _heeds_interrupts():
    """Also where who runs the tests ignores Ctrl-C, as a shell's background jobs do."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


def wait_for_interrupt():
    until = time.monotonic() + 10
    while time.monotonic() < until:
        time.sleep(0.01)


def test_an_interrupt_while_garbage_is_collected_comes_after_it():
    """Python prints and forgets what a callback of the collector raises."""

    def collecting(phase, info):
        if phase == "start":
            os.kill(os.getpid(), signal.SIGINT)

    gc.callbacks.append(collecting)
    before = signal.getsignal(signal.SIGINT)
    try:
        with pytest.raises(KeyboardInterrupt), sure_interrupts():
            gc.collect()
            gc.callbacks.remove(collecting)
            wait_for_interrupt()
    finally:
        if collecting in gc.callbacks:
            gc.callbacks.remove(collecting)
    assert signal.getsignal(signal.SIGINT) is before


def test_an_interrupt_elsewhere_comes_at_once():
    with pytest.raises(KeyboardInterrupt), sure_interrupts():
        os.kill(os.getpid(), signal.SIGINT)
        time.sleep(0)
        pytest.fail("the interrupt was late")


def test_who_ignores_interrupts_still_does():
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        with sure_interrupts():
            os.kill(os.getpid(), signal.SIGINT)
    finally:
        signal.signal(signal.SIGINT, before)

"""Ctrl-C is never lost."""

import gc
import os
import signal
import sys
import time
import weakref

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


class Interrupting:
    """Interrupts this process when it is deleted."""

    def __del__(self):
        interrupt()


def interrupt(*_):
    os.kill(os.getpid(), signal.SIGINT)
    time.sleep(0)  # here the handler runs


def in_a_callback_of_the_collector():
    sent = []

    def collecting(phase, info):
        if phase == "start" and not sent:
            sent.append(True)
            interrupt()

    gc.callbacks.append(collecting)
    try:
        gc.collect()
    finally:
        gc.callbacks.remove(collecting)


def in_a_callback_of_a_weak_reference():
    thing = type("Thing", (), {})()
    reference = weakref.ref(thing, interrupt)
    del thing
    assert reference() is None


def in_a_deletion():
    Interrupting()


def in_a_deletion_and_again_in_the_next():
    """As with a heap so large that the collector is still at it when the signal comes again."""

    class Slow:
        def __del__(self):
            until = time.monotonic() + 0.1
            while time.monotonic() < until:
                pass

    Interrupting()
    Slow()


@pytest.mark.parametrize(
    "ignored",
    [
        in_a_callback_of_the_collector,
        in_a_callback_of_a_weak_reference,
        in_a_deletion,
        in_a_deletion_and_again_in_the_next,
    ],
)
def test_an_interrupt_that_python_ignores_comes_again(ignored):
    handler, hook = signal.getsignal(signal.SIGINT), sys.unraisablehook
    with pytest.raises(KeyboardInterrupt), sure_interrupts():
        ignored()
        wait_for_interrupt()
    assert signal.getsignal(signal.SIGINT) is handler and sys.unraisablehook is hook


def test_what_else_python_ignores_is_printed_as_ever(monkeypatch):
    ignored = []
    monkeypatch.setattr(sys, "unraisablehook", ignored.append)

    class Failing:
        def __del__(self):
            raise ValueError("of another kind")

    with sure_interrupts():
        Failing()
    assert [type(each.exc_value) for each in ignored] == [ValueError]


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

"""Runs that are told to stop: what they save, what they leave alone, and how they go on."""

import gc
import os
import signal
import subprocess
import sys
import textwrap
import threading
import types
from pathlib import Path

import jax
import numpy as np
import pytest

from tests.training.test_loop import config_for, last_state, losses
from transformer_jax.parallel.mesh import MeshConfig, make_mesh
from transformer_jax.training import loop
from transformer_jax.training.checkpoint import Checkpoints
from transformer_jax.training.loop import train
from transformer_jax.training.metrics import Clock, read_metrics
from transformer_jax.training.seeds import train_seeds
from transformer_jax.training.stopping import Stop, Stopped, heeding_signals

ROOT = Path(__file__).parents[2]
STEPS = 7


@pytest.fixture(autouse=True)
def _heeds_signals():
    """Also where who runs the tests ignores Ctrl-C, as a shell's background jobs do."""
    before = {
        number: signal.signal(number, handler)
        for number, handler in (
            (signal.SIGINT, signal.default_int_handler),
            (signal.SIGTERM, signal.SIG_DFL),
        )
    }
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


def handlers():
    return [signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)]


@pytest.fixture(scope="module", autouse=True)
def _one_device(quick_compilation):
    """Quick to compile for."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(loop, "make_mesh", lambda _: make_mesh(MeshConfig(), jax.devices()[:1]))
        yield


@pytest.fixture(scope="module")
def whole(tmp_path_factory, pairs_folder, _one_device):
    """A run that was never stopped."""
    workdir = tmp_path_factory.mktemp("whole")
    train(config_for(pairs_folder, stop_at=STEPS), workdir)
    return workdir


@pytest.fixture
def told(monkeypatch):
    """A function that has a signal come in the middle of the step of this number."""
    count = Clock.count

    def tell(step, number=signal.SIGTERM):
        steps = iter(range(1, 100))

        def counted(clock, tokens):
            count(clock, tokens)
            if next(steps) == step:
                os.kill(os.getpid(), number)

        monkeypatch.setattr(Clock, "count", counted)

    return tell


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_run_that_is_told_saves_within_two_steps_and_goes_on_bitwise(
    whole, tmp_path, pairs_folder, told, number
):
    before = handlers()
    told(3, number)
    with pytest.raises(Stopped, match=f"by {number.name} at step [345]; the same command") as error:
        train(config_for(pairs_folder, stop_at=STEPS), tmp_path)
    assert handlers() == before
    stopped = error.value
    assert (stopped.signal, Checkpoints(tmp_path, read_only=True).latest()) == (
        number,
        stopped.step,
    )
    assert not any("valid_loss" in metrics for metrics in read_metrics(tmp_path))
    train(config_for(pairs_folder, stop_at=STEPS), tmp_path)
    (got, position), (want, wanted_position) = last_state(tmp_path), last_state(whole)
    for (path, a), (_, b) in zip(got, want, strict=True):
        np.testing.assert_array_equal(a, b, err_msg=str(path))
    assert position == wanted_position
    assert losses(tmp_path) == losses(whole)


def test_a_validation_is_left_where_the_run_is_told():
    read, stop = [], Stop()

    def batches(*_):
        for number in range(5):
            read.append(number)
            yield {"x": np.zeros((8, 1))}

    def terms(params, batch):
        stop.heard = signal.SIGTERM if len(read) == 2 else 0
        return {"loss": (1.0, 1.0)}

    task = types.SimpleNamespace(eval_batches=batches, coefficients={"loss": 1.0})
    mean_loss = loop.make_mean_loss(task, make_mesh(MeshConfig()), terms)
    assert mean_loss({}, "valid", stop) == {} and read == [0, 1, 2]


def test_a_checkpoint_without_metrics_is_never_the_best(tmp_path, pairs_folder, told):
    told(7)
    with pytest.raises(Stopped):
        train(config_for(pairs_folder), tmp_path)
    checkpoints = Checkpoints(tmp_path, read_only=True)
    assert (checkpoints.best(), checkpoints.latest() > 5) == (5, True)


def test_all_seeds_stop_at_once(tmp_path, pairs_folder, told):
    told(2)
    with pytest.raises(Stopped):
        train_seeds(config_for(pairs_folder, stop_at=4), tmp_path, 2)
    assert [path.name for path in tmp_path.iterdir()] == ["seed_0"]


def test_a_signal_after_the_last_step_is_not_lost():
    with pytest.raises(Stopped, match="SIGTERM; the same command"), heeding_signals() as stop:
        stop.asked("step 1", ())
        os.kill(os.getpid(), signal.SIGTERM)


def test_before_the_first_step_a_signal_ends_what_is_done():
    before = handlers()
    with pytest.raises(Stopped, match="SIGTERM; the same command") as error:
        with heeding_signals():
            os.kill(os.getpid(), signal.SIGTERM)
            pytest.fail("the signal was late")
    assert error.value.step is None and isinstance(error.value, KeyboardInterrupt)
    assert handlers() == before


def test_a_signal_while_garbage_is_collected_counts_once():
    """What its handler raises would be lost, so it comes again; that is no second signal."""
    sent = []

    def collecting(phase, info):
        if phase == "start" and not sent:
            sent.append(True)
            os.kill(os.getpid(), signal.SIGTERM)

    try:
        with pytest.raises(Stopped), heeding_signals():
            gc.callbacks.append(collecting)
            gc.collect()
            threading.Event().wait(60)
    finally:
        gc.callbacks.remove(collecting)


def test_who_has_a_handler_keeps_it_and_who_ignores_a_signal_still_does():
    heard = []
    mine = [lambda number, _: heard.append(number), signal.SIG_IGN]
    for number, handler in zip((signal.SIGTERM, signal.SIGINT), mine, strict=True):
        signal.signal(number, handler)
    with heeding_signals() as stop:
        assert handlers() == mine
        os.kill(os.getpid(), signal.SIGINT)
        os.kill(os.getpid(), signal.SIGTERM)
    assert (heard, stop.heard) == ([signal.SIGTERM], 0)


def test_a_thread_that_is_not_the_main_one_gets_no_handlers():
    found = []

    def train_there():
        with heeding_signals() as stop:
            found.append((handlers(), stop.asked("step 1", ())))

    thread = threading.Thread(target=train_there)
    thread.start()
    thread.join()
    assert found == [(handlers(), 0)]


def test_a_second_signal_ends_the_process_whatever_the_main_thread_waits_for():
    """Here for a lock of C that never opens: Python runs no handler while it waits for that."""
    program = textwrap.dedent("""
        import ctypes, os, signal, threading, time
        from transformer_jax.training.stopping import heeding_signals
        signal.signal(signal.SIGINT, signal.default_int_handler)
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        libc, lock = ctypes.CDLL(None), ctypes.create_string_buffer(64)

        def tell():
            for number in (signal.SIGTERM, signal.SIGINT):
                time.sleep(0.5)
                os.kill(os.getpid(), number)

        with heeding_signals() as stop:
            stop.asked("step 1", ())
            threading.Thread(target=tell).start()
            libc.pthread_mutex_lock(lock)
            libc.pthread_mutex_lock(lock)
    """)
    env = os.environ | {"JAX_PLATFORMS": "cpu"}
    command = [sys.executable, "-c", program]
    done = subprocess.run(command, cwd=ROOT, env=env, capture_output=True, text=True, timeout=120)
    assert done.returncode == 130, done.stderr
    assert done.stderr == "ended at once by a second signal, SIGINT\n"

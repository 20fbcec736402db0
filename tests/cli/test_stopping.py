"""train.py under signals: what it prints, its exit code, and that nothing is lost."""

import random
import signal
import time

import jax
import numpy as np

from tests.cli.runs import ends, finish, losses, start, until_step
from tests.training.test_loop import last_state
from transformer_jax.training.checkpoint import Checkpoints

FLAGS = "--train.stop_at 12 --train.checkpoint_every 3 --train.log_every 1".split()


def assert_same_run(workdir, other):
    (got, position), (want, wanted_position) = last_state(workdir), last_state(other)
    for (path, a), (_, b) in zip(got, want, strict=True):
        np.testing.assert_array_equal(a, b, err_msg=jax.tree_util.keystr(path))
    assert position == wanted_position
    assert losses(workdir) == losses(other)


def test_stopped_twice_and_killed_twice_a_run_ends_as_one_that_never_was(
    translation_config, tmp_path
):
    whole, run = tmp_path / "whole", tmp_path / "run"
    finish(translation_config, whole, *FLAGS)
    for number, step in ((signal.SIGTERM, 1), (signal.SIGINT, 4)):
        process = start(translation_config, run, *FLAGS)
        until_step(process, step)
        process.send_signal(number)
        [(code, out, err)] = ends([process])
        assert code == 128 + number, err
        at = Checkpoints(run, read_only=True).latest()
        line = f"train.py: stopped by {number.name} at step {at}; the same command goes on from"
        assert out.splitlines()[-1].startswith(line) and "Traceback" not in err
    draw = random.Random(7)
    for step in (6, 9):  # a checkpoint is saved after each of them
        process = start(translation_config, run, *FLAGS)
        until_step(process, step)
        time.sleep(0.2 + draw.random() / 5)
        process.kill()
        ends([process])
    finish(translation_config, run, *FLAGS)
    assert_same_run(run, whole)
    leftovers = [path.name for path in (run / "checkpoints").iterdir() if not path.name.isdigit()]
    assert leftovers == []


def test_a_second_run_in_the_folder_of_one_that_trains_is_refused(translation_config, tmp_path):
    first = start(translation_config, tmp_path, *FLAGS)
    try:
        until_step(first, 1)
        first.send_signal(signal.SIGSTOP)  # so that it cannot end before the second one has come
        [(code, _, err)] = ends([start(translation_config, tmp_path, *FLAGS)])
        assert code == 1
        assert err == f"train.py: Another process is writing {tmp_path}. Wait until it has ended.\n"
    finally:
        first.kill()
        first.communicate()
    assert "step 12/12" in finish(translation_config, tmp_path, *FLAGS)  # it has ended with that

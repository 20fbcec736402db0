"""Two processes of which one is told to stop, dies, hangs or was started otherwise."""

import signal

import pytest

from tests.cli.runs import ends, finish, losses, start_two, until_step
from transformer_jax.files import alone_in
from transformer_jax.training.checkpoint import Checkpoints

FLAGS = "--train.stop_at 8 --train.checkpoint_every 2 --train.log_every 1".split()
GOES_ON = "the same command goes on from the last checkpoint"


@pytest.fixture(scope="module")
def whole(translation_config, tmp_path_factory):
    """The losses of a run of one process that was never stopped."""
    workdir = tmp_path_factory.mktemp("whole")
    finish(translation_config, workdir, *FLAGS)
    return losses(workdir)


def assert_goes_on(config, workdir, whole):
    finish(config, workdir, *FLAGS)
    assert [step for step, _ in losses(workdir)] == list(range(1, 9))
    for (_, loss), (_, wanted) in zip(losses(workdir), whole, strict=True):
        assert loss == pytest.approx(wanted, rel=1e-6)


@pytest.mark.parametrize("told", [0, 1])
def test_one_of_two_that_is_told_stops_both_at_the_same_step(
    translation_config, tmp_path, whole, told
):
    two = start_two(translation_config, tmp_path, *FLAGS)
    until_step(two[0], 2)
    two[told].send_signal(signal.SIGTERM)
    (first, out, err), (second, _, other) = ends(two)
    assert (first, second) == (143, 143), err + other
    at = Checkpoints(tmp_path, read_only=True).latest()
    assert 3 <= at < 8 and f"train.py: stopped by SIGTERM at step {at};" in out
    assert "Traceback" not in err + other
    assert_goes_on(translation_config, tmp_path, whole)  # with one process


@pytest.mark.parametrize(
    ("number", "victim", "flags", "code", "said"),
    [
        (signal.SIGKILL, 1, "--distributed.heartbeat 10", None, GOES_ON),
        (signal.SIGKILL, 0, "--distributed.heartbeat 10", None, GOES_ON),
        (signal.SIGSTOP, 1, "--distributed.heartbeat 10", None, GOES_ON),
        (signal.SIGSTOP, 1, "--distributed.patience 5", 75, "process 1 is behind, at "),
    ],
    ids=["dead-worker", "dead-coordinator", "frozen-worker", "straggler"],
)
def test_a_process_without_the_other_ends_in_time_with_a_message(
    translation_config, tmp_path, whole, number, victim, flags, code, said
):
    two = start_two(translation_config, tmp_path, *FLAGS, *flags.split())
    until_step(two[0], 5)  # the save of step 4 has begun, so that of step 2 is done
    two[victim].send_signal(number)
    try:
        [(found, _, err)] = ends([two[1 - victim]], timeout=120)
    finally:
        two[victim].kill()
        two[victim].communicate()
    assert found != 0 and code in (None, found)
    assert said in err
    assert Checkpoints(tmp_path, read_only=True).latest() >= 2
    if number == signal.SIGKILL:
        assert_goes_on(translation_config, tmp_path, whole)


def test_processes_of_different_configs_are_refused_by_field(translation_config, tmp_path):
    two = start_two(translation_config, tmp_path, *FLAGS, others=["--train.seed", "1"])
    for code, _, err in ends(two):
        assert code == 1
        assert "process 1:\n    train.seed: 0 -> 1\n" in err
    assert not any(tmp_path.iterdir())


def test_both_processes_of_a_second_run_in_a_folder_are_refused(translation_config, tmp_path):
    with alone_in(tmp_path):
        found = ends(start_two(translation_config, tmp_path, *FLAGS))
    for code, _, err in found:
        assert code == 1 and f"Another process is writing {tmp_path}." in err

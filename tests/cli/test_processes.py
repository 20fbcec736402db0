"""Several processes train as one does: losses, examples, checkpoints, one log."""

import json
import os
import re
import socket
import subprocess
import sys

import pytest

from tests.cli.test_commands import ROOT
from tests.training.small_states import flip

STEPS = "--train.stop_at 4 --train.checkpoint_every 2 --train.log_every 1".split()
# What gloo itself prints in every process. Its threads share a line at times, so words are
# compared and not lines.
GLOO = set("Gloo Rank is connected to peer ranks Expected number of".split())


def start(config, workdir, processes, devices, *more):
    """Starts all processes of a run, with so many devices each, and waits for them."""
    flags = ["--config", str(config), "--workdir", str(workdir), *STEPS, *more]
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    env = {
        "JAX_PLATFORMS": "cpu",
        "XLA_FLAGS": f"--xla_force_host_platform_device_count={devices}",
        "JAX_DISABLE_MOST_OPTIMIZATIONS": "1",
    }
    started = []
    for rank in range(processes):
        where = ["--distributed.coordinator", f"127.0.0.1:{port}"] if processes > 1 else []
        if where:
            where += ["--distributed.processes", str(processes), "--distributed.rank", str(rank)]
        started.append(
            subprocess.Popen(
                [sys.executable, str(ROOT / "train.py"), *flags, *where],
                env=os.environ | env,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                text=True,
            )
        )
    try:
        said = [process.communicate(timeout=240) for process in started]
    finally:
        for process in started:
            process.kill()
    codes = [process.returncode for process in started]
    assert codes == [0] * processes, [err[-3000:] for _, err in said]
    return [out for out, _ in said]


def losses(workdir):
    lines = [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]
    return [(line["step"], line["loss"], line.get("valid_loss")) for line in lines]


def assert_same_losses(found, wanted):
    for (_, loss, valid), (_, other, other_valid) in zip(found, wanted, strict=True):
        assert loss == pytest.approx(other, rel=1e-6)
        assert (valid is None) == (other_valid is None)
        assert valid is None or valid == pytest.approx(other_valid, rel=1e-6)


@pytest.fixture(scope="module")
def alone(translation_config, tmp_path_factory):
    """The losses of one process with four devices."""
    workdir = tmp_path_factory.mktemp("alone") / "run"
    start(translation_config, workdir, 1, 4, "--train.stop_at", "8")
    return losses(workdir)


@pytest.mark.parametrize(
    ("processes", "devices", "mesh"),
    [
        (2, 2, ["--mesh.fsdp", "2"]),
        (2, 1, ["--mesh.context", "2"]),  # both read all rows
        (4, 1, ["--mesh.fsdp", "2", "--mesh.model", "2"]),
    ],
)
def test_processes_train_as_one_does(translation_config, tmp_path, alone, processes, devices, mesh):
    run = tmp_path / "run"
    out = start(translation_config, run, processes, devices, *mesh)
    found = losses(run)
    assert [step for step, *_ in found] == [1, 2, 3, 4]
    assert_same_losses(found, alone[:4])
    assert "step 4/4" in out[0]
    assert all(set(re.findall("[A-Za-z]+", text)) <= GLOO for text in out[1:])  # one log
    if processes == devices == 2:  # what two saved, one goes on with, and four
        [text] = start(translation_config, run, 1, 4, "--train.stop_at", "6")
        assert "restored step 4" in text
        flip(next((run / "checkpoints" / "6" / "params").rglob("*.0")))
        text, *_ = start(translation_config, run, 4, 1, "--train.stop_at", "8")
        assert "is damaged" in text and "restored step 4" in text  # all four went back
        assert [step for step, *_ in losses(run)] == list(range(1, 9))
        assert_same_losses(losses(run), alone)


def test_a_process_without_the_others_ends_with_a_message(translation_config, tmp_path):
    flags = ["--config", str(translation_config), "--workdir", str(tmp_path / "run")]
    done = subprocess.run(
        [sys.executable, str(ROOT / "train.py"), *flags, "--distributed.rank", "1"],
        env=os.environ | {"JAX_PLATFORMS": "cpu"},
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode != 0 and "--distributed.rank goes together with" in done.stderr

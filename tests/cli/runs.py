"""Runs of train.py in processes of their own, which tests tell to stop, stop, and kill."""

import json
import os
import signal
import socket
import subprocess
import sys
from pathlib import Path

from tests.cli.test_commands import ROOT

ENV = {"JAX_PLATFORMS": "cpu", "JAX_DISABLE_MOST_OPTIMIZATIONS": "1", "PYTHONPATH": str(ROOT)}
SLOW = ROOT / "tests" / "cli" / "slow_train.py"


def start(config, workdir, *flags, program=SLOW):
    """Starts a run in one process; its output can be read while it runs."""
    command = [sys.executable, str(program), "--config", str(config), "--workdir", str(workdir)]
    return subprocess.Popen(
        [*command, *flags],
        env=os.environ | ENV,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
    )


def start_two(config, workdir, *flags, others=(), program=SLOW):
    """Starts a run of two processes; the second one with other flags besides."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    where = f"--distributed.coordinator 127.0.0.1:{port} --distributed.processes 2".split()
    more = ([], list(others))
    return [
        start(
            config,
            workdir,
            *(*flags, *where, "--distributed.rank", str(rank), *more[rank]),
            program=program,
        )
        for rank in range(2)
    ]


def until_step(process, step):
    """Waits until a process says that a step is done."""
    for line in process.stdout:
        if line.startswith(f"step {step}/"):
            return
    raise AssertionError(process.stderr.read())


def ends(processes, timeout=240):
    """What processes print from now on: [(code, stdout, stderr)]; they are killed if they hang."""
    try:
        said = [process.communicate(timeout=timeout) for process in processes]
    finally:
        for process in processes:
            process.kill()
    return [(p.returncode, *text) for p, text in zip(processes, said, strict=True)]


def finish(config, workdir, *flags):
    """Trains to the end, and gives what was printed."""
    [(code, out, err)] = ends([start(config, workdir, *flags, program=ROOT / "train.py")])
    assert code == 0, err
    return out


def losses(workdir):
    """Step and loss of each line of metrics.jsonl."""
    lines = [
        json.loads(line) for line in (Path(workdir) / "metrics.jsonl").read_text().splitlines()
    ]
    return [(line["step"], line["loss"]) for line in lines]

"""metrics.jsonl and TensorBoard's file: what is in them, and a disk that is full."""

import os
import struct

import pytest
from tensorboardX.proto.event_pb2 import Event

from transformer_jax.errors import UserError
from transformer_jax.training.metrics import MetricsLog, read_metrics


def events(folder):
    """The records of the files of a folder: a length, its check sum, the bytes, theirs."""
    found = []
    for path in sorted((folder / "tensorboard").glob("events.*")):
        data = path.read_bytes()
        while data:
            (size,) = struct.unpack("<Q", data[:8])
            found.append(Event.FromString(data[12 : 12 + size]))
            data = data[16 + size :]
    return found


def test_both_files_have_each_number_of_each_step(tmp_path):
    log = MetricsLog(tmp_path, resumed_at=0)
    log.write(1, {"loss": 2.5, "rate": 0.25})
    log.write(2, {"loss": 2.0})
    log.close()
    assert read_metrics(tmp_path) == [
        {"step": 1, "loss": 2.5, "rate": 0.25},
        {"step": 2, "loss": 2.0},
    ]
    scalars = [(e.step, v.tag, v.simple_value) for e in events(tmp_path) for v in e.summary.value]
    assert scalars == [(1, "loss", 2.5), (1, "rate", 0.25), (2, "loss", 2.0)]


def test_a_resumed_log_hides_the_steps_after_its_checkpoint(tmp_path):
    log = MetricsLog(tmp_path, resumed_at=0)
    for step in (1, 2, 3):
        log.write(step, {"loss": float(step)})
    log.close()
    MetricsLog(tmp_path, resumed_at=2).close()
    assert [line["step"] for line in read_metrics(tmp_path)] == [1, 2]
    restarts = [e.step for e in events(tmp_path) if e.HasField("session_log")]
    assert restarts[-1] == 3  # TensorBoard drops what it has of this step and later ones


def test_a_full_disk_is_an_error_that_names_the_file(tmp_path):
    log = MetricsLog(tmp_path, resumed_at=0)
    full = os.open("/dev/full", os.O_WRONLY)
    os.dup2(full, log._file.fileno())
    os.close(full)
    with pytest.raises(UserError, match=r"metrics\.jsonl: No space left.*goes on from the last"):
        log.write(1, {"loss": 1.0})

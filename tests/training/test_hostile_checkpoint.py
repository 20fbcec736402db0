"""The files of a checkpoint that anyone may have written: data, and never run."""

import shutil

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests.hostile import PAYLOADS, payloads
from transformer_jax.data.pipeline import DataState
from transformer_jax.errors import UserError
from transformer_jax.training.checkpoint import Checkpoints
from transformer_jax.training.guard import new_guard
from transformer_jax.training.metrics import MetricsLog, read_metrics
from transformer_jax.training.step import TrainState

PARAMS = {"w": jnp.arange(4.0), "layer": {"b": jnp.ones((2, 3))}}


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("run")
    checkpoints = Checkpoints(folder)
    state = TrainState(jnp.int32(1), PARAMS, {"m": jnp.zeros(4)}, new_guard())
    checkpoints.save(state, DataState(), {}, {"valid_loss": 1.0})
    checkpoints.close()
    return folder


def files_of(folder):
    return sorted(path for path in (folder / "checkpoints").rglob("*") if path.is_file())


def read_all(folder):
    """What is restored of a run's folder, and what is read of it without its model."""
    checkpoints = Checkpoints(folder, read_only=True)
    shapes = jax.tree.map(
        lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=x.sharding), PARAMS
    )
    found = checkpoints.restore_params(1, shapes)
    checkpoints.best()
    return found, checkpoints.read_params(1)


@pytest.mark.parametrize("payload", PAYLOADS)
def test_a_harmful_file_in_a_checkpoint_is_not_run(run, tmp_path, payload):
    """It is refused, or is a file that nobody reads; it never changes what is restored."""
    trace = tmp_path / "trace"
    folder = shutil.copytree(run, tmp_path / "run")
    refused = 0
    for file in files_of(folder):
        whole = file.read_bytes()
        file.write_bytes(payloads(trace)[payload])
        try:
            for found in read_all(folder):
                jax.tree.map(np.testing.assert_array_equal, found, PARAMS)
        except UserError as error:
            refused += 1
            assert str(folder) in str(error)
        assert not trace.exists()
        file.write_bytes(whole)
    assert refused > 0
    read_all(folder)


@pytest.mark.parametrize(
    "line", [b"", b"[1]", b'{"loss": 1}', b'{"step": "1"}', b"[" * 10**5, b"\xff", b"\0", b"NaN"]
)
def test_a_damaged_line_of_metrics_is_named(tmp_path, line):
    (tmp_path / "metrics.jsonl").write_bytes(b'{"step": 1}\n' + line + b'\n{"step": 2}\n{"st')
    for read in (read_metrics, lambda folder: MetricsLog(folder, resumed_at=1)):
        with pytest.raises(UserError, match=r"metrics\.jsonl:2 is damaged"):
            read(tmp_path)

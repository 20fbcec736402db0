"""Which part of a batch each process reads; who goes first; wrong flags."""

import types

import jax
import numpy as np
import pytest
from jax._src.clusters import cloud_tpu_cluster
from jax.sharding import Mesh

from transformer_jax.errors import UserError
from transformer_jax.parallel import distributed
from transformer_jax.parallel.distributed import (
    DistributedConfig,
    host_slice,
    initialize,
    one_process_first,
)
from transformer_jax.parallel.mesh import AXES


def fake_mesh(shape, process_of):
    """A mesh of eight devices of which process_of says whose they are; in its order."""
    devices = [types.SimpleNamespace(process_index=p, id=i) for i, p in enumerate(process_of)]
    mesh = types.SimpleNamespace(
        axis_names=AXES,
        shape=dict(zip(AXES, shape, strict=True)),
        devices=np.array(devices, object).reshape(shape),
    )
    return mesh


@pytest.mark.parametrize(
    ("shape", "process_of", "slices"),
    [
        ((8, 1, 1, 1), [0, 0, 1, 1, 2, 2, 3, 3], [(0, 4), (1, 4), (2, 4), (3, 4)]),
        ((8, 1, 1, 1), [1, 1, 1, 1, 0, 0, 0, 0], [(1, 2), (0, 2)]),
        ((2, 2, 1, 2), [0, 0, 0, 0, 1, 1, 1, 1], [(0, 2), (1, 2)]),
        ((2, 1, 1, 4), [0, 0, 1, 1, 2, 2, 3, 3], [(0, 2), (0, 2), (1, 2), (1, 2)]),
        ((1, 1, 2, 4), [0, 0, 1, 1, 2, 2, 3, 3], [(0, 1)] * 4),
        ((1, 1, 1, 8), [0, 0, 0, 0, 1, 1, 1, 1], [(0, 1)] * 2),
        ((1, 4, 1, 2), [0, 1, 0, 1, 2, 3, 2, 3], [(0, 2), (0, 2), (1, 2), (1, 2)]),
    ],
)
def test_each_process_reads_its_slice_of_a_batch(monkeypatch, shape, process_of, slices):
    mesh = fake_mesh(shape, process_of)
    for process, wanted in enumerate(slices):
        monkeypatch.setattr(jax, "process_index", lambda process=process: process)
        assert host_slice(mesh) == wanted


@pytest.mark.parametrize(
    ("shape", "process_of"),
    [
        ((8, 1, 1, 1), [0, 1, 0, 1, 0, 1, 0, 1]),  # not in one piece
        ((8, 1, 1, 1), [0, 1, 1, 1, 1, 1, 1, 1]),  # of different sizes
        ((8, 1, 1, 1), [1, 0, 0, 1, 1, 0, 0, 1]),
    ],
)
def test_slices_that_overlap_are_refused(monkeypatch, shape, process_of):
    monkeypatch.setattr(jax, "process_index", lambda: 0)
    with pytest.raises(UserError, match="slices of the batch that overlap"):
        host_slice(fake_mesh(shape, process_of))


def test_one_process_reads_all():
    devices = np.array(jax.devices()).reshape(2, 2, 1, 2)
    assert host_slice(Mesh(devices, AXES)) == (0, 1)


@pytest.mark.parametrize("process", [0, 1])
def test_process_0_goes_first(monkeypatch, process):
    story = []
    monkeypatch.setattr(jax, "process_index", lambda: process)
    monkeypatch.setattr(distributed, "meet", lambda *_: story.append("wait"))
    with one_process_first("it"):
        story.append("work")
    assert story == (["wait", "work"], ["work", "wait"])[process == 0]


def test_one_process_alone_does_not_wait_and_needs_no_network(monkeypatch):
    monkeypatch.setattr(jax.distributed, "initialize", lambda *_, **__: 1 / 0)
    initialize(DistributedConfig())
    with one_process_first("it"):
        pass


SRUN = ("JOB_ID", "STEP_NODELIST", "NTASKS", "PROCID", "LOCALID")


@pytest.mark.parametrize("cluster", ["srun", "GKE", "TPU VM", "named"])
def test_in_a_cluster_jax_finds_the_others(monkeypatch, cluster):
    calls = []
    if cluster == "srun":
        for name in SRUN:
            monkeypatch.setenv(f"SLURM_{name}", "0")
    elif cluster == "named":
        monkeypatch.setenv("JAX_COORDINATOR_ADDRESS", "host:1")
    else:
        monkeypatch.delenv("TPU_SKIP_MDS_QUERY", raising=False)
        monkeypatch.setattr(cloud_tpu_cluster, "running_in_cloud_tpu_vm", True)
        told = ("1", cloud_tpu_cluster.metadata_response_code_success)
        monkeypatch.setattr(cloud_tpu_cluster, "get_metadata", lambda _: told)
        if cluster == "GKE":
            monkeypatch.setenv("TPU_WORKER_HOSTNAMES", "a,b")
    monkeypatch.setattr(jax.config, "update", lambda *_: None)
    monkeypatch.setattr(jax.distributed, "initialize", lambda *a, **k: calls.append((a, k)))
    monkeypatch.setattr(distributed, "start_watch", lambda *_: None)
    initialize(DistributedConfig(heartbeat=7))
    [(where, options)] = calls
    assert where == (None, None, None) and options["heartbeat_timeout_seconds"] == 7


def test_a_batch_step_of_slurm_without_srun_is_alone(monkeypatch):
    for name in set(SRUN) - {"STEP_NODELIST"}:
        monkeypatch.setenv(f"SLURM_{name}", "0")
    monkeypatch.setattr(jax.distributed, "initialize", lambda *_, **__: 1 / 0)
    initialize(DistributedConfig())


def test_processes_that_do_not_come_together_are_said(monkeypatch):
    def fail(*_, **__):
        raise RuntimeError("DEADLINE_EXCEEDED: too late\nand more")

    monkeypatch.setattr(jax.config, "update", lambda *_: None)
    monkeypatch.setattr(jax.distributed, "initialize", fail)
    with pytest.raises(UserError, match="The 2 .* at host:1: DEADLINE_EXCEEDED: too late$"):
        initialize(DistributedConfig("host:1", 2, 1))


@pytest.mark.parametrize(
    ("flags", "complaint"),
    [
        (dict(coordinator="a:1"), "--distributed.coordinator goes together with"),
        (dict(processes=2, rank=0), "--distributed.processes goes together with"),
        (dict(coordinator="a", processes=2, rank=0), "coordinator a must be HOST:PORT"),
        (dict(coordinator="a:1", processes=2, rank=2), "rank 2 must be in 0..1"),
        (dict(coordinator="a:1", processes=2, rank=-1), "rank -1 must be in 0..1"),
        (dict(heartbeat=0), "heartbeat must be at least 1"),
        (dict(patience=0), "patience must be at least 1"),
    ],
)
def test_wrong_flags_are_refused(flags, complaint):
    with pytest.raises(ValueError, match=complaint):
        DistributedConfig(**flags)

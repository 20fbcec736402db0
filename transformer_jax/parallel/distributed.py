"""Many processes: how they find one another, and who does what first."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Iterator
from contextlib import contextmanager

import jax
import numpy as np
from jax.sharding import Mesh

from transformer_jax.errors import UserError
from transformer_jax.parallel.hosts import PATIENCE, be_patient, meet
from transformer_jax.parallel.mesh import BATCH_AXES, batch_shards
from transformer_jax.parallel.watch import start_watch

_START = 300  # seconds until all processes have come together
_LOOK = 2.0  # seconds between two looks at the other processes, at most
_PREPARED = 3600  # seconds that the others wait while one prepares data


@dataclasses.dataclass(frozen=True)
class DistributedConfig:
    """How the processes of a run find one another; SLURM, GKE and Cloud TPU say it themselves.

    Attributes:
      coordinator: HOST:PORT at which process 0 listens.
      processes: how many there are.
      rank: the number of this one, from 0.
      heartbeat: seconds without a sign of life after which a process counts as dead.
      patience: seconds that processes wait for one another at the start, and for the next step.
    """

    coordinator: str | None = None
    processes: int | None = None
    rank: int | None = None
    heartbeat: int = 100
    patience: int = PATIENCE

    def __post_init__(self) -> None:
        given = [name for name in ("coordinator", "processes", "rank") if self._has(name)]
        if 0 < len(given) < 3:
            raise ValueError(
                f"--distributed.{given[0]} goes together with --distributed.coordinator HOST:PORT, "
                f"--distributed.processes and --distributed.rank."
            )
        if self.coordinator is not None and not self.coordinator.rpartition(":")[2].isdigit():
            raise ValueError(f"--distributed.coordinator {self.coordinator} must be HOST:PORT.")
        if self.processes is not None and not 0 <= (self.rank or 0) < self.processes:
            raise ValueError(
                f"--distributed.rank {self.rank} must be in 0..{self.processes - 1}, as there are "
                f"--distributed.processes {self.processes}."
            )
        for name in ("heartbeat", "patience"):
            if getattr(self, name) < 1:
                raise ValueError(f"--distributed.{name} must be at least 1 second.")

    def _has(self, name: str) -> bool:
        return getattr(self, name) is not None


def initialize(config: DistributedConfig) -> None:
    """Joins the processes of this run, if there are several; before any use of a device.

    Raises:
      UserError: the others cannot be reached in time.
    """
    if config.coordinator is None and not _in_a_cluster():
        return
    jax.config.update("jax_cpu_collectives_implementation", "gloo")  # CPUs have none by default
    jax.config.update("jax_enable_preemption_service", False)  # it takes SIGTERM and saves nothing
    try:
        jax.distributed.initialize(
            config.coordinator,
            config.processes,
            config.rank,
            initialization_timeout=_START,
            heartbeat_timeout_seconds=config.heartbeat,
        )
    except (RuntimeError, ValueError) as error:
        reason = str(error).partition("\n")[0]
        raise UserError(
            f"The {config.processes or 'other'} processes of this run did not come together at "
            f"{config.coordinator or 'the address that the cluster says'}: {reason}"
        ) from error
    be_patient(config.patience)
    start_watch(min(config.heartbeat / 10, _LOOK), config.patience)


def _in_a_cluster() -> bool:
    """Whether JAX finds the other processes by itself: under srun, mpirun, on GKE, Cloud TPU."""
    # What jax.distributed.initialize asks, too; by itself it fails where the answer is no.
    from jax._src.clusters import ClusterEnv

    if "JAX_COORDINATOR_ADDRESS" in os.environ:
        return True
    for cluster in ClusterEnv._cluster_types:
        # Any pod of Kubernetes counts as a cluster there, a notebook's too; flags say it for those.
        by_choice = cluster.opt_in_only_method or cluster.__name__ == "K8sCluster"
        if not by_choice and cluster.is_env_present():
            return True
    return False


@contextmanager
def one_process_first(what: str, timeout: int = _PREPARED) -> Iterator[None]:
    """Runs a block in process 0 alone, and then in all others, which find its files.

    Args:
      what: what is prepared, for the message.
      timeout: seconds that the others wait.

    Raises:
      UserError: process 0 is not ready in time.
    """
    if jax.process_index() == 0:
        yield
        meet(what, timeout)
    else:
        meet(what, timeout)
        yield


def host_slice(mesh: Mesh) -> tuple[int, int]:
    """Which slice of a batch this process reads, and how many there are: (index, count).

    The rows of a batch are split over the data and fsdp axes. Processes whose devices differ only
    along other axes read the same rows.

    Raises:
      UserError: the devices of a process do not take one whole slice.
    """
    shards = batch_shards(mesh)
    axes = [mesh.axis_names.index(axis) for axis in BATCH_AXES]
    devices = np.moveaxis(mesh.devices, axes, range(len(axes))).reshape(shards, -1)
    rows_of: dict[int, set[int]] = {}
    for row, row_devices in enumerate(devices):
        for device in row_devices:
            rows_of.setdefault(device.process_index, set()).add(row)
    sizes = {len(rows) for rows in rows_of.values()}
    mine = sorted(rows_of.get(jax.process_index(), ()))
    whole = all(max(rows) - min(rows) + 1 == len(rows) for rows in rows_of.values())
    starts = {min(rows) for rows in rows_of.values()}
    if not mine or len(sizes) > 1 or not whole or any(start % len(mine) for start in starts):
        raise UserError(
            f"The mesh {dict(mesh.shape)} gives the {len(rows_of)} processes slices of the batch "
            f"that overlap. Choose axes whose sizes divide the devices of a process, or are "
            f"multiples of them."
        )
    return mine[0] // len(mine), shards // len(mine)

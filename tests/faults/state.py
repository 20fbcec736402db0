"""All that a checkpoint holds, read by the library as a resumed run reads it."""

from __future__ import annotations

import dataclasses
import hashlib
import sys
from pathlib import Path
from typing import Any

import jax
import numpy as np

from transformer_jax.cli.run_config import read_run_config
from transformer_jax.parallel.mesh import MeshConfig, make_mesh
from transformer_jax.parallel.sharding import with_layout
from transformer_jax.training.checkpoint import Checkpoints
from transformer_jax.training.loop import build_task
from transformer_jax.training.optimizer import make_optimizer
from transformer_jax.training.step import init_state, state_layout


@dataclasses.dataclass(frozen=True)
class State:
    """The arrays of a checkpoint by their paths, and where its data goes on."""

    arrays: dict[str, np.ndarray]
    position: Any

    def differences(self, other: State) -> str:
        """Where another one differs in a bit, a shape or a dtype; nothing where it does not."""
        if self.arrays.keys() != other.arrays.keys():
            return f"the arrays {sorted(self.arrays.keys() ^ other.arrays.keys())[:3]}"
        for name, array in self.arrays.items():
            found = other.arrays[name]
            if (array.dtype, array.shape, array.tobytes()) != (
                found.dtype,
                found.shape,
                found.tobytes(),
            ):
                return name
        return "" if self.position == other.position else f"the data at {other.position}"

    def digest(self) -> str:
        """The SHA-256 of all arrays, as one device would hold them, and of the position."""
        digest = hashlib.sha256(repr(self.position).encode())
        for name in sorted(self.arrays):
            array = self.arrays[name]
            digest.update(f"{name} {array.dtype} {array.shape}".encode() + array.tobytes())
        return digest.hexdigest()


class Reader:
    """Reads checkpoints of one run and of its copies."""

    def __init__(self, workdir: Path, fsdp: int = 1) -> None:
        config = read_run_config(workdir)
        on = make_mesh(MeshConfig(fsdp=fsdp))
        task = build_task(config, workdir, on)
        optimizer = make_optimizer(config.optimizer, config.train.steps)
        shapes = jax.eval_shape(
            lambda key: init_state(task.init_params(key), optimizer), jax.random.key(0)
        )
        layout = state_layout(shapes, on, task.sharding_rules)
        self._shapes = jax.tree.map(with_layout, shapes, layout)
        self._fingerprint = task.fingerprint

    def read(self, workdir: Path, step: int) -> State:
        """What a step holds; raises what the library raises."""
        checkpoints = Checkpoints(workdir, read_only=True)
        try:
            state, position = checkpoints.restore(step, self._shapes, self._fingerprint)
        finally:
            checkpoints.close()
        leaves = jax.tree_util.tree_leaves_with_path(state)
        arrays = {jax.tree_util.keystr(path): np.asarray(leaf) for path, leaf in leaves}
        return State(arrays, position)


if __name__ == "__main__":  # python -m tests.faults.state WORKDIR STEP FSDP, on other devices
    workdir, step, fsdp = sys.argv[1:]
    print(Reader(Path(workdir), int(fsdp)).read(Path(workdir), int(step)).digest())

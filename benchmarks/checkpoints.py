"""Checkpoints: seconds that a step waits, GB/s of a finished save and of a verified restore.

The state is BERT-base's with Adam's two moments, cut to about a gigabyte, all float32. The peer is
orbax's CheckpointManager with its defaults, which hashes nothing. Both write to the same folder,
one after the other in each round; medians are printed. Files are read from the page cache.

    python -m benchmarks.checkpoints [--folder DIR] [--rounds 5] [--layers 8]
"""

import argparse
import gc
import shutil
import statistics
import tempfile
import time
from pathlib import Path

import jax
import jax.numpy as jnp
import orbax.checkpoint as ocp

from transformer_jax.data.pipeline import DataState
from transformer_jax.training.checkpoint import Checkpoints
from transformer_jax.training.guard import new_guard
from transformer_jax.training.step import TrainState

WIDTH, HEADS, INNER, VOCABULARY, POSITIONS = 768, 12, 3072, 30522, 512


def bert_like(layers, key):
    """Parameters with the shapes of BERT-base's, layers stacked."""
    shapes = {
        "embedder": {"token": (VOCABULARY, WIDTH), "position": (POSITIONS, WIDTH)},
        "layer": {
            **{x: (layers, WIDTH, HEADS, WIDTH // HEADS) for x in ("query", "key", "value")},
            "output": (layers, HEADS, WIDTH // HEADS, WIDTH),
            "inner": (layers, WIDTH, INNER),
            "outer": (layers, INNER, WIDTH),
            "norm": (layers, WIDTH),
            "inner_bias": (layers, INNER),
        },
        "pooler": (WIDTH, WIDTH),
    }
    leaves, structure = jax.tree.flatten(shapes, is_leaf=lambda x: isinstance(x, tuple))
    keys = jax.random.split(key, len(leaves))
    return structure.unflatten(map(jax.random.normal, keys, leaves))


def state_of(layers):
    keys = jax.random.split(jax.random.key(0), 3)
    params, mean, square = (bert_like(layers, key) for key in keys)
    return TrainState(jnp.int32(0), params, {"mu": mean, "nu": square}, new_guard())


def update(state):
    """All arrays anew, as a train step leaves them."""
    params, moments = jax.tree.map(lambda x: x * 1.0001 + 1e-6, (state.params, state.opt_state))
    return state.replace(step=state.step + 1, params=params, opt_state=moments)


@jax.jit
def checksum(state):
    return jax.tree.reduce(jnp.add, jax.tree.map(lambda x: jnp.sum(x, dtype=jnp.float32), state))


def seconds(call, *args):
    start = time.perf_counter()
    result = jax.block_until_ready(call(*args))
    return time.perf_counter() - start, result


class Ours:
    def __init__(self, folder):
        self.checkpoints = Checkpoints(folder)

    def save(self, state):
        self.checkpoints.save(state, DataState(), {"seed": 0}, {"valid_loss": 1.0})

    def wait(self):
        self.checkpoints._writer().wait()

    def restore(self, shapes):
        return self.checkpoints.restore_newest(shapes, {"seed": 0}).state


class Peer:
    def __init__(self, folder):
        self.manager = ocp.CheckpointManager(
            folder, options=ocp.CheckpointManagerOptions(max_to_keep=1)
        )

    def save(self, state):
        self.manager.save(int(state.step), args=ocp.args.StandardSave(state))

    def wait(self):
        self.manager.wait_until_finished()

    def restore(self, shapes):
        step = self.manager.latest_step()
        return self.manager.restore(step, args=ocp.args.StandardRestore(shapes))


def measure(system, state, step):
    """One round: what was measured, and the state after two updates."""
    found = {}
    _, state = seconds(step, state)
    usual, state = seconds(step, state)
    wanted = float(checksum(state))
    shapes = jax.tree.map(
        lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=x.sharding), state
    )
    begin = time.perf_counter()
    found["blocked"], _ = seconds(system.save, state)
    system.wait()
    found["save"] = time.perf_counter() - begin
    found["restore"], restored = seconds(system.restore, shapes)
    assert float(checksum(restored)) == wanted
    del restored
    gc.collect()
    # What the update just after a save takes longer, while files are being written.
    later = state.replace(step=state.step + 1)
    del state
    system.save(later)
    after, later = seconds(step, later)
    system.wait()
    found["next step"] = after - usual
    return found, later


def main():
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--folder", type=Path)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--layers", type=int, default=8)
    args = parser.parse_args()
    base = Path(tempfile.mkdtemp(dir=args.folder))
    step = jax.jit(update, donate_argnums=0)
    try:
        systems = {"here": Ours(base / "here"), "orbax": Peer(base / "orbax")}
        states = {name: state_of(args.layers) for name in systems}
        size = sum(x.nbytes for x in jax.tree.leaves(states["here"])) / 1e9
        rounds = {name: [] for name in systems}
        for _ in range(args.rounds):
            for name, system in systems.items():
                found, states[name] = measure(system, states[name], step)
                rounds[name].append(found)
        print(f"{size:.2f} GB, {args.rounds} rounds, medians")
        print(
            f"{'':8}{'blocked s/GB':>14}{'next step s/GB':>16}{'save GB/s':>12}{'restore GB/s':>14}"
        )
        for name, measured in rounds.items():
            value = {k: statistics.median(m[k] for m in measured) for k in measured[0]}
            print(
                f"{name:8}{value['blocked'] / size:14.3f}{value['next step'] / size:16.3f}"
                f"{size / value['save']:12.2f}{size / value['restore']:14.2f}"
            )
    finally:
        shutil.rmtree(base)


if __name__ == "__main__":
    main()

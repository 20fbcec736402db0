"""Small states that are saved and restored, and ways to damage what was saved."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from transformer_jax.data.pipeline import DataState
from transformer_jax.training.checkpoint import Checkpoints
from transformer_jax.training.step import TrainState, init_state

FINGERPRINT = {"text": "abc", "row": [8, 2], "seed": 0}


def state_at(step: int) -> TrainState:
    """Matrices, a vector in bfloat16, a scalar, Adam's state: other values at each step."""
    kernel = jax.random.normal(jax.random.key(step), (16, 6))
    kernel = kernel.at[0, :3].set(jnp.array([jnp.nan, jnp.inf, -0.0]))
    bias = jnp.arange(8, dtype=jnp.bfloat16) + step
    params = {"encoder": {"kernel": kernel, "bias": bias}, "scale": jnp.float32(step)}
    return init_state(params, optax.adamw(1e-3)).replace(step=jnp.int32(step))


def shapes_of(state, sharding=None):
    """What is asked for: shapes on one device, or sharded."""
    place = sharding or jax.sharding.SingleDeviceSharding(jax.devices()[0])
    return jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=place), state)


def rows_over(devices: int) -> NamedSharding:
    """Arrays cut along their first axis; not for scalars."""
    mesh = Mesh(np.array(jax.devices()[:devices]), ("rows",))
    return NamedSharding(mesh, PartitionSpec("rows"))


def save(folder, *steps: int, losses=None, keep: int = 9) -> Checkpoints:
    """Saves these steps one after the other, and waits."""
    checkpoints = Checkpoints(folder, keep=keep, config={"model": "small"})
    for step in steps:
        metrics = {} if losses is None else {"valid_loss": losses[step]}
        checkpoints.save(state_at(step), DataState(0, step), FINGERPRINT, metrics)
    checkpoints.close()
    return Checkpoints(folder, keep=keep)


def files_of(folder, step: int):
    """All files of a step, by their path in its folder."""
    root = folder / "checkpoints" / str(step)
    return {p.relative_to(root).as_posix(): p for p in sorted(root.rglob("*")) if p.is_file()}


def flip(path, bit: int = 0) -> None:
    """Turns one bit of a file over."""
    data = bytearray(path.read_bytes())
    data[bit // 8] ^= 1 << bit % 8
    path.write_bytes(data)


def assert_bitwise(got, want) -> None:
    """Equal bytes, shapes and dtypes; NaN too."""
    assert jax.tree.structure(got) == jax.tree.structure(want)
    for a, b in zip(jax.tree.leaves(got), jax.tree.leaves(want), strict=True):
        a, b = np.asarray(a), np.asarray(b)
        assert (a.shape, a.dtype, a.tobytes()) == (b.shape, b.dtype, b.tobytes())

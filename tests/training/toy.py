"""A model of two products on made-up batches: laws of the train step need no more."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np

from transformer_jax.data.pipeline import DataState
from transformer_jax.parallel.mesh import MeshConfig, make_mesh
from transformer_jax.parallel.sharding import batch_sharding, put_batch
from transformer_jax.training.step import init_state, make_train_step, state_layout

ROWS, WIDTH = 16, 8
RULES = ((r"kernel$", ("fsdp", None)), (r"bias$", (None,)))
COEFFICIENTS = {"error": 2.0}
KEY = jax.random.key(1)

# name -> mesh, arguments of make_train_step
LAYOUTS = {
    "one device": (None, {}),
    "microbatches": (None, dict(microbatches=4)),
    "eight devices": (MeshConfig(data=2, fsdp=4), dict(microbatches=2)),
    "copies that sum once": (MeshConfig(data=4, fsdp=2), dict(microbatches=2, once=True)),
}


def toy_params(key=KEY):
    kernel = jax.random.normal(key, (2, WIDTH, WIDTH))
    return {"layer": {"kernel": kernel, "bias": jnp.ones((2, WIDTH))}}


def toy_batch(seed=0):
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(ROWS, WIDTH)).astype(np.float32)
    return {"x": x, "weights": np.ones(ROWS, np.float32), "scale": np.ones(ROWS, np.float32)}


def toy_terms(params, batch, key):
    """An error that is trained on, with a root whose gradient at scale 0 is NaN, and another."""
    layer = params["layer"]
    y = (batch["x"] @ layer["kernel"][0] + layer["bias"][0]) @ layer["kernel"][1]
    y = jnp.sum((y + layer["bias"][1]) ** 2, axis=-1)
    weights = batch["weights"]
    root = jnp.sqrt(batch["scale"] * layer["bias"][0, 0] ** 2)
    error = jnp.sum((y + root) * weights), jnp.sum(weights)
    return {"error": error, "size": (jnp.sum(y), jnp.float32(len(y)))}


@functools.cache
def make_step(optimizer, layout="one device", terms=toy_terms, params=toy_params, **options):
    """A fresh state, and step(state, batch, key=KEY), which keeps the state that it is given."""
    config, arguments = LAYOUTS[layout]
    devices = jax.devices() if config else jax.devices()[:1]
    mesh = make_mesh(config or MeshConfig(), devices)
    arguments = dict(arguments)
    copies = mesh if arguments.pop("once", False) else None

    def init():
        return init_state(params(), optimizer)

    where = state_layout(jax.eval_shape(init), mesh, RULES)
    jitted = jax.jit(
        make_train_step(terms, COEFFICIENTS, optimizer, copies=copies, **arguments, **options),
        in_shardings=(where, batch_sharding(mesh), None),
        out_shardings=(where, None),
    )

    def step(state, batch, key=KEY):
        with jax.set_mesh(mesh):
            return jitted(state, put_batch(batch, mesh), key)

    return jax.jit(init, out_shardings=where)(), step


@dataclasses.dataclass(frozen=True)
class ToyData:
    """Which batches are bad: from the step `first` on, so many; NaN, or a large value."""

    first: int = 0
    count: int = 0
    value: float | None = None


@dataclasses.dataclass(frozen=True)
class ToyConfig:
    """A task for the loop."""

    def build(self, *, model, data, batch_size, seed, workdir, mesh):
        return ToyTask(data, seed)


class ToyTask:
    """See `Task`."""

    coefficients, sharding_rules = COEFFICIENTS, RULES
    summary, fingerprint = "toy", {}

    def __init__(self, data, seed):
        self.data, self.seed = data, seed

    def init_params(self, key):
        return toy_params(key)

    def loss_terms(self, params, batch, key):
        return toy_terms(params, batch, key)

    def train_batches(self, start, process_index, process_count):
        number = start.batch
        while True:
            batch = toy_batch(number)
            number += 1
            if 0 <= number - self.data.first < self.data.count:
                batch["x"][3] = np.nan if self.data.value is None else self.data.value
            yield batch, DataState(0, number)

    def eval_batches(self, split, process_index, process_count):
        return [toy_batch(1000)]

    def count_tokens(self, batch):
        return ROWS

"""Dropout's bits: others for each row, microbatch, copy and step; the same after a resume."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from tests.training.toy import LAYOUTS, ROWS, make_step
from transformer_jax.layers.dropout import dropout

pytestmark = pytest.mark.usefixtures("quick_compilation")

PLACES = 64  # of a row; two rows are equal by chance once in 2^64
SGD = optax.sgd(1.0)


def probe_params():
    return {"kernel": jnp.zeros((ROWS, PLACES)), "bias": jnp.zeros(1)}


def probe_terms(params, batch, key):
    """A term whose gradient is, of each row, the mask that was drawn for it."""
    kept = dropout(key, jnp.ones((len(batch["row"]), PLACES)), 0.5)
    of_row = jax.nn.one_hot(batch["row"], ROWS) @ params["kernel"]
    return {"error": (jnp.sum(of_row * kept), jnp.float32(len(kept)))}


@functools.cache
def start(layout):
    return make_step(SGD, layout, probe_terms, probe_params)


def drawn(before, after):
    """The mask of each row: bool [B,64]."""
    change = np.asarray(before.params["kernel"]) - np.asarray(after.params["kernel"])
    assert len(np.unique(change)) == 2  # dropped, or kept and scaled
    return change > 0


@pytest.mark.parametrize("bits", ["threefry2x32", "rbg"])
@pytest.mark.parametrize("layout", LAYOUTS)
def test_every_row_of_every_microbatch_device_and_copy_has_its_own_bits(layout, bits):
    state, step = start(layout)
    batch = {"row": np.arange(ROWS, dtype=np.int32)}
    after, _ = step(state, batch, jax.random.key(3, impl=bits))
    masks = drawn(state, after)
    assert len(np.unique(masks, axis=0)) == ROWS
    assert 0.4 < masks.mean() < 0.6


@pytest.mark.parametrize("layout", LAYOUTS)
def test_every_step_has_its_own_bits_and_repeats_them_from_a_stored_state(layout):
    state, step = start(layout)
    batch, key = {"row": np.arange(ROWS, dtype=np.int32)}, jax.random.key(3)
    states = [state]
    for _ in range(3):
        states.append(step(states[-1], batch, key)[0])
    masks = np.concatenate([drawn(*pair) for pair in zip(states, states[1:], strict=False)])
    assert len(np.unique(masks, axis=0)) == 3 * ROWS
    stored = jax.tree.map(lambda x: jax.device_put(np.asarray(x), x.sharding), states[2])
    again, _ = step(stored, batch, key)
    np.testing.assert_array_equal(drawn(stored, again), masks[-ROWS:])


def test_skipped_step_does_not_stop_the_bits():
    """The step counts on, so that the next batch does not meet the bits of the skipped one."""
    state, step = start("one device")
    batch, key = {"row": np.arange(ROWS, dtype=np.int32)}, jax.random.key(3)
    broken = state.replace(params=state.params | {"kernel": state.params["kernel"] * jnp.nan})
    skipped, metrics = step(broken, batch, key)
    assert int(metrics["skipped"]) == 1
    mended = skipped.replace(params=state.params)
    first, second = (drawn(s, step(s, batch, key)[0]) for s in (state, mended))
    assert (first != second).any(axis=1).all()

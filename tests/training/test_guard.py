"""Updates that must not be made are exact no-ops, however the batch is cut; others are made."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests.training.toy import LAYOUTS, make_step, toy_batch
from transformer_jax.training.guard import ENOUGH, WINDOW, decide, new_guard
from transformer_jax.training.optimizer import OptimizerConfig, make_optimizer
from transformer_jax.training.schedules import WarmupLinear

pytestmark = pytest.mark.usefixtures("quick_compilation")

KINDS = ("adam", "lamb")


@functools.cache
def optimizer(kind="adam"):
    schedule = WarmupLinear(peak=1e-2, warmup=2)
    config = OptimizerConfig(schedule=schedule, kind=kind, weight_decay=0.1, clip_norm=1.0)
    return make_optimizer(config, steps=1000)


def with_nan_input(batch):
    batch["x"][5, 2] = np.nan
    return batch


def with_infinite_loss(batch):
    batch["x"][0] = 1e30
    return batch


def with_nan_gradient(batch):
    """The loss is finite: its root at 0 is 0."""
    batch["scale"][-1] = 0.0
    return batch


def bits(tree):
    return [np.asarray(leaf).tobytes() for leaf in jax.tree.leaves(jax.device_get(tree))]


def trained(state):
    return bits((state.params, state.opt_state))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("spoil", [with_nan_input, with_infinite_loss, with_nan_gradient])
def test_what_is_not_finite_changes_no_bit_and_training_goes_on(layout, kind, spoil):
    state, step = make_step(optimizer(kind), layout)
    before, _ = step(state, toy_batch(0))  # so that there is a momentum
    skipped, metrics = step(before, spoil(toy_batch(1)))
    finite = np.isfinite(float(metrics["loss"])), np.isfinite(float(metrics["grad_norm"]))
    assert finite == (spoil is with_nan_gradient, False)
    assert trained(skipped) == trained(before)
    assert int(skipped.step) == 2
    counts = skipped.guard
    assert [int(counts.updates), int(counts.skipped), int(counts.in_a_row)] == [1, 1, 1]
    assert [int(metrics[name]) for name in ("skipped", "skipped_in_a_row")] == [1, 1]

    after, metrics = step(skipped, toy_batch(2))  # as if the bad batch had never been there
    wanted, _ = step(before, toy_batch(2))
    assert trained(after) == trained(wanted) != trained(before)
    counts = after.guard
    assert [int(counts.updates), int(counts.skipped), int(counts.in_a_row)] == [2, 1, 0]
    assert int(metrics["updates"]) == 1


@pytest.mark.parametrize("layout", LAYOUTS)
def test_parameters_that_are_not_finite_stay_as_they_are(layout):
    state, step = make_step(optimizer(), layout)
    state = state.replace(params=jax.tree.map(lambda x: x.at[-1, ..., 1].set(np.nan), state.params))
    after, metrics = step(state, toy_batch())
    assert np.isnan(float(metrics["loss"]))
    assert trained(after) == trained(state)
    assert int(after.guard.skipped) == 1


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("layout", LAYOUTS)
def test_batch_without_weight_is_an_exact_no_op(layout, kind):
    """Decay and momentum stand still; the other term has weight, but is not trained on."""
    state, step = make_step(optimizer(kind), layout)
    before, _ = step(state, toy_batch(0))
    empty = toy_batch(1)
    empty["weights"][:] = 0
    after, metrics = step(before, empty)
    assert float(metrics["size"]) > 0
    assert float(metrics["loss"]) == float(metrics["grad_norm"]) == 0
    assert trained(after) == trained(before)
    assert bits(after.guard) == bits(before.guard)
    assert int(after.step) == 2


@pytest.mark.parametrize("layout", [name for name in LAYOUTS if name != "one device"])
def test_parts_without_weight_hold_up_no_update(layout):
    batch = toy_batch(1)
    batch["weights"][1:] = 0
    after = {}
    for name in ("one device", layout):
        state, step = make_step(optimizer(), name)
        after[name], metrics = step(state, batch)
        assert int(after[name].guard.updates) == 1
    whole, parts = (jax.tree.leaves(jax.device_get(state.params)) for state in after.values())
    for a, b in zip(whole, parts, strict=True):
        np.testing.assert_allclose(a, b, atol=1e-6)


def series(seed=0):
    """Losses and norms of 600 steps, some of them spikes, a jump that stays, some not finite."""
    rng = np.random.default_rng(seed)
    values = (3 + 0.1 * rng.normal(size=(600, 2))).astype(np.float32)
    values[[30, 220, 221, 300], 0] += [5, 1, 1, 0.1]
    values[[60, 380], 1] += [9, 2]
    values[[20, 230], 0] = [np.nan, np.inf]
    values[231, 1] = np.inf
    values[450:, 0] += 4
    values[350:354, 0] -= 2.5  # a low loss is no spike
    return values


def decided(values, sigmas, weights=None):
    weights = np.ones(len(values), bool) if weights is None else weights

    def one(guard, now):
        made, guard = decide(guard, *now[0], now[1], sigmas)
        return guard, made

    return jax.lax.scan(one, new_guard(), (tuple(map(jnp.asarray, (values,))) + (weights,)))


def reference(values, sigmas):
    """The same, a step after the other, in float64."""
    window, made = [], []
    for now in values.astype(np.float64):
        good = bool(np.isfinite(now).all())
        if good and len(window) >= ENOUGH:
            recent = np.array(window[-WINDOW:])
            good = bool((now <= recent.mean(0) + sigmas * recent.std(0, ddof=1)).all())
        if np.isfinite(now).all():
            window.append(now)
        made.append(good)
    return np.array(made)


@pytest.mark.parametrize("sigmas", [3.0, 6.0])
def test_spikes_are_those_of_the_rule(sigmas):
    values = series()
    guard, made = decided(values, sigmas)
    np.testing.assert_array_equal(made, reference(values, sigmas))
    skipped = np.flatnonzero(~np.asarray(made))
    assert int(guard.skipped) == len(skipped)
    if sigmas == 6.0:  # 30 and 60 are too early, 300 is too small, and a jump is none for long
        assert skipped.tolist() == [20, 220, 221, 230, 231, 380, 450, 451, 452]


def test_without_sigmas_only_what_is_not_finite_is_skipped():
    values = series()
    _, made = decided(values, None)
    np.testing.assert_array_equal(made, np.isfinite(values).all(1))


def test_equal_losses_are_no_spikes():
    values = np.full((300, 2), 0.1, np.float32)
    assert decided(values, 2.0)[1].all()


def test_batch_without_weight_is_no_spike_and_stays_out_of_the_window():
    values, weights = series()[:221], np.ones(221, bool)
    weights[-1] = False
    guard, made = decided(values, 6.0, weights)
    without, _ = decided(values[:-1], 6.0)
    assert not made[-1] and bits(guard) == bits(without)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_spike_is_skipped_and_an_ordinary_batch_is_not(layout):
    """The same decisions on 1 device and on 8, in microbatches, and from a stored state."""
    state, step = make_step(optimizer(), layout, spike_sigmas=6.0)
    for i in range(ENOUGH):
        state, _ = step(state, toy_batch(i % 4))
    assert int(state.guard.updates) == ENOUGH
    spike = toy_batch(0)
    spike["x"] *= 40
    stored = jax.tree.map(lambda x: jax.device_put(np.asarray(x), x.sharding), state)
    for start in (state, stored):
        after, metrics = step(start, spike)
        assert int(metrics["skipped"]) == 1 and np.isfinite(float(metrics["loss"]))
        assert trained(after) == trained(state)
        again, metrics = step(after, toy_batch(1))
        assert int(metrics["skipped"]) == 1 and int(metrics["skipped_in_a_row"]) == 0
        assert trained(again) != trained(state)

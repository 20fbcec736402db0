"""Schedules against the papers' formulas, and decay by path."""

import dataclasses
import json
import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from transformer_jax.training.config_json import classes_in, from_json, to_json
from transformer_jax.training.optimizer import NO_DECAY, OptimizerConfig, make_optimizer, without
from transformer_jax.training.schedules import (
    InverseSqrt,
    Noam,
    WarmupCosine,
    WarmupLinear,
    WarmupPolynomial,
)

GOLDEN = pathlib.Path(__file__).parents[1] / "models" / "golden"


def test_noam_equals_equation_3():
    schedule = Noam(width=512, warmup=4000).build(100_000)
    for n in (1, 2, 3999, 4000, 4001, 100_000):  # the paper counts steps from 1
        want = 512**-0.5 * min(n**-0.5, n * 4000**-1.5)
        np.testing.assert_allclose(schedule(jnp.asarray(n - 1)), want, rtol=1e-5)


def test_inverse_sqrt_is_noam_with_its_peak_written_out():
    noam = Noam(width=64, warmup=50).build(1)
    ours = InverseSqrt(peak=(64 * 50) ** -0.5, warmup=50).build(1)
    steps = jnp.arange(300)
    np.testing.assert_allclose(ours(steps), noam(steps), rtol=1e-5)


def test_linear_grows_to_its_peak_and_falls_to_zero_after_the_last_step():
    rates = WarmupLinear(peak=2.0, warmup=4).build(10)(jnp.arange(11))
    want = [0.5, 1, 1.5, 2] + [2 * (11 - n) / 7 for n in range(5, 12)]
    np.testing.assert_allclose(rates, want, rtol=1e-6)


def test_polynomial_grows_to_its_peak_and_falls_to_its_end():
    schedule = WarmupPolynomial(peak=2.0, warmup=4, power=2.0, end=0.5).build(12)
    # Steps 0, the last of the warm-up, one in between, the last, and after the last.
    rates = schedule(jnp.array([0, 3, 6, 11, 12, 20]))
    want = [0.5, 2.0, 0.5 + 1.5 * (6 / 9) ** 2, 0.5 + 1.5 * (1 / 9) ** 2, 0.5, 0.5]
    np.testing.assert_allclose(rates, want, rtol=1e-6)
    jitted = jax.jit(schedule)(jnp.array([0, 3, 6, 11, 12, 20]))
    np.testing.assert_allclose(jitted, want, rtol=1e-6)


def test_linear_is_the_polynomial_of_power_1_that_ends_at_0():
    steps = jnp.arange(120)
    got = WarmupPolynomial(peak=3e-4, warmup=30).build(100)(steps)
    np.testing.assert_allclose(got, WarmupLinear(3e-4, 30).build(100)(steps), rtol=1e-6)


@pytest.mark.parametrize("power", [0.5, 1.0])
def test_polynomial_from_the_first_update_has_the_rates_of_the_papers_code(power):
    peak, warmup, steps = 6e-3, 2000, 7038
    done = np.arange(steps)  # updates before this one, as google-research/albert counts them
    theirs = np.where(done < warmup, peak * done / warmup, peak * (1 - done / steps) ** power)
    schedule = WarmupPolynomial(peak, warmup, power, from_first=True).build(steps)
    np.testing.assert_allclose(schedule(done)[warmup:], theirs[warmup:], rtol=1e-5)
    # While it grows, ours is an update ahead: the code's first update has the rate 0.
    np.testing.assert_allclose(schedule(done)[: warmup - 1], theirs[1:warmup], rtol=1e-5)
    np.testing.assert_allclose(schedule(warmup - 1), peak, rtol=1e-5)
    assert schedule(steps) == 0


@pytest.mark.parametrize("wrong", [dict(power=0.0), dict(end=-1e-5), dict(peak=1e-3, end=2e-3)])
def test_polynomial_refuses_what_is_no_decay(wrong):
    with pytest.raises(ValueError, match="schedule"):
        WarmupPolynomial(**wrong)


def test_cosine_grows_to_its_peak_and_falls_along_half_a_cosine():
    rates = np.asarray(WarmupCosine(peak=1.0, warmup=2).build(9)(jnp.arange(10)))
    np.testing.assert_allclose(rates[:2], [0.5, 1.0])
    np.testing.assert_allclose(rates[5], 0.5, atol=1e-6)
    np.testing.assert_allclose(rates[9], 0.0, atol=1e-6)
    assert (np.diff(rates[1:]) < 0).all()


@pytest.mark.parametrize(
    "schedule",
    [
        WarmupLinear(1.0, 100),
        WarmupCosine(1.0, 100),
        WarmupPolynomial(1.0, 100),
        WarmupPolynomial(1.0, 100, from_first=True),
    ],
)
def test_run_shorter_than_the_warm_up_still_learns(schedule):
    rates = schedule.build(5)(jnp.arange(5))
    assert (rates > 0).all()


def test_decay_is_selected_by_path_and_never_by_rank():
    params = {
        "encoder": {"norm": {"scale": 0, "bias": 0}, "up": {"kernel": 0, "bias": 0}},
        "token_embedding": {"embedding": 0},
    }
    assert without(params, NO_DECAY) == {
        "encoder": {"norm": {"scale": False, "bias": False}, "up": {"kernel": True, "bias": False}},
        "token_embedding": {"embedding": True},
    }


@pytest.mark.parametrize("name", ["bert_base_pretraining", "albert_base_pretraining"])
def test_biases_and_norms_of_bert_do_not_decay_and_all_else_does(name):
    shapes = json.loads((GOLDEN / f"{name}.json").read_text())
    mask = without(dict.fromkeys(shapes, 0), NO_DECAY)
    decaying = {path for path, decays in mask.items() if decays}
    # By what they are: matrices and tables decay, also where a layer's axis or heads are in front.
    assert decaying == {path for path in shapes if path.endswith(("/kernel", "/embedding"))}
    rest = {path.rpartition("/")[2] for path in shapes.keys() - decaying}
    assert rest == {"bias", "scale"}


def test_adam_is_made_of_what_it_was_made_of_before_lamb():
    config = OptimizerConfig(InverseSqrt(0.1, 3), weight_decay=0.1, clip_norm=1.0)
    before = optax.chain(
        optax.clip_by_global_norm(1.0),
        optax.scale_by_adam(config.b1, config.b2, config.epsilon),
        optax.add_decayed_weights(0.1, mask=lambda params: without(params, NO_DECAY)),
        optax.scale_by_learning_rate(config.schedule.build(10)),
    )
    rng = np.random.default_rng(0)
    shapes = {"layer": {"kernel": (3, 4, 5), "bias": (3, 5)}, "embedding": (7, 4)}
    trees = [
        jax.tree.map(lambda s: jnp.float32(rng.normal(size=s)), shapes, is_leaf=is_shape)
        for _ in range(3)
    ]
    got, want = (after(optimizer, *trees) for optimizer in (make_optimizer(config, 10), before))
    assert jax.tree.structure(got) == jax.tree.structure(want)  # the state, as checkpoints have it
    jax.tree.map(np.testing.assert_array_equal, got, want)


def is_shape(x):
    return isinstance(x, tuple)


def after(optimizer, params, *all_grads):
    state = optimizer.init(params)
    for grads in all_grads:
        updates, state = jax.jit(optimizer.update)(grads, state, params)
        params = optax.apply_updates(params, updates)
    return params, state


def test_configs_written_before_lamb_are_adam():
    config = OptimizerConfig(WarmupLinear(1e-3, 10), weight_decay=0.01)
    written = to_json(config)
    del written["kind"]
    assert from_json(written, classes_in(config)) == config
    lamb = OptimizerConfig(WarmupPolynomial(1e-3, 10, 0.5, 1e-5), kind="lamb")
    assert from_json(to_json(lamb), classes_in(config)) == lamb


def test_an_unknown_kind_is_refused():
    with pytest.raises(ValueError, match="optimizer.kind='sgd'"):
        OptimizerConfig(kind="sgd")


def test_adamw_step_equals_its_formula():
    config = OptimizerConfig(
        schedule=InverseSqrt(peak=0.1, warmup=1), b1=0.9, b2=0.99, epsilon=1e-8, weight_decay=0.5
    )
    params = {"up": {"kernel": jnp.array([2.0, -1.0]), "bias": jnp.array([1.0])}}
    grads = {"up": {"kernel": jnp.array([0.3, -0.2]), "bias": jnp.array([0.1])}}
    optimizer = make_optimizer(config, steps=10)
    updates, _ = optimizer.update(grads, optimizer.init(params), params)
    # After one step of bias-corrected moments the direction is the gradient's sign.
    np.testing.assert_allclose(updates["up"]["kernel"], [-0.1 * 2, 0.1 * 1.5], rtol=1e-4)
    np.testing.assert_allclose(updates["up"]["bias"], [-0.1], rtol=1e-4)


def test_clipping_bounds_the_norm_of_the_whole_gradient():
    config = OptimizerConfig(schedule=InverseSqrt(peak=1.0, warmup=1), clip_norm=1.0, epsilon=1e3)
    params = {"a": {"kernel": jnp.zeros(1)}, "b": {"kernel": jnp.zeros(1)}}
    optimizer = make_optimizer(config, steps=10)
    grads = {"a": {"kernel": jnp.array([30.0])}, "b": {"kernel": jnp.array([40.0])}}
    updates, _ = optimizer.update(grads, optimizer.init(params), params)
    # With so large an epsilon the update is the clipped gradient over epsilon.
    np.testing.assert_allclose(updates["a"]["kernel"], [-0.6e-3], rtol=1e-2)
    np.testing.assert_allclose(updates["b"]["kernel"], [-0.8e-3], rtol=1e-2)


def test_frozen_parameters_stay_and_have_no_moments():
    config = OptimizerConfig(
        schedule=WarmupLinear(peak=0.1, warmup=1), weight_decay=0.1, clip_norm=1.0, frozen=("^a/",)
    )
    params = {"a": {"kernel": jnp.ones(3)}, "b": {"a": {"kernel": jnp.ones(2)}}}
    optimizer = make_optimizer(config, 10)
    state = optimizer.init(params)
    assert sum(x.size for x in jax.tree.leaves(state) if x.ndim) == 4
    grads = {"a": {"kernel": jnp.full(3, 100.0)}, "b": {"a": {"kernel": jnp.ones(2)}}}
    updates, _ = optimizer.update(grads, state, params)
    np.testing.assert_array_equal(updates["a"]["kernel"], 0)
    # Alone, the others have the same update: what is frozen does not count in the clipped norm.
    alone = make_optimizer(dataclasses.replace(config, frozen=()), 10)
    wanted, _ = alone.update(grads["b"], alone.init(params["b"]), params["b"])
    np.testing.assert_array_equal(updates["b"]["a"]["kernel"], wanted["a"]["kernel"])

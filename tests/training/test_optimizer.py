"""Schedules against the papers' formulas, and decay by path."""

import jax.numpy as jnp
import numpy as np
import pytest

from transformer_jax.training.optimizer import NO_DECAY, OptimizerConfig, decay_mask, make_optimizer
from transformer_jax.training.schedules import InverseSqrt, Noam, WarmupCosine, WarmupLinear


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


def test_cosine_grows_to_its_peak_and_falls_along_half_a_cosine():
    rates = np.asarray(WarmupCosine(peak=1.0, warmup=2).build(9)(jnp.arange(10)))
    np.testing.assert_allclose(rates[:2], [0.5, 1.0])
    np.testing.assert_allclose(rates[5], 0.5, atol=1e-6)
    np.testing.assert_allclose(rates[9], 0.0, atol=1e-6)
    assert (np.diff(rates[1:]) < 0).all()


@pytest.mark.parametrize("schedule", [WarmupLinear(1.0, 100), WarmupCosine(1.0, 100)])
def test_run_shorter_than_the_warm_up_still_learns(schedule):
    rates = schedule.build(5)(jnp.arange(5))
    assert (rates > 0).all()


def test_decay_is_selected_by_path_and_never_by_rank():
    params = {
        "encoder": {"norm": {"scale": 0, "bias": 0}, "up": {"kernel": 0, "bias": 0}},
        "token_embedding": {"embedding": 0},
    }
    assert decay_mask(params, NO_DECAY) == {
        "encoder": {"norm": {"scale": False, "bias": False}, "up": {"kernel": True, "bias": False}},
        "token_embedding": {"embedding": True},
    }


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

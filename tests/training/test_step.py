"""The train step: exact over microbatches and devices."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from transformer_jax import Transformer, TransformerConfig
from transformer_jax.errors import UserError
from transformer_jax.objectives.losses import label_smoothed_cross_entropy
from transformer_jax.parallel.mesh import MeshConfig, make_mesh
from transformer_jax.parallel.sharding import (
    TRANSFORMER_RULES,
    batch_sharding,
    constrain_activations,
    put_batch,
)
from transformer_jax.training.optimizer import OptimizerConfig, make_optimizer
from transformer_jax.training.schedules import InverseSqrt
from transformer_jax.training.step import init_state, make_train_step, state_layout

CONFIG = TransformerConfig(
    vocab_size=16, width=8, num_heads=2, feed_forward_dim=16, encoder_layers=2, decoder_layers=2
)
DROPPING = dataclasses.replace(CONFIG, dropout_rate=0.3)
ROWS, LENGTH = 32, 6
KEY = jax.random.key(1)


def ragged_batch(seed=0):
    """Rows of 1 to 6 tokens, one row of none, some rows of two packed pairs."""
    rng = np.random.default_rng(seed)
    batch = {}
    for side in ("source", "target"):
        lengths = rng.integers(1, LENGTH + 1, (ROWS, 1))
        lengths[-1] = 0
        place = np.arange(LENGTH)[None]
        segments = np.where(place < lengths, 1 + (place >= lengths // 2), 0)
        batch[f"{side}_segments"] = segments.astype(np.int32)
        batch[side] = (rng.integers(4, 16, (ROWS, LENGTH)) * (segments > 0)).astype(np.int32)
    batch["inputs"] = np.roll(batch["target"], 1, axis=1)
    return batch


def terms_of(model, dropout=False):
    def terms(params, batch, key):
        logits = model.apply(
            {"params": params},
            batch["source"],
            batch["inputs"],
            source_segments=batch["source_segments"],
            target_segments=batch["target_segments"],
            deterministic=not dropout,
            rngs={"dropout": key},
        )
        weights = batch["target_segments"] != 0
        loss = label_smoothed_cross_entropy(logits, batch["target"], weights, smoothing=0.1)
        # A second term with other weights: both must be exact.
        norm = jnp.sum(jnp.mean(logits**2, -1) * batch["source_segments"])
        return {"loss_a": loss, "loss_b": (norm, jnp.sum(batch["source_segments"] * 1.0))}

    return terms


COEFFICIENTS = {"loss_a": 1.0, "loss_b": 0.3}


@functools.cache
def optimizer():
    schedule = InverseSqrt(peak=1e-2, warmup=2)
    return make_optimizer(OptimizerConfig(schedule=schedule, clip_norm=1.0), steps=10)


def init(key):
    tokens = jnp.zeros((1, 2), jnp.int32)
    return init_state(Transformer(CONFIG).init(key, tokens, tokens)["params"], optimizer())


def run(mesh, microbatches=1, steps=3, dropout=False, once=False):
    """The metrics of each step, and the last parameters."""
    layout = state_layout(jax.eval_shape(init, jax.random.key(0)), mesh, TRANSFORMER_RULES)
    state = jax.jit(init, out_shardings=layout)(jax.random.key(0))
    model = Transformer(CONFIG, constrain=constrain_activations(mesh))
    step = jax.jit(
        make_train_step(
            terms_of(model, dropout),
            COEFFICIENTS,
            optimizer(),
            microbatches=microbatches,
            copies=mesh if once else None,
        ),
        in_shardings=(layout, batch_sharding(mesh), None),
        out_shardings=(layout, None),
        donate_argnums=0,
    )
    history = []
    for i in range(steps):
        with jax.set_mesh(mesh):
            state, metrics = step(state, put_batch(ragged_batch(i), mesh), KEY)
        history.append({name: float(value) for name, value in metrics.items()})
    return history, state


@functools.cache
def one_device(dropout=False):
    history, state = run(make_mesh(MeshConfig(), jax.devices()[:1]), dropout=dropout)
    return history, jax.device_get(state.params)


MESHES = [
    MeshConfig(data=8),
    MeshConfig(data=1, fsdp=8),
    MeshConfig(data=4, model=2),
    MeshConfig(data=2, fsdp=2, model=2),
]


def assert_same_run(got, want):
    for mine, theirs in zip(got[0], want[0], strict=True):
        for name, value in theirs.items():
            np.testing.assert_allclose(mine[name], value, rtol=1e-5, err_msg=name)
    mine, theirs = jax.device_get(got[1]), want[1]
    for (path, a), b in zip(
        jax.tree_util.tree_leaves_with_path(mine), jax.tree.leaves(theirs), strict=True
    ):
        np.testing.assert_allclose(a, b, atol=2e-4, err_msg=jax.tree_util.keystr(path))


@pytest.mark.parametrize("mesh", MESHES, ids=str)
def test_eight_devices_equal_one(mesh):
    history, state = run(make_mesh(mesh))
    assert_same_run((history, state.params), one_device())


def test_eight_devices_equal_one_dropout_included():
    history, state = run(make_mesh(MESHES[-1]), dropout=True)
    assert_same_run((history, state.params), one_device(dropout=True))
    assert one_device(dropout=True)[0] != one_device()[0]


@pytest.mark.parametrize("count", [1, 8])
def test_four_microbatches_of_8_equal_one_batch_of_32_with_ragged_counts(count):
    mesh = make_mesh(MeshConfig(), jax.devices()[:count])
    history, state = run(mesh, microbatches=4)
    assert_same_run((history, state.params), one_device())


@pytest.mark.parametrize("mesh", [*MESHES[:3], MeshConfig(data=4, fsdp=2)], ids=str)
def test_copies_that_sum_their_gradients_once_equal_one_device(mesh):
    mesh = make_mesh(mesh)
    history, state = run(mesh, microbatches=4, once=True)
    assert_same_run((history, state.params), one_device())


def test_copies_that_sum_once_are_refused_on_two_axes_more():
    with pytest.raises(UserError, match="one axis more, not with mesh.fsdp=2 and mesh.model=2"):
        run(make_mesh(MESHES[-1]), microbatches=2, once=True)


def test_gradients_of_microbatches_equal_those_of_the_whole_batch():
    """One step of plain gradient descent, whose update is the gradient."""
    params = init(jax.random.key(0)).params
    sgd = optax.sgd(1.0)

    def gradient(microbatches):
        step = make_train_step(
            terms_of(Transformer(CONFIG)), COEFFICIENTS, sgd, microbatches=microbatches
        )
        after, metrics = jax.jit(step)(init_state(params, sgd), ragged_batch(), KEY)
        return jax.tree.map(jnp.subtract, params, after.params), metrics["grad_norm"]

    (got, _), (want, norm) = gradient(4), gradient(1)
    for g, w in zip(jax.tree.leaves(got), jax.tree.leaves(want), strict=True):
        np.testing.assert_allclose(g, w, atol=1e-6 * float(norm))


def test_parameters_and_optimizer_state_are_split_over_the_mesh():
    mesh = make_mesh(MeshConfig(data=2, fsdp=2, model=2))
    _, state = run(mesh, steps=1)
    kernel = state.params["encoder"]["layer"]["feed_forward"]["up"]["kernel"]
    assert kernel.addressable_shards[0].data.shape == (2, 4, 8)  # of [2,8,16]
    adam = next(
        s
        for s in jax.tree.leaves(state.opt_state, is_leaf=lambda s: hasattr(s, "mu"))
        if hasattr(s, "mu")
    )
    moment = adam.mu["encoder"]["layer"]["feed_forward"]["up"]["kernel"]
    assert moment.sharding == kernel.sharding


def test_batch_without_weight_changes_no_number_to_nan():
    empty = {name: np.zeros_like(value) for name, value in ragged_batch().items()}
    step = make_train_step(terms_of(Transformer(CONFIG)), COEFFICIENTS, optimizer())
    state, metrics = jax.jit(step)(init(jax.random.key(0)), empty, KEY)
    assert all(np.isfinite(float(value)) for value in metrics.values())
    assert all(bool(jnp.isfinite(x).all()) for x in jax.tree.leaves(state.params))


def test_dropout_differs_by_step_and_repeats_for_the_same_step():
    """Nothing is learned at rate zero, so a change of the loss is dropout's."""
    still = optax.sgd(0.0)
    step = jax.jit(make_train_step(terms_of(Transformer(DROPPING), True), COEFFICIENTS, still))
    state, batch, key = init_state(init(jax.random.key(0)).params, still), ragged_batch(), KEY
    second, first_metrics = step(state, batch, key)
    _, second_metrics = step(second, batch, key)
    assert first_metrics["loss"] != second_metrics["loss"]
    assert step(state, batch, key)[1]["loss"] == first_metrics["loss"]

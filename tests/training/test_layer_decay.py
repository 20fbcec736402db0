"""Layer-wise decay of the rate against a loop over the layers."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from transformer_jax import BertConfig
from transformer_jax.errors import UserError
from transformer_jax.models.bert_tasks import BertClassifier
from transformer_jax.training.layer_decay import scale_by_layer
from transformer_jax.training.optimizer import OptimizerConfig, make_optimizer
from transformer_jax.training.schedules import WarmupLinear

LAYERS, DECAY = 3, 0.5


@pytest.fixture(scope="module")
def params():
    return params_of(BertConfig(11, 8, 2, 12, LAYERS, max_positions=6, embedding_width=4))


def params_of(config):
    """Any numbers in the shapes of a classifier."""
    model, tokens = BertClassifier(config), jnp.zeros((1, 2), jnp.int32)
    shapes = jax.eval_shape(model.init, jax.random.key(0), tokens)["params"]
    rng = np.random.default_rng(0)
    return jax.tree.map(lambda x: jnp.asarray(rng.normal(size=x.shape), jnp.float32), shapes)


def test_each_layer_has_its_factor(params):
    ones = jax.tree.map(jnp.ones_like, params)
    found, _ = scale_by_layer(DECAY).update(ones, scale_by_layer(DECAY).init(params))
    for leaf in jax.tree.leaves(found["bert"]["encoder"]["layer"]):
        for layer in range(LAYERS):
            np.testing.assert_array_equal(leaf[layer], DECAY ** (LAYERS - 1 - layer))
    for name in ("token_embedding", "position_embedding", "type_embedding", "embedding_norm"):
        for leaf in jax.tree.leaves(found["bert"][name]):
            np.testing.assert_array_equal(leaf, DECAY**LAYERS)
    np.testing.assert_array_equal(found["bert"]["embedding_projection"]["bias"], DECAY**LAYERS)
    for above in (found["bert"]["pooler"], found["head"]):
        for leaf in jax.tree.leaves(above):
            np.testing.assert_array_equal(leaf, 1.0)


def test_the_optimizer_s_update_is_that_of_adam_with_other_rates(params):
    schedule = WarmupLinear(peak=0.1, warmup=1)
    plain, decayed = (
        make_optimizer(OptimizerConfig(schedule=schedule, weight_decay=0.1, layer_decay=d), 10)
        for d in (1.0, DECAY)
    )
    grads = jax.tree.map(lambda x: jnp.cos(jnp.arange(x.size)).reshape(x.shape), params)
    (want, _), (found, _) = (
        jax.jit(o.update)(grads, o.init(params), params) for o in (plain, decayed)
    )
    scaled, _ = scale_by_layer(DECAY).update(want, optax.EmptyState())
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-6), found, scaled)


def test_what_has_no_layers_is_refused():
    with pytest.raises(UserError, match="one encoder of stacked layers"):
        scale_by_layer(DECAY).init({"head": jnp.ones(3)})
    shared = BertConfig(11, 8, 2, 12, LAYERS, max_positions=6, shared_layers=True)
    params = params_of(shared)
    for changes in ({"layer_decay": 0.9}, {"frozen_layers": 1}):
        optimizer = make_optimizer(OptimizerConfig(**changes), 10)
        with pytest.raises(UserError, match=f"optimizer.{[*changes][0]}.*share their parameters"):
            optimizer.init(params)
    with pytest.raises(ValueError, match=r"layer_decay=0.0 must be in \(0, 1\]"):
        OptimizerConfig(layer_decay=0.0)


def step(config, params, scale=1.0):
    optimizer = make_optimizer(config, 10)
    grads = jax.tree.map(lambda x: scale * jnp.cos(jnp.arange(x.size)).reshape(x.shape), params)
    return jax.jit(optimizer.update)(grads, optimizer.init(params), params)[0]


@pytest.mark.parametrize("kind", ["adam", "lamb"])
def test_the_first_layers_stay_and_all_else_learns(params, kind):
    config = OptimizerConfig(
        schedule=WarmupLinear(peak=0.1, warmup=1), weight_decay=0.1, kind=kind, layer_decay=DECAY
    )
    want = step(config, params)
    found = step(dataclasses.replace(config, frozen_layers=2), params)
    layers, others = found["bert"]["encoder"].pop("layer"), want["bert"]["encoder"].pop("layer")
    for leaf, other in zip(jax.tree.leaves(layers), jax.tree.leaves(others), strict=True):
        np.testing.assert_array_equal(leaf[:2], 0)
        np.testing.assert_array_equal(leaf[2:], other[2:])
        assert np.any(leaf[2:])
    jax.tree.map(np.testing.assert_array_equal, found, want)


def test_held_layers_do_not_count_in_the_clipped_norm(params):
    """With so large an epsilon the update is the clipped gradient over epsilon."""
    schedule = WarmupLinear(peak=1.0, warmup=1)
    config = OptimizerConfig(schedule, clip_norm=1.0, epsilon=1e6, frozen_layers=LAYERS)
    found = step(config, params, scale=1e3)
    np.testing.assert_allclose(1e6 * optax.tree.norm(found), 1.0, rtol=1e-2)


def test_more_layers_than_there_are_cannot_be_held(params):
    with pytest.raises(UserError, match="frozen_layers=4: the encoder has only 3 layers"):
        make_optimizer(OptimizerConfig(frozen_layers=4), 10).init(params)
    with pytest.raises(ValueError, match="frozen_layers=-1 must be at least 0"):
        OptimizerConfig(frozen_layers=-1)


@pytest.mark.parametrize("changes", [{"layer_decay": DECAY}, {"frozen_layers": 1}])
def test_layers_that_are_frozen_have_no_rates(params, changes):
    optimizer = make_optimizer(OptimizerConfig(frozen=("/encoder/",), **changes), 10)
    with pytest.raises(UserError, match="layers that are not frozen, and there is none"):
        optimizer.init(params)


def test_settings_of_layers_keep_no_state(params):
    for frozen in ((), ("token_embedding",)):
        config = OptimizerConfig(frozen=frozen)
        changes = {"layer_decay": DECAY, "frozen_layers": 1}
        plain, other = (
            make_optimizer(c, 10).init(params)
            for c in (config, dataclasses.replace(config, **changes))
        )
        assert len(jax.tree.leaves(plain)) == len(jax.tree.leaves(other))


def test_a_frozen_teacher_of_another_depth_does_not_disturb(params):
    deeper = {"encoder": {"layer": {"up": {"kernel": jnp.ones((LAYERS + 1, 2))}}}}
    config = OptimizerConfig(layer_decay=DECAY, frozen=("^teacher/",), frozen_layers=1)
    found = step(config, {"student": params, "teacher": deeper})
    assert not np.any(found["teacher"]["encoder"]["layer"]["up"]["kernel"])
    layers = found["student"]["bert"]["encoder"]["layer"]
    assert all(np.any(leaf[1:]) and not np.any(leaf[:1]) for leaf in jax.tree.leaves(layers))


@pytest.mark.parametrize(
    ("frozen", "complaint"),
    [
        (("embeding",), "optimizer.frozen 'embeding' matches no parameter"),
        (("embedding", "encoder/layer/0"), "'encoder/layer/0' matches no parameter.*frozen_layers"),
        (("^bert/", "."), "freezes all parameters"),
    ],
)
def test_patterns_that_freeze_nothing_or_all_are_refused(params, frozen, complaint):
    with pytest.raises(UserError, match=complaint):
        make_optimizer(OptimizerConfig(frozen=frozen), 10).init(params)

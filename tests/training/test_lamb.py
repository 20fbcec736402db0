"""LAMB against algorithm 2 of its paper, written layer by layer in numpy."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.sharding import NamedSharding, PartitionSpec

from transformer_jax.layers.blocks import EncoderLayer
from transformer_jax.layers.stacks import Encoder
from transformer_jax.training.lamb import scale_by_trust_ratio
from transformer_jax.training.optimizer import OptimizerConfig, make_optimizer
from transformer_jax.training.schedules import InverseSqrt

L, D, F = 3, 4, 6
RATE, B1, B2, EPSILON, DECAY = 0.1, 0.9, 0.999, 1e-6, 0.01
CONFIG = OptimizerConfig(
    InverseSqrt(peak=RATE, warmup=1),
    b1=B1, b2=B2, epsilon=EPSILON, weight_decay=DECAY, kind="lamb",
)  # fmt: skip


def trees(seed=0):
    """Parameters of a stack, of a shared layer and of a table; the layers differ in size."""
    rng = np.random.default_rng(seed)

    def layer(*axes):
        up = {"kernel": rng.normal(size=(*axes, D, F)), "bias": rng.normal(size=(*axes, F))}
        return {"up": up, "norm": {"scale": rng.normal(size=(*axes, D))}}

    stacked = layer(L)
    stacked["up"]["kernel"] *= 10.0 ** np.arange(L)[:, None, None]
    tree = {
        "encoder": {"layer": stacked},
        "other": {"shared_layer": layer()},
        "token_embedding": {"embedding": rng.normal(size=(5, D))},
    }
    return jax.tree.map(jnp.float32, tree)


def step_of_algorithm_2(param, grads, adapted):
    """The parameter of one layer after len(grads) updates, in float64."""
    x = np.asarray(param, np.float64)
    m, v = np.zeros_like(x), np.zeros_like(x)
    for t, grad in enumerate(grads, 1):
        g = np.asarray(grad, np.float64)
        m, v = B1 * m + (1 - B1) * g, B2 * v + (1 - B2) * g**2
        r = (m / (1 - B1**t)) / (np.sqrt(v / (1 - B2**t)) + EPSILON)
        ratio = 1.0
        if adapted:
            r = r + DECAY * x
            ratio = np.linalg.norm(x.ravel()) / np.linalg.norm(r.ravel())
        x = x - RATE / np.sqrt(t) * ratio * r
    return x


def run(params, all_grads, jit=True, config=CONFIG):
    optimizer = make_optimizer(config, steps=10)

    def step(params, state, grads):
        updates, state = optimizer.update(grads, state, params)
        return optax.apply_updates(params, updates), state

    state = optimizer.init(params)
    for grads in all_grads:
        params, state = (jax.jit(step) if jit else step)(params, state, grads)
    return params


def wanted(params, all_grads):
    def one(path, param, *grads):
        names = [key.key for key in path]
        adapted = names[-1] not in ("bias", "scale")
        if "layer" not in names:
            return step_of_algorithm_2(param, grads, adapted)
        return np.stack(
            [step_of_algorithm_2(param[i], [g[i] for g in grads], adapted) for i in range(L)]
        )

    return jax.tree_util.tree_map_with_path(one, params, *all_grads)


def assert_trees_close(got, want, **tolerance):
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, **tolerance), got, want)


def test_steps_equal_algorithm_2_of_each_layer():
    params, all_grads = trees(0), [trees(1), trees(2)]
    assert_trees_close(run(params, all_grads), wanted(params, all_grads), rtol=1e-5, atol=1e-6)


def test_ratio_of_a_layer_is_not_that_of_its_stack():
    params, grads = trees(0), [trees(1)]
    together = {"stack": params["encoder"]["layer"]}  # under another name it is one tensor
    apart = run(params, grads)["encoder"]["layer"]["up"]["kernel"]
    whole = run(together, [{"stack": g["encoder"]["layer"]} for g in grads])["stack"]["up"]
    before = params["encoder"]["layer"]["up"]["kernel"]
    steps = jnp.sqrt(jnp.sum(jnp.square(apart - before), (1, 2)))
    norms = jnp.sqrt(jnp.sum(jnp.square(before), (1, 2)))
    np.testing.assert_allclose(steps, RATE * norms, rtol=1e-4)  # the ratio's meaning
    assert np.abs(whole["kernel"] - apart).max() > 1.0


def test_real_stacks_are_told_from_shared_layers_by_their_path():
    x = jnp.ones((1, 2, D))
    for shared in (False, True):
        encoder = Encoder(EncoderLayer(D, 2, F, parent=None), L, shared=shared)
        params = encoder.init(jax.random.key(0), x)["params"]
        rule = scale_by_trust_ratio()
        updates = jax.tree.map(lambda p: jax.random.normal(jax.random.key(1), p.shape), params)
        scaled, _ = rule.update(updates, rule.init(params), params)
        layer = "shared_layer" if shared else "layer"
        kernel, got = (t[layer]["feed_forward"]["up"]["kernel"] for t in (params, scaled))
        axes = (0, 1) if shared else (1, 2)
        norms = [np.sqrt(np.square(np.asarray(a, np.float64)).sum(axes)) for a in (got, kernel)]
        assert norms[0].shape == (() if shared else (L,))
        np.testing.assert_allclose(*norms, rtol=1e-5)


@pytest.mark.parametrize("jit", [False, True])
def test_tensors_without_norm_keep_their_update(jit):
    params, grads = trees(0), trees(1)
    kernel = params["encoder"]["layer"]["up"]["kernel"].at[1].set(0.0)  # one layer alone
    params["encoder"]["layer"]["up"]["kernel"] = kernel
    got = run(params, [grads], jit)["encoder"]["layer"]["up"]["kernel"]
    # From zero, one step of bias-corrected Adam is the rate times the gradient's sign.
    sign = np.sign(grads["encoder"]["layer"]["up"]["kernel"][1])
    np.testing.assert_allclose(got[1], -RATE * sign, rtol=1e-3)
    others = run(trees(0), [grads])["encoder"]["layer"]["up"]["kernel"]
    np.testing.assert_allclose(got[::2], others[::2], rtol=1e-5)


def test_zero_gradients_without_decay_change_nothing():
    params = trees(0)
    zeros = jax.tree.map(jnp.zeros_like, params)
    config = OptimizerConfig(InverseSqrt(peak=RATE, warmup=1), kind="lamb")
    jax.tree.map(np.testing.assert_array_equal, run(params, [zeros], config=config), params)


def test_jit_equals_no_jit():
    params, all_grads = trees(0), [trees(1), trees(2)]
    got, want = run(params, all_grads), run(params, all_grads, jit=False)
    assert_trees_close(got, want, rtol=1e-5, atol=1e-6)


def test_split_tensors_have_the_ratio_of_the_whole():
    mesh = jax.make_mesh((2,), ("model",), axis_types=(jax.sharding.AxisType.Auto,))
    layout = NamedSharding(mesh, PartitionSpec(None, "model"))
    params, grads = trees(0), trees(1)
    want = run(params, [grads])["encoder"]["layer"]["up"]["kernel"]
    for tree in (params, grads):
        up = tree["encoder"]["layer"]["up"]
        up["kernel"] = jax.device_put(up["kernel"], layout)
    got = run(params, [grads])["encoder"]["layer"]["up"]["kernel"]
    np.testing.assert_allclose(got, want, rtol=1e-5)


def test_update_without_parameters_is_refused():
    rule = scale_by_trust_ratio()
    with pytest.raises(ValueError, match="needs the parameters"):
        rule.update({"a": jnp.ones(2)}, rule.init({"a": jnp.ones(2)}))

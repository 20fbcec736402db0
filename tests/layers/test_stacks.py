"""Layers and stacks: equal however they run, composable, and what each may see."""

import dataclasses

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from transformer_jax import Decoder, DecoderLayer, Encoder, EncoderLayer, Mask
from transformer_jax.layers.stacks import unstacked

B, T, S, D = 2, 5, 6, 8
SIZES = dict(width=D, num_heads=2, feed_forward_dim=16)


def inputs(length=T, seed=0):
    return jax.random.normal(jax.random.key(seed), (B, length, D))


def encoder(**options):
    layer = EncoderLayer(**SIZES, dropout_rate=0.2, attention_dropout_rate=0.1)
    return Encoder(layer, num_layers=3, **options)


def test_layers_have_their_own_parameters_on_a_leading_axis():
    params = encoder().init(jax.random.key(0), inputs())["params"]
    kernel = params["layer"]["feed_forward"]["up"]["kernel"]
    assert kernel.shape == (3, D, 16)
    assert (kernel[0] != kernel[1]).any()


@pytest.mark.parametrize("remat", ["none", "dots", "full"])
@pytest.mark.parametrize("unroll", [False, True])
@pytest.mark.parametrize("shared", [False, True])
def test_scan_equals_unrolled_equals_remat_dropout_included(remat, unroll, shared):
    x, mask = inputs(), Mask.causal()
    variables = encoder(shared=shared).init(jax.random.key(0), x)

    def run(module):
        def loss(variables):
            y = module.apply(
                variables, x, mask=mask, deterministic=False, rngs={"dropout": jax.random.key(7)}
            )
            return jnp.sum(jnp.sin(y)), y

        return jax.jit(jax.grad(loss, has_aux=True))(variables)

    got = run(encoder(remat=remat, unroll=unroll, shared=shared))
    want = run(encoder(shared=shared))
    for g, w in zip(jax.tree.leaves(got), jax.tree.leaves(want), strict=True):
        np.testing.assert_allclose(g, w, atol=2e-5)


def test_stack_equals_its_layers_one_by_one():
    x = inputs()
    module = encoder()
    variables = module.init(jax.random.key(0), x)
    y = x
    for i in range(3):
        params = jax.tree.map(lambda a, i=i: a[i], variables["params"]["layer"])
        y = EncoderLayer(**SIZES).apply({"params": params}, y)
    np.testing.assert_allclose(module.apply(variables, x), y, atol=1e-5)


@pytest.mark.parametrize("norm_first", [False, True])
@pytest.mark.parametrize("unroll", [False, True])
def test_shared_layers_equal_layers_with_equal_parameters(norm_first, unroll):
    layer, x = EncoderLayer(**SIZES, norm_first=norm_first), inputs()
    shared = Encoder(layer, num_layers=3, shared=True, unroll=unroll)
    apart = Encoder(layer, num_layers=3, unroll=unroll)
    params = shared.init(jax.random.key(0), x)["params"]
    one = params["shared_layer"]
    assert jax.tree.map(jnp.shape, one) == jax.tree.map(
        jnp.shape, layer.init(jax.random.key(0), x)["params"]
    )
    copies = params | {"layer": jax.tree.map(lambda p: jnp.stack([p] * 3), one)}
    del copies["shared_layer"]
    outputs = []

    def run(module, params):
        def loss(params):
            y = module.apply({"params": params}, x, mask=Mask.causal())
            return jnp.sum(jnp.sin(y)), y

        return jax.jit(jax.grad(loss, has_aux=True))(params)

    with jax.disable_jit():  # operation by operation: XLA may fuse the two programs differently
        for module, given in ((shared, params), (apart, copies)):
            outputs.append(module.apply({"params": given}, x, mask=Mask.causal()))
    np.testing.assert_array_equal(*outputs)
    (got, got_y), (want, want_y) = run(shared, params), run(apart, copies)
    np.testing.assert_allclose(got_y, want_y, atol=1e-5)
    summed = jax.tree.map(lambda g: g.sum(axis=0), want["layer"])
    for g, w in zip(jax.tree.leaves(got["shared_layer"]), jax.tree.leaves(summed), strict=True):
        np.testing.assert_allclose(g, w, atol=1e-5)


def test_decoder_refuses_shared_layers():
    module = Decoder(DecoderLayer(**SIZES), num_layers=2, shared=True)
    with pytest.raises(ValueError, match="cannot share"):
        module.init(jax.random.key(0), inputs(), inputs())


@pytest.mark.parametrize("norm_first", [False, True])
def test_residual_order_is_the_papers_or_pre_norm(norm_first):
    layer = EncoderLayer(**SIZES, norm_first=norm_first)
    x = inputs()
    variables = layer.init(jax.random.key(0), x)
    bound = layer.bind(variables)

    def sublayer(x, f, norm):
        return x + f(norm(x)) if norm_first else norm(x + f(x))

    y = sublayer(x, bound.self_attention, bound.self_attention_norm)
    y = sublayer(y, bound.feed_forward, bound.feed_forward_norm)
    np.testing.assert_allclose(layer.apply(variables, x), y, atol=1e-6)
    normalised = np.abs(np.asarray(layer.apply(variables, x)).mean(-1)).max() < 1e-5
    assert normalised != norm_first


@pytest.mark.parametrize("shared", [False, True])
def test_dropout_differs_by_layer_and_by_call(shared):
    x = jnp.ones((B, T, D))

    class Probe(nn.Module):
        norm_first: bool = False

        @nn.compact
        def __call__(self, x, *, mask=None, bias=None, deterministic=True):
            bits = jax.random.bits(self.make_rng("dropout"))
            self.sow("intermediates", "bits", bits)
            return x

    _, state = Encoder(Probe(), num_layers=4, shared=shared).apply(
        {}, x, rngs={"dropout": jax.random.key(0)}, mutable=["intermediates"]
    )
    (bits,) = state["intermediates"]["shared_layer" if shared else "layer"]["bits"]
    assert len(set(np.asarray(bits).tolist())) == 4


def test_dropout_differs_by_layer_of_a_decoder_too():
    class Probe(nn.Module):
        norm_first: bool = False

        @nn.compact
        def __call__(self, x, encoded, *, mask=None, cross_mask=None, deterministic=True):
            self.sow("intermediates", "bits", jax.random.bits(self.make_rng("dropout")))
            return x

    _, state = Decoder(Probe(), num_layers=4).apply(
        {}, inputs(), inputs(S), rngs={"dropout": jax.random.key(0)}, mutable=["intermediates"]
    )
    (bits,) = state["intermediates"]["layer"]["bits"]
    assert len(set(np.asarray(bits).tolist())) == 4


def test_decoder_sees_no_future_gradients_too():
    module = Decoder(DecoderLayer(**SIZES), num_layers=2)
    x, memory = inputs(), inputs(S, seed=1)
    variables = module.init(jax.random.key(0), x, memory)

    def early(x):
        return module.apply(variables, x, memory)[:, :3]

    np.testing.assert_array_equal(early(x), early(x.at[:, 3:].set(9.0)))
    gradient = jax.grad(lambda x: jnp.sum(early(x) ** 2))(x)
    assert not gradient[:, 3:].any()


def test_all_matrices_start_as_the_layer_says():
    def init(key, shape, dtype):
        return 3 * jnp.ones(shape, dtype)

    module = Decoder(DecoderLayer(**SIZES, kernel_init=init, gated=True), num_layers=2)
    params = module.init(jax.random.key(0), inputs(), inputs())["params"]
    kernels = [
        leaf
        for path, leaf in jax.tree_util.tree_leaves_with_path(params)
        if path[-1].key == "kernel"
    ]
    assert len(kernels) == 11  # 4 and 4 of the attentions, up, gate and down
    assert all((kernel == 3).all() for kernel in kernels)


@pytest.mark.parametrize("norm_first", [False, True])
@pytest.mark.parametrize("block", [1, 2])
@pytest.mark.parametrize("apart", [False, True])
def test_incremental_decoding_equals_full_decoding(norm_first, block, apart):
    module = Decoder(DecoderLayer(**SIZES, norm_first=norm_first), num_layers=2)
    x, encoded = inputs(4), inputs(S, seed=1)
    cross_mask = Mask.padding(jnp.array([[1] * S, [1] * 3 + [0] * 3]))
    variables = module.init(jax.random.key(0), x, encoded)
    want = module.apply(variables, x, encoded, cross_mask=cross_mask)

    if apart:
        variables = {"params": unstacked(variables["params"])}
    memory = module.apply(variables, encoded, method="memory")
    cache = module.apply({}, B, 6, method="empty_cache")
    for i in range(0, 4, block):
        y, cache = module.apply(
            variables, x[:, i : i + block], memory, cache, i, cross_mask=cross_mask, method="decode"
        )
        np.testing.assert_allclose(y, want[:, i : i + block], atol=1e-5)


def test_encoder_is_equivariant_to_the_order_of_its_inputs():
    module, x = encoder(), inputs()
    variables = module.init(jax.random.key(0), x)
    order = jnp.array([3, 0, 4, 1, 2])
    np.testing.assert_allclose(
        module.apply(variables, x[:, order]), module.apply(variables, x)[:, order], atol=1e-5
    )


def test_layers_work_under_jit_grad_vmap_and_remat():
    layer = EncoderLayer(**SIZES)
    x = inputs()
    variables = layer.init(jax.random.key(0), x)
    want = layer.apply(variables, x)
    np.testing.assert_allclose(jax.jit(layer.apply)(variables, x), want, atol=1e-6)
    per_example = jax.vmap(lambda row: layer.apply(variables, row[None])[0])(x)
    np.testing.assert_allclose(per_example, want, atol=1e-6)
    gradients = jax.grad(lambda v: jnp.sum(layer.apply(v, x) ** 2))(variables)
    remat = jax.grad(lambda v: jnp.sum(jax.checkpoint(layer.apply)(v, x) ** 2))(variables)
    for got, want in zip(jax.tree.leaves(remat), jax.tree.leaves(gradients), strict=True):
        np.testing.assert_allclose(got, want, atol=1e-4)


@pytest.mark.parametrize("shared", [False, True])
def test_modules_run_inside_nnx(shared):
    module, x = encoder(shared=shared), inputs()
    bridged = nnx.bridge.ToNNX(module, rngs=nnx.Rngs(0)).lazy_init(x)
    variables = {"params": nnx.to_pure_dict(nnx.state(bridged, nnx.Param))}
    np.testing.assert_allclose(bridged(x), module.apply(variables, x), atol=1e-6)


def test_bf16_compute_keeps_float32_parameters():
    layer = dataclasses.replace(EncoderLayer(**SIZES), dtype=jnp.bfloat16)
    variables = layer.init(jax.random.key(0), inputs())
    assert {a.dtype for a in jax.tree.leaves(variables)} == {jnp.dtype(jnp.float32)}
    got = layer.apply(variables, inputs())
    want = EncoderLayer(**SIZES).apply(variables, inputs())
    np.testing.assert_allclose(np.asarray(got, np.float32), want, atol=0.1)

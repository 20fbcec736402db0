"""Fused kernels: dense attention where they are able, an error where they are not."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from transformer_jax.layers.attention import dense_attention
from transformer_jax.layers.fused_attention import _by_jax, cudnn_attention, splash_attention
from transformer_jax.layers.kernels import make_kernel
from transformer_jax.layers.masks import Mask
from transformer_jax.models.bert import BertConfig
from transformer_jax.models.transformer import TransformerConfig

B, T, N, H = 2, 256, 2, 32


def draw(*shape, seed=0):
    return jnp.asarray(np.random.default_rng(seed).normal(size=shape), jnp.float32)


def packed(length, seed=0):
    """Segments 1, 2, ... and padding at the end."""
    ids = np.sort(np.random.default_rng(seed).integers(0, 4, (B, length)), axis=1)[:, ::-1]
    return jnp.asarray(ids.copy())


MASKS = {
    "none": lambda t, s: None,
    "segments": lambda t, s: Mask.segments(packed(t), packed(s)),
    "strangers": lambda t, s: Mask.segments(packed(t), jnp.where(packed(s) == 2, 5, packed(s))),
    "padding": lambda t, s: Mask.padding(packed(s)),
    "all padding": lambda t, s: Mask.padding(jnp.zeros((B, s))),
    "causal": lambda t, s: Mask.causal(),
    "window": lambda t, s: Mask(window=20),
    "causal window": lambda t, s: Mask.causal(window=20) & Mask.segments(packed(t), packed(s)),
}


def compare(kernel, arrays, mask, bias=None):
    mixing = draw(*arrays[0].shape, seed=9)

    def run(attend):
        def loss(query, key, value):
            options = {} if bias is None else {"bias": bias}
            mixed = attend(query, key, value, mask=mask, **options)
            return (mixed * mixing).sum(), mixed

        return jax.jit(jax.value_and_grad(loss, (0, 1, 2), has_aux=True))(*arrays)

    (_, want), gradients = run(dense_attention)
    (_, found), others = run(kernel)
    np.testing.assert_allclose(found, want, atol=2e-5)
    for a, b in zip(others, gradients, strict=True):
        np.testing.assert_allclose(a, b, atol=5e-5)


@pytest.mark.parametrize("lengths", [(T, T), (128, 384)])
@pytest.mark.parametrize("name", MASKS)
def test_splash_is_dense_attention(name, lengths):
    if "causal" in name and lengths[0] != lengths[1]:
        lengths = (384, 384)
    arrays = [
        draw(B, length, N, H, seed=seed)
        for seed, length in enumerate((lengths[0], lengths[1], lengths[1]))
    ]

    def kernel(*args, mask):
        return splash_attention(*args, mask=mask, interpret=True)

    compare(kernel, arrays, MASKS[name](*lengths))


@pytest.mark.parametrize("block", [128, 256])
def test_splash_is_dense_attention_in_blocks_of_any_size(block):
    arrays = [draw(B, 256, N, H, seed=seed) for seed in range(3)]

    def kernel(*args, mask):
        return splash_attention(*args, mask=mask, block=block, interpret=True)

    compare(kernel, arrays, MASKS["causal window"](256, 256))


def test_the_config_says_the_size_of_the_blocks():
    query = jnp.zeros((1, 512, 1, 8))
    for block, chunks in ((64, 8), (512, 1)):
        kernel = make_kernel("chunked", block)
        text = str(jax.make_jaxpr(lambda x, run=kernel: run(x, x, x))(query))
        assert (f"1,1,{block},512" in text) and (f"length={chunks}" in text) == (chunks > 1)
    for name, block in (("splash", 100), ("chunked", 0)):
        with pytest.raises(ValueError, match=f"attention_block={block} must be a multiple of"):
            BertConfig(attention=name, attention_dropout_rate=0.0, attention_block=block)


@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("name", [*MASKS, "by head"])
def test_the_kernel_of_gpus_gets_the_whole_mask(name, bias):
    # The same function computes here what cuDNN computes there.
    arrays = [draw(B, 32, N, 8, seed=seed) for seed in range(3)]
    mask = (
        Mask.from_dense(draw(B, N, 32, 32, seed=4) > 1.5)
        if name == "by head"
        else MASKS[name](32, 32)
    )

    def kernel(query, key, value, *, mask, bias=None):
        return _by_jax(query, key, value, mask, bias, "xla")

    compare(kernel, arrays, mask, draw(1, N, 32, 32, seed=5) if bias else None)


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        (dict(bias=jnp.zeros((1, 1, T, T))), "splash takes no bias"),
        (dict(dropout_rate=0.1, dropout_key=jax.random.key(0)), "no dropout of attention weights"),
        (dict(mask=Mask.from_dense(jnp.ones((1, 1, T, T), bool))), "takes no dense mask"),
        (dict(mask=Mask.causal(query_positions=jnp.arange(T)[None])), "and no positions"),
        (dict(length=100), "a multiple of 128, not 100"),
    ],
)
def test_what_splash_cannot_honour_is_refused(change, complaint):
    array = draw(B, change.pop("length", T), N, H)
    with pytest.raises(ValueError, match=complaint):
        splash_attention(array, array, array, **change)


def test_what_cudnn_cannot_honour_is_refused():
    array = draw(B, 8, N, H)
    with pytest.raises(ValueError, match="needs bfloat16 or float16, not float32"):
        cudnn_attention(array, array, array)
    with pytest.raises(ValueError, match="no dropout of attention weights"):
        cudnn_attention(array, array, array, dropout_rate=0.1, dropout_key=jax.random.key(0))


@pytest.mark.parametrize("config", [BertConfig(), TransformerConfig()])
def test_a_model_that_asks_for_what_a_kernel_has_not_is_refused(config):
    with pytest.raises(ValueError, match="attention=splash has no dropout"):
        dataclasses.replace(config, attention="splash", attention_dropout_rate=0.1)
    dataclasses.replace(config, attention="splash", attention_dropout_rate=0.0)
    with pytest.raises(ValueError, match="set model.dtype=bfloat16"):
        dataclasses.replace(config, attention="cudnn", attention_dropout_rate=0.0)

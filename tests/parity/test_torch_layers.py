"""Attention, feed-forward networks, layers and stacks against PyTorch's own modules."""

import functools

import jax
import numpy as np
import pytest
import torch
from torch import nn
from transformers.models.marian.modeling_marian import MarianSinusoidalPositionalEmbedding

from tests.parity.torch_modules import (
    EPSILON,
    LATER,
    B,
    D,
    F,
    L,
    N,
    S,
    T,
    assert_gradients_equal,
    attention_names,
    feed_forward_names,
    gradients,
    layer_names,
    load,
    random_inputs,
    random_params,
    stack_names,
    torch_layer,
    torch_stack,
    valid,
)
from transformer_jax import Decoder, DecoderLayer, Encoder, EncoderLayer, Mask, MultiHeadAttention
from transformer_jax.layers.feed_forward import FeedForward
from transformer_jax.layers.positions import sinusoidal_positions

TARGET_VALID, SOURCE_VALID = valid([5, 1, 3], T), valid([4, 7, 1], S)
TARGET_PADS, SOURCE_PADS = torch.tensor(~TARGET_VALID), torch.tensor(~SOURCE_VALID)

VARIANTS = pytest.mark.parametrize(
    "stacked, norm_first, activation",
    [
        pytest.param(False, False, "relu", id="layer-post_norm-relu"),
        pytest.param(False, False, "gelu", id="layer-post_norm-gelu"),
        pytest.param(False, True, "relu", id="layer-pre_norm-relu"),
        pytest.param(False, True, "gelu", id="layer-pre_norm-gelu"),
        pytest.param(True, False, "relu", id="stack-post_norm-relu"),
        pytest.param(True, True, "gelu", id="stack-pre_norm-gelu"),
    ],
)


def assert_parity(ours, params, names, theirs, call, *inputs):
    """Output, and its gradient by parameters and inputs, of our function and their module."""

    @jax.jit
    def run(cotangent, params, *inputs):
        out, pull = jax.vjp(ours, params, *inputs)
        return out, pull(cotangent)

    tensors = [torch.tensor(x, requires_grad=True) for x in inputs]
    out = call(load(theirs, names(params)), *tensors)
    (cotangent,) = random_inputs(out.shape, seed=2)
    out.backward(torch.tensor(cotangent))
    got, (by_params, *by_inputs) = jax.device_get(run(cotangent, params, *inputs))
    np.testing.assert_allclose(got, out.detach(), rtol=1e-5, atol=3e-6)
    assert_gradients_equal(
        names(by_params) | {f"input {i}": g for i, g in enumerate(by_inputs)},
        gradients(theirs) | {f"input {i}": x.grad for i, x in enumerate(tensors)},
    )


@pytest.mark.parametrize(
    "padded, causal",
    [(False, False), (True, False), (True, True)],
    ids=["unmasked", "padded", "padded_causal"],
)
@pytest.mark.parametrize("memory_width", [None, D, 10], ids=["self", "cross", "cross_width"])
def test_multi_head_attention_equals_torch(memory_width, padded, causal):
    layer = MultiHeadAttention(D, N)
    inputs = random_inputs((B, T, D), *([(B, S, memory_width)] if memory_width else []))
    keys_valid = SOURCE_VALID if memory_width else TARGET_VALID
    keys = keys_valid.shape[1]
    mask = Mask.padding(keys_valid) if padded else None
    mask = Mask.causal() & mask if causal else mask
    params = random_params(layer, *inputs)
    sizes = dict(kdim=memory_width, vdim=memory_width)
    theirs = nn.MultiheadAttention(D, N, batch_first=True, **sizes)

    def call(module, x_q, x_kv=None):
        x_kv = x_q if x_kv is None else x_kv
        return module(
            x_q,
            x_kv,
            x_kv,
            key_padding_mask=torch.tensor(~keys_valid) if padded else None,
            attn_mask=torch.ones(T, keys, dtype=torch.bool).triu(1) if causal else None,
            average_attn_weights=False,
        )

    def ours(params, *inputs):
        return layer.apply({"params": params}, *inputs, mask=mask)

    assert_parity(ours, params, attention_names, theirs, lambda *inputs: call(*inputs)[0], *inputs)
    sow = jax.jit(functools.partial(layer.apply, mask=mask, mutable=["intermediates"]))
    _, sown = sow({"params": params}, *inputs)
    (weights,) = sown["intermediates"]["attention_weights"]
    want = call(theirs, *map(torch.tensor, inputs))[1].detach()
    np.testing.assert_allclose(weights, want, rtol=1e-5, atol=1e-6)


ACTIVATION_MODULES = {
    "relu": nn.ReLU(),
    "gelu": nn.GELU(),
    "gelu_tanh": nn.GELU(approximate="tanh"),
    "swish": nn.SiLU(),
}


@pytest.mark.parametrize("activation", ACTIVATION_MODULES)
def test_feed_forward_equals_torch(activation):
    layer = FeedForward(F, activation=activation)
    inputs = random_inputs((B, T, D))
    theirs = nn.ModuleDict({"linear1": nn.Linear(D, F), "linear2": nn.Linear(F, D)})

    def call(module, x):
        return module["linear2"](ACTIVATION_MODULES[activation](module["linear1"](x)))

    assert_parity(
        lambda params, x: layer.apply({"params": params}, x),
        random_params(layer, *inputs),
        feed_forward_names,
        theirs,
        call,
        *inputs,
    )


@VARIANTS
def test_encoder_equals_torch(stacked, norm_first, activation):
    options = dict(activation=activation, norm_first=norm_first)
    ours = EncoderLayer(D, N, F, norm_epsilon=EPSILON, **options)
    theirs = torch_layer(nn.TransformerEncoderLayer, **options)
    if stacked:
        ours, theirs = Encoder(ours, L), torch_stack(theirs)
    inputs = random_inputs((B, S, D))

    assert_parity(
        lambda params, x: ours.apply({"params": params}, x, mask=Mask.padding(SOURCE_VALID)),
        random_params(ours, *inputs),
        stack_names if stacked else layer_names,
        theirs,
        lambda module, x: module(x, src_key_padding_mask=SOURCE_PADS),
        *inputs,
    )


@VARIANTS
def test_decoder_equals_torch(stacked, norm_first, activation):
    options = dict(activation=activation, norm_first=norm_first)
    ours = DecoderLayer(D, N, F, norm_epsilon=EPSILON, **options)
    theirs = torch_layer(nn.TransformerDecoderLayer, **options)
    if stacked:
        ours, theirs = Decoder(ours, L), torch_stack(theirs)
    inputs = random_inputs((B, T, D), (B, S, D))
    mask, cross_mask = Mask.causal() & Mask.padding(TARGET_VALID), Mask.padding(SOURCE_VALID)

    def apply(params, x, encoded):
        return ours.apply({"params": params}, x, encoded, mask=mask, cross_mask=cross_mask)

    def call(module, x, encoded):
        pads = dict(tgt_key_padding_mask=TARGET_PADS, memory_key_padding_mask=SOURCE_PADS)
        return module(x, encoded, tgt_mask=LATER, **pads)

    names = stack_names if stacked else layer_names
    assert_parity(apply, random_params(ours, *inputs), names, theirs, call, *inputs)


def test_sinusoids_in_halves_equal_marian():
    places = 41
    theirs = MarianSinusoidalPositionalEmbedding(places, D)
    theirs.weight.data = theirs.create_weight()
    got = sinusoidal_positions(np.arange(places)[None], D, layout="halves")
    np.testing.assert_allclose(got[0], theirs((1, places)), rtol=0, atol=2e-6)

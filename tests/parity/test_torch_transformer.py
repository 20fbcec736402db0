"""The whole Transformer, its loss, gradients and training, against a PyTorch model."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch

from tests.parity.torch_modules import (
    PAD,
    SMOOTHING,
    B,
    D,
    F,
    L,
    N,
    S,
    T,
    TorchTransformer,
    V,
    assert_gradients_equal,
    gradients,
    load,
    random_params,
    transformer_names,
    valid,
)
from transformer_jax import Transformer, TransformerConfig
from transformer_jax.objectives.losses import label_smoothed_cross_entropy
from transformer_jax.training.optimizer import OptimizerConfig, make_optimizer
from transformer_jax.training.schedules import Noam
from transformer_jax.training.step import init_state, make_train_step

SIZES = dict(vocab_size=V, width=D, num_heads=N, feed_forward_dim=F)
PAPER = TransformerConfig(**SIZES, encoder_layers=L, decoder_layers=L, dropout_rate=0.0)
PRE_NORM = dataclasses.replace(PAPER, norm_first=True)
OTHER = dataclasses.replace(PRE_NORM, activation="gelu", attention_bias=True, sinusoids="halves")


def random_batch(seed):
    """Rows padded at the end, with the real tokens at other places in every batch."""
    rng = np.random.default_rng(seed)

    def tokens(size):
        lengths = [size, *rng.integers(1, size, B - 1)]
        return np.where(valid(lengths, size), rng.integers(1, V, (B, size)), PAD)

    source, inputs = tokens(S), tokens(T)
    targets = np.where(inputs == PAD, PAD, rng.integers(1, V, (B, T)))
    return {"source": source, "target_inputs": inputs, "targets": targets}


def to_torch(batch):
    return {name: torch.tensor(x) for name, x in batch.items()}


def both_models(config):
    model, tokens = Transformer(config), np.ones((1, 2), np.int32)
    params = random_params(model, tokens, tokens)
    return model, params, load(TorchTransformer(config), transformer_names(params))


def logits_of(model, params, batch):
    return model.apply(
        {"params": params},
        batch["source"],
        batch["target_inputs"],
        source_segments=(batch["source"] != PAD).astype(jnp.int32),
        target_segments=(batch["target_inputs"] != PAD).astype(jnp.int32),
    )


def loss_of(logits, batch):
    targets = batch["targets"]
    return label_smoothed_cross_entropy(logits, targets, targets != PAD, smoothing=SMOOTHING)


@pytest.mark.parametrize("config", [PAPER, OTHER], ids=["paper", "other"])
def test_transformer_equals_torch_in_logits_loss_and_gradients(config):
    model, params, theirs = both_models(config)
    batch = random_batch(0)

    def loss(params):
        logits = logits_of(model, params, batch)
        total, weight = loss_of(logits, batch)
        return total / weight, logits

    run = jax.jit(jax.value_and_grad(loss, has_aux=True))
    (got_loss, logits), grads = jax.device_get(run(params))
    want_loss = theirs.loss(to_torch(batch))
    want_loss.backward()
    real = batch["targets"] != PAD
    want_logits = theirs(to_torch(batch)).detach()
    np.testing.assert_allclose(logits[real], want_logits[real], rtol=1e-5, atol=5e-6)
    np.testing.assert_allclose(got_loss, want_loss.detach(), rtol=1e-6)
    assert_gradients_equal(transformer_names(grads), gradients(theirs))


def torch_optimizer(model, weight_decay):
    """Adam of the paper; with weight decay AdamW, which spares biases and layer norms."""
    adam = dict(lr=0.0, betas=(0.9, 0.98), eps=1e-9)
    if not weight_decay:
        return torch.optim.Adam(model.parameters(), **adam)
    matrices = [p for p in model.parameters() if p.ndim == 2]
    vectors = [p for p in model.parameters() if p.ndim == 1]
    groups = [
        {"params": matrices, "weight_decay": weight_decay},
        {"params": vectors, "weight_decay": 0.0},
    ]
    return torch.optim.AdamW(groups, **adam)


@pytest.mark.parametrize(
    "config, weight_decay", [(PAPER, 0.0), (PRE_NORM, 0.5)], ids=["adam", "adamw_pre_norm"]
)
def test_five_train_steps_equal_torch(config, weight_decay):
    steps, warmup, scale = 5, 3, 0.03
    model, params, theirs = both_models(config)
    schedule = Noam(width=D, warmup=warmup, scale=scale)
    optimizer = make_optimizer(
        OptimizerConfig(schedule, weight_decay=weight_decay, clip_norm=1.0), steps
    )

    def terms(params, batch, key):
        return {"token": loss_of(logits_of(model, params, batch), batch)}

    step = jax.jit(make_train_step(terms, {"token": 1.0}, optimizer))
    state = init_state(params, optimizer)
    reference = torch_optimizer(theirs, weight_decay)
    for n in range(1, steps + 1):
        batch = random_batch(n)
        state, metrics = step(state, batch, jax.random.key(0))
        reference.zero_grad()
        loss = theirs.loss(to_torch(batch))
        loss.backward()
        norm = torch.nn.utils.clip_grad_norm_(theirs.parameters(), 1.0)
        assert norm > 1.0  # so that each step is clipped
        for group in reference.param_groups:
            group["lr"] = scale * D**-0.5 * min(n**-0.5, n * warmup**-1.5)
        reference.step()
        np.testing.assert_allclose(metrics["loss"], loss.detach(), rtol=1e-6)
        np.testing.assert_allclose(metrics["grad_norm"], norm, rtol=5e-6)
    before, after = map(transformer_names, jax.device_get((params, state.params)))
    for name, want in theirs.named_parameters():
        assert np.abs(after[name] - before[name]).mean() > 1e-3, name  # far, beside 1e-5
        np.testing.assert_allclose(after[name], want.detach(), rtol=0, atol=1e-5, err_msg=name)

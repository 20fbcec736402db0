"""Token losses against the Kullback-Leibler form."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from transformer_jax.objectives.losses import label_smoothed_cross_entropy, token_accuracy

V = 7


def case(seed=0):
    rng = np.random.default_rng(seed)
    return rng.normal(size=(2, 3, V)) * 3, rng.integers(0, V, (2, 3)), rng.random((2, 3)) < 0.6


@pytest.mark.parametrize("smoothing", [0.0, 0.1, 0.5])
def test_equals_the_kl_form_plus_the_targets_entropy(smoothing):
    logits, targets, weights = case()
    log_p = logits - np.log(np.exp(logits).sum(-1, keepdims=True))
    q = np.full((2, 3, V), smoothing / V)
    np.put_along_axis(q, targets[..., None], 1 - smoothing + smoothing / V, -1)
    log_q = np.log(np.where(q > 0, q, 1.0))
    divergence = (q * (log_q - log_p)).sum(-1)
    entropy = -(q * log_q).sum(-1)
    total, weight = label_smoothed_cross_entropy(
        jnp.float32(logits), targets, weights, smoothing=smoothing
    )
    np.testing.assert_allclose(total, ((divergence + entropy) * weights).sum(), rtol=1e-5)
    assert weight == weights.sum()


def test_tokens_of_weight_zero_have_no_loss_and_no_gradient():
    logits, targets, weights = case()
    gradient = jax.grad(
        lambda x: label_smoothed_cross_entropy(x, targets, weights, smoothing=0.1)[0]
    )(jnp.float32(logits))
    assert not gradient[~weights].any()
    assert gradient[weights].any()


def test_gradient_is_softmax_minus_smoothed_target():
    logits, targets, _ = case()
    gradient = jax.grad(
        lambda x: label_smoothed_cross_entropy(x, targets, np.ones((2, 3)), smoothing=0.2)[0]
    )(jnp.float32(logits))
    q = np.full((2, 3, V), 0.2 / V)
    np.put_along_axis(q, targets[..., None], 0.8 + 0.2 / V, -1)
    np.testing.assert_allclose(gradient, jax.nn.softmax(logits) - q, atol=1e-5)


def test_large_logits_stay_finite():
    logits = jnp.array([[[1e4, -1e4, 0.0]]])
    total, _ = label_smoothed_cross_entropy(logits, jnp.array([[0]]), jnp.ones((1, 1)))
    assert total == 0.0


def test_accuracy_counts_weighted_hits():
    logits = jnp.array([[[0.0, 1.0], [1.0, 0.0], [0.0, 1.0]]])
    right, weight = token_accuracy(logits, jnp.array([[1, 1, 1]]), jnp.array([[1, 1, 0]]))
    assert (right, weight) == (1.0, 2.0)

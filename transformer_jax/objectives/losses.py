"""Token losses, each a sum and the weight that it is to be divided by."""

import jax
import jax.numpy as jnp

from transformer_jax.typing import Array


def label_smoothed_cross_entropy(
    logits: Array, targets: Array, weights: Array, *, smoothing: float = 0.0
) -> tuple[Array, Array]:
    """Cross-entropy against (1-e) one-hot + e uniform over all V tokens, in nats.

    Section 5.4 of arXiv:1706.03762, in the form of arXiv:1512.00567, section 7. Up to the entropy
    of the smoothed target, a constant, it is the Kullback-Leibler divergence.

    Args:
      logits: [B,T,V].
      targets: int [B,T].
      weights: [B,T], the weight of each token; 0 for padding.
      smoothing: e, in [0, 1).

    Returns:
      The weighted sum of the losses and the sum of the weights, float32 [], [].
    """
    logits = logits.astype(jnp.float32)
    weights = weights.astype(jnp.float32)
    normalizer = jax.nn.logsumexp(logits, axis=-1)
    # A comparison fuses into the pass over the logits; a gather would scatter in the gradient.
    is_target = jax.lax.broadcasted_iota(jnp.int32, logits.shape, 2) == targets[..., None]
    expected = (1.0 - smoothing) * jnp.sum(jnp.where(is_target, logits, 0.0), axis=-1)
    if smoothing:
        expected = expected + smoothing * jnp.mean(logits, axis=-1)
    return jnp.sum((normalizer - expected) * weights), jnp.sum(weights)


def token_accuracy(logits: Array, targets: Array, weights: Array) -> tuple[Array, Array]:
    """How often the best-scored token is the right one: [B,T,V], [B,T], [B,T] -> sum, weight."""
    weights = weights.astype(jnp.float32)
    right = (jnp.argmax(logits, axis=-1) == targets).astype(jnp.float32)
    return jnp.sum(right * weights), jnp.sum(weights)

"""Token losses from the states before the vocabulary product, whose result is never held whole."""

from collections.abc import Callable

import jax
import jax.numpy as jnp

from transformer_jax.objectives.losses import label_smoothed_cross_entropy, token_accuracy
from transformer_jax.typing import Array


def chunked_cross_entropy(
    states: Array, table: Array, bias: Array, targets: Array, weights: Array, *, chunk_size: int
) -> tuple[Array, Array]:
    """Cross-entropy of the logits states table^T + bias, in nats, without all of them at once.

    Only the logits of one chunk [B,chunk_size,V] live at a time, in the backward pass too, where
    they are computed again: a fourth product beside the three that the plain loss needs.

    The chunks are of the positions and not of the vocabulary, so that a table that is split by V
    stays where it is, and a batch that is split by B too; compiled for a TPU v5e, the table's
    gradient is summed over the devices once, after the loop. For 64 x 20 predictions, V 30,522 and
    D 768, value and gradient need 133 MB beside their result in chunks of 2 positions, 231 MB in
    chunks of 2,048 words, and 469 MB plain (float32, XLA on a CPU).

    Args:
      states: [B,P,D]; the product is in their dtype, its sums and the loss in float32.
      table: [V,D], a vector for each token.
      bias: [V].
      targets: int [B,P].
      weights: [B,P], the weight of each prediction; 0 for what is none.
      chunk_size: positions of each row that are scored at a time.

    Returns:
      The weighted sum of the losses and the sum of the weights, float32 [], [].
    """
    term = label_smoothed_cross_entropy
    return _sum_over_chunks(term, states, table, bias, targets, weights, chunk_size)


def chunked_token_accuracy(
    states: Array, table: Array, bias: Array, targets: Array, weights: Array, *, chunk_size: int
) -> tuple[Array, Array]:
    """How often the best-scored token is the right one, in chunks; takes what the loss takes."""
    return _sum_over_chunks(token_accuracy, states, table, bias, targets, weights, chunk_size)


def _sum_over_chunks(
    term: Callable[[Array, Array, Array], tuple[Array, Array]],
    states: Array,
    table: Array,
    bias: Array,
    targets: Array,
    weights: Array,
    chunk_size: int,
) -> tuple[Array, Array]:
    """Adds up term([B,chunk_size,V], [B,chunk_size], [B,chunk_size]) -> [], [] over the chunks."""
    if chunk_size < 1:
        raise ValueError(f"chunk_size={chunk_size} must be at least 1.")
    chunk_size = min(chunk_size, targets.shape[1])
    table = table.astype(states.dtype)

    def add(total: tuple[Array, Array], chunk: tuple[Array, Array, Array]) -> tuple:
        x, y, w = chunk
        logits = jnp.einsum("BPD,VD->BPV", x, table, preferred_element_type=jnp.float32) + bias
        value, weight = term(logits, y, w)
        return (total[0] + value, total[1] + weight), None

    chunks = jax.tree.map(lambda x: _cut(x, chunk_size), (states, targets, weights))
    zeros = (jnp.zeros((), jnp.float32), jnp.zeros((), jnp.float32))
    # A scan keeps XLA from merging the two computations, which prevent_cse would pay for.
    return jax.lax.scan(jax.checkpoint(add, prevent_cse=False), zeros, chunks)[0]


def _cut(x: Array, size: int) -> Array:
    """[B,P,...] -> [chunks,B,size,...], filled up with zeros, which weigh nothing."""
    batch, places = x.shape[:2]
    count = -(-places // size)
    x = jnp.pad(x, [(0, 0), (0, count * size - places)] + [(0, 0)] * (x.ndim - 2))
    return jnp.moveaxis(x.reshape(batch, count, size, *x.shape[2:]), 1, 0)

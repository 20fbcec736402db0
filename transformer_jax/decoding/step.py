"""The step function that every search is written over.

A search knows no model. It knows a pure function that reads one token in each row and answers
with the logits of the token after it:

    step(tokens [B] int32, cache, index [B] int32) -> (logits [B,V], cache)

`index` is the position that each row's token stands at: the start symbol is read at position 0, and
what is generated first is read at position 1. Rows that start together have equal positions, and
do until they stop. A search for `max_length` tokens reads positions 0 to `max_length - 1`, so a
key/value cache needs room for `max_length` positions.

The cache is any tree of arrays that changes from step to step and belongs to the rows. What stays
the same (parameters, the keys and values of the source, its mask) belongs into the closure.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from transformer_jax.decoding.token_rules import TokenRule
from transformer_jax.typing import Array

Cache = Any  # a tree of arrays, all with the rows on the same axis
StepFn = Callable[[Array, Cache, Array], tuple[Array, Cache]]


_BLOCK = 64  # tokens; a vocabulary of fewer than 16 blocks is ranked at once


def top_log_probs(
    logits: Array, count: int, rule: TokenRule | None = None, index: Array | int = 0
) -> tuple[Array, Array]:
    """The `count` best next tokens, best first: [...,V] -> log-probs, ids [...,count].

    Log-probabilities are float32, whatever the logits are. An id with a logit of -inf gets -inf,
    never NaN, even where all of them are impossible. Equal ones come in the order of their ids.
    `rule` is applied to the log-probabilities of the token that is generated after `index` others,
    an int for all or one for each row.
    """
    logits = logits.astype(jnp.float32)
    log_norm = jax.nn.logsumexp(logits, axis=-1, keepdims=True)
    if rule is None:
        # Ranking first and normalising only what is kept spares writing [...,V] log-probabilities.
        best, ids = top_k(logits, count)
        return jnp.where(best == -jnp.inf, -jnp.inf, best - log_norm), ids
    log_probs = jnp.where(logits == -jnp.inf, -jnp.inf, logits - log_norm)
    index = jnp.asarray(index)
    index = index.reshape(index.shape + (1,) * (logits.ndim - index.ndim))
    return top_k(rule(log_probs, index), count)


def top_k(values: Array, count: int) -> tuple[Array, Array]:
    """`jax.lax.top_k`, equal in results and several times faster where few of many are wanted.

    The `count` best lie in the `count` blocks of the best maxima, so only these are ranked.
    """
    size = values.shape[-1]
    blocks = -(-size // _BLOCK)
    if blocks < max(16, 4 * count):
        return jax.lax.top_k(values, count)
    padding = [(0, 0)] * (values.ndim - 1) + [(0, blocks * _BLOCK - size)]
    padded = jnp.pad(values, padding, constant_values=-jnp.inf)
    maxima = jnp.max(padded.reshape(*values.shape[:-1], blocks, _BLOCK), axis=-1)
    # In the order of their ids, so that of equal values the first comes first.
    chosen = jnp.sort(jax.lax.top_k(maxima, count)[1], axis=-1)
    ids = (chosen[..., None] * _BLOCK + jnp.arange(_BLOCK)).reshape(*values.shape[:-1], -1)
    best, at = jax.lax.top_k(
        jnp.take_along_axis(values, ids, axis=-1, mode="fill", fill_value=-jnp.inf), count
    )
    return best, jnp.minimum(jnp.take_along_axis(ids, at, axis=-1), size - 1)

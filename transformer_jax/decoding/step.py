"""The step function that every search is written over.

A search knows no model. It knows a pure function that reads one token in each row and answers
with the logits of the token after it:

    step(tokens [B] int32, cache, index [] int32) -> (logits [B,V], cache)

`index` is the position that `tokens` stand at: the start symbol is read at position 0, and what is
generated first is read at position 1. A search for `max_length` tokens reads positions 0 to
`max_length - 1`, so a key/value cache needs room for `max_length` positions.

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


def top_log_probs(
    logits: Array, count: int, rule: TokenRule | None = None, index: Array | int = 0
) -> tuple[Array, Array]:
    """The `count` best next tokens, best first: [...,V] -> log-probs, ids [...,count].

    Log-probabilities are float32, whatever the logits are. An id with a logit of -inf gets -inf,
    never NaN, even where all of them are impossible. `rule` is applied to the log-probabilities
    of the token that is generated after `index` others.
    """
    logits = logits.astype(jnp.float32)
    log_norm = jax.nn.logsumexp(logits, axis=-1, keepdims=True)
    if rule is None:
        # Ranking first and normalising only what is kept spares writing [...,V] log-probabilities.
        best, ids = jax.lax.top_k(logits, count)
        return jnp.where(best == -jnp.inf, -jnp.inf, best - log_norm), ids
    log_probs = jnp.where(logits == -jnp.inf, -jnp.inf, logits - log_norm)
    return jax.lax.top_k(rule(log_probs, jnp.asarray(index)), count)

"""Rules over the next token: what may not come, and what has to come.

A rule changes the log-probabilities of the next token. What it takes away is not shared out among
the other tokens, which is how `transformers` searches with beams: a rule never raises the score of
what it leaves alone.
"""

from collections.abc import Callable, Sequence

import jax.numpy as jnp
import numpy as np

from transformer_jax.typing import Array

# rule(log_probs [...,V] float32, index int32) -> [...,V]; `index`, which broadcasts with log_probs,
# counts the tokens that were generated before, so it is 0 for the first one.
TokenRule = Callable[[Array, Array], Array]


def suppress(ids: Sequence[int]) -> TokenRule:
    """These tokens never come ("bad words" of one token)."""
    forbidden = np.asarray(ids, np.int32)

    def rule(log_probs: Array, index: Array) -> Array:
        del index
        return log_probs.at[..., forbidden].set(-jnp.inf)

    return rule


def force_end(eos_id: int, max_length: int) -> TokenRule:
    """The last of `max_length` tokens is the end symbol, at no cost."""

    def rule(log_probs: Array, index: Array) -> Array:
        forced = jnp.where(jnp.arange(log_probs.shape[-1]) == eos_id, 0.0, -jnp.inf)
        return jnp.where(index == max_length - 1, forced, log_probs)

    return rule


def all_of(rules: Sequence[TokenRule]) -> TokenRule | None:
    """Applies one rule after the other; None where there are none."""

    def rule(log_probs: Array, index: Array) -> Array:
        for each in rules:
            log_probs = each(log_probs, index)
        return log_probs

    return rule if rules else None

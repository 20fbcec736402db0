"""The coverage penalty: a translation should have looked at all of its source."""

import jax.numpy as jnp

from transformer_jax.typing import Array


def coverage_penalty(attention: Array, valid: Array, beta: float) -> Array:
    """beta * sum_i log(min(sum_j p_ij, 1)) (arXiv:1609.08144, equation 14): -> [B,K], at most 0.

    Args:
      attention: float [B,K,S]; the attention weights that each source token has got, summed over
        the tokens of the hypothesis.
      valid: bool [B,S]; True where the source is real.
      beta: 0 is no penalty; 0.2 worked best in the paper.
    """
    # A token that was not looked at at all would forbid the hypothesis.
    got = jnp.clip(attention, 1e-9, 1.0)
    return beta * jnp.sum(jnp.where(valid[:, None], jnp.log(got), 0.0), axis=-1)

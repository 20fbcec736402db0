"""Rules that score a hypothesis by its log-probability and its length.

A sum of log-probabilities falls with every token, so it prefers short sequences; dividing it by
something that grows with the length makes up for that.
"""

from collections.abc import Callable

from transformer_jax.typing import Array

# score(log_prob, length) -> score. `log_prob` is the float32 sum of a hypothesis' log-probabilities
# (nats), `length` the int32 number of its generated tokens, at least 1: the end symbol counts, the
# start symbol does not. The two broadcast. A rule must not fall when log_prob rises, and must map
# -inf to -inf; how it depends on the length is free.
LengthScore = Callable[[Array, Array], Array]


def gnmt_length_penalty(alpha: float) -> LengthScore:
    """The rule log_prob / ((5 + length) / 6) ** alpha (arXiv:1609.08144, section 7, no coverage).

    With alpha 0 the score is the log-probability. "Attention Is All You Need" searches with
    alpha 0.6 and 4 beams (arXiv:1706.03762, section 6.1).
    """

    def score(log_prob: Array, length: Array) -> Array:
        return log_prob / ((5.0 + length) / 6.0) ** alpha

    return score


def length_penalty(alpha: float) -> LengthScore:
    """The rule log_prob / length ** alpha; with alpha 1 the mean log-probability of a token."""

    def score(log_prob: Array, length: Array) -> Array:
        return log_prob / (1.0 * length) ** alpha

    return score

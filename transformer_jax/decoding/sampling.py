"""Sampling: a random next token, again and again, from all of them or from the likely ones."""

import dataclasses

import jax
import jax.numpy as jnp

from transformer_jax.decoding.one_path import Choose, PathResult, PathSearch
from transformer_jax.decoding.step import Cache, StepFn, top_log_probs
from transformer_jax.decoding.token_rules import TokenRule
from transformer_jax.typing import Array


@dataclasses.dataclass(frozen=True)
class Sampling:
    """What is drawn from, in this order.

    Attributes:
      temperature: divides the log-probabilities; below 1 the likely becomes likelier.
      top_k: leaves the so many likeliest tokens (arXiv:1805.04833, section 5.4); None: all.
      top_p: leaves the fewest likeliest tokens that have so much probability together ("nucleus",
        arXiv:1904.09751, section 3.1).
    """

    temperature: float = 1.0
    top_k: int | None = None
    top_p: float = 1.0

    def __post_init__(self) -> None:
        if not self.temperature > 0.0:
            raise ValueError(f"temperature={self.temperature} must be above 0.")
        if self.top_k is not None and self.top_k < 1:
            raise ValueError(f"top_k={self.top_k} must be at least 1.")
        if not 0.0 < self.top_p <= 1.0:
            raise ValueError(f"top_p={self.top_p} must be above 0 and at most 1.")


def sampled_choice(key: Array, sampling: Sampling, rule: TokenRule | None = None) -> Choose:
    """Draws a token; its log-probability is the model's, whatever was drawn from."""

    def choose(logits: Array, index: Array, time: Array) -> tuple[Array, Array]:
        count = min(sampling.top_k or logits.shape[-1], logits.shape[-1])
        log_probs, ids = top_log_probs(logits, count, rule, index)  # [B,count], falling
        drawn = jax.random.categorical(
            jax.random.fold_in(key, time), likely(log_probs / sampling.temperature, sampling.top_p)
        )[:, None]
        return _pick(log_probs, drawn), _pick(ids, drawn)

    return choose


def sample(
    step: StepFn,
    cache: Cache,
    key: Array,
    *,
    batch_size: int,
    bos_id: int,
    eos_id: int,
    pad_id: int = 0,
    max_length: int,
    sampling: Sampling = Sampling(),
    rule: TokenRule | None = None,
) -> PathResult:
    """Draws a sequence for each row; the scores are the model's, whatever was drawn from.

    Args:
        step, cache, batch_size, bos_id, eos_id, pad_id, max_length, rule: see `greedy_search`.
        key: of the random draws; equal keys give equal sequences.
        sampling: what is drawn from.

    Raises:
        ValueError: `max_length` is less than 1.
    """
    search = PathSearch(sampled_choice(key, sampling, rule), bos_id, eos_id, pad_id, max_length)
    return search.run(step, cache, batch_size)


def likely(logits: Array, top_p: float) -> Array:
    """Falling logits [...,V], with -inf after the first that have `top_p` together."""
    if top_p >= 1.0:
        return logits
    probs = jax.nn.softmax(logits, axis=-1)
    before = jnp.cumsum(probs, axis=-1) - probs
    return jnp.where(before < top_p, logits, -jnp.inf)


def _pick(values: Array, at: Array) -> Array:
    return jnp.take_along_axis(values, at, axis=-1)[:, 0]

"""Greedy search: the most likely next token, again and again."""

from transformer_jax.decoding.one_path import Choose, PathResult, PathSearch
from transformer_jax.decoding.step import Cache, StepFn, top_log_probs
from transformer_jax.decoding.token_rules import TokenRule
from transformer_jax.typing import Array


def greedy_choice(rule: TokenRule | None = None) -> Choose:
    """Chooses the most likely token; of equal ones that with the smaller id."""

    def choose(logits: Array, index: Array, time: Array) -> tuple[Array, Array]:
        del time
        log_probs, ids = top_log_probs(logits, 1, rule, index)
        return log_probs[:, 0], ids[:, 0]

    return choose


def greedy_search(
    step: StepFn,
    cache: Cache,
    *,
    batch_size: int,
    bos_id: int,
    eos_id: int,
    pad_id: int = 0,
    max_length: int,
    rule: TokenRule | None = None,
) -> PathResult:
    """Follows the most likely token in each row until all rows have ended, or T = `max_length`.

    Args:
        step: the step function, see `transformer_jax.decoding.step`.
        cache: what `step` keeps for its B rows before the first token is read.
        batch_size: B.
        bos_id: the token that is read first.
        eos_id: the token that ends a sequence.
        pad_id: fills what follows the end, and is what an ended row reads.
        max_length: T, the most tokens that are generated, the end symbol included.
        rule: what may not come and what has to, see `transformer_jax.decoding.token_rules`.

    Equal log-probabilities go to the smaller id. Shapes are static: it runs under `jax.jit`.

    Raises:
        ValueError: `max_length` is less than 1.
    """
    search = PathSearch(greedy_choice(rule), bos_id, eos_id, pad_id, max_length)
    return search.run(step, cache, batch_size)

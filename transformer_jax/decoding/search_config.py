"""What to search for, as data: which search, which scoring rule, which tokens."""

from __future__ import annotations

import dataclasses
from typing import Literal

from transformer_jax.decoding.beam import EarlyStopping
from transformer_jax.decoding.length_score import LengthScore, gnmt_length_penalty, length_penalty
from transformer_jax.decoding.sampling import Sampling
from transformer_jax.decoding.token_rules import TokenRule, all_of, force_end, suppress

LengthRule = Literal["gnmt", "plain"]


@dataclasses.dataclass(frozen=True)
class SearchConfig:
    """A search; the defaults are those of "Attention Is All You Need" (section 6.1).

    Attributes:
      beam_size: hypotheses K of a beam search; 1 is greedy search. With `sampling` so many samples.
      length_rule: "gnmt" divides log-probabilities by ((5 + length) / 6)^alpha
        (arXiv:1609.08144), "plain" by length^alpha, as `transformers` does.
      length_penalty: alpha.
      early_stopping: see `transformer_jax.decoding.beam.EarlyStopping`.
      coverage_penalty: beta of equation 14 of arXiv:1609.08144; 0 is none.
      sampling: draws at random from this instead of searching.
      max_length: the most tokens of a translation, its end included; None: 50 more than the source.
      suppressed: tokens that never come.
      force_end: makes the last of max_length tokens the end symbol, at no cost.
    """

    beam_size: int = 4
    length_rule: LengthRule = "gnmt"
    length_penalty: float = 0.6
    early_stopping: EarlyStopping = "never"
    coverage_penalty: float = 0.0
    sampling: Sampling | None = None
    max_length: int | None = None
    suppressed: tuple[int, ...] = ()
    force_end: bool = False

    def __post_init__(self) -> None:
        if self.beam_size < 1:
            raise ValueError(f"beam_size={self.beam_size} must be at least 1.")
        if self.coverage_penalty < 0.0:
            raise ValueError(f"coverage_penalty={self.coverage_penalty} must not be below 0.")
        if self.max_length is not None and self.max_length < 1:
            raise ValueError(f"max_length={self.max_length} must be at least 1.")

    @property
    def is_beam(self) -> bool:
        """A beam search; else one token after the other, the best one or a random one."""
        return self.beam_size > 1 and self.sampling is None

    def score(self) -> LengthScore:
        """The scoring rule."""
        rule = gnmt_length_penalty if self.length_rule == "gnmt" else length_penalty
        return rule(self.length_penalty)

    def rule(self, eos_id: int, max_length: int) -> TokenRule | None:
        """What may not come and what has to."""
        rules = [suppress(self.suppressed)] if self.suppressed else []
        if self.force_end:
            rules.append(force_end(eos_id, max_length))
        return all_of(rules)

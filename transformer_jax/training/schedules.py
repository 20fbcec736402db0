"""Learning rates as functions of the step; step 0 is the first update."""

from __future__ import annotations

import dataclasses

import jax.numpy as jnp
import optax

from transformer_jax.typing import Array


@dataclasses.dataclass(frozen=True)
class Noam:
    """scale * D^-0.5 * min(n^-0.5, n * warmup^-1.5), n = step + 1 (arXiv:1706.03762, section 5.3).

    Attributes:
      width: width D of the model.
      warmup: updates of linear growth.
      scale: factor on the whole.
    """

    width: int = 512
    warmup: int = 4000
    scale: float = 1.0

    def __post_init__(self) -> None:
        if self.width < 1 or self.warmup < 1:
            raise ValueError(
                f"schedule.width={self.width} and warmup={self.warmup} must be at least 1."
            )

    def build(self, steps: int) -> optax.Schedule:
        """The schedule; its horizon plays no part."""
        del steps

        def schedule(step: Array) -> Array:
            n = jnp.asarray(step, jnp.float32) + 1
            return self.scale * self.width**-0.5 * jnp.minimum(n**-0.5, n * self.warmup**-1.5)

        return schedule


@dataclasses.dataclass(frozen=True)
class WarmupLinear:
    """Linear growth to the peak, then linear decay to zero at the horizon (arXiv:1810.04805, A.2).

    Attributes:
      peak: the largest learning rate.
      warmup: updates of linear growth.
    """

    peak: float = 1e-3
    warmup: int = 1000

    def build(self, steps: int) -> optax.Schedule:
        """The schedule over `steps` updates."""
        warmup = min(self.warmup, steps)

        def schedule(step: Array) -> Array:
            n = jnp.asarray(step, jnp.float32) + 1
            left = (steps + 1 - n) / max(steps + 1 - warmup, 1)
            return self.peak * jnp.clip(jnp.minimum(n / max(warmup, 1), left), 0.0, 1.0)

        return schedule


@dataclasses.dataclass(frozen=True)
class WarmupPolynomial:
    """Linear growth to the peak, then end + (peak - end) * left^power.

    `left` falls linearly from 1 at the peak to 0 at the horizon; with power 1 and end 0 this is
    `WarmupLinear`. The code of BERT, ALBERT and LAMB (google-research/bert and albert,
    optimization.py; NVIDIA's PolyWarmUpScheduler) counts the decay from the first update on: then
    `left` is 1 - (n - 1) / steps at update n, and the rate jumps down where the warm-up ends.

    Attributes:
      peak: the largest learning rate.
      warmup: updates of linear growth.
      power: 1 for a line (BERT, ALBERT), 0.5 for a square root (NVIDIA's LAMB recipe).
      end: the learning rate at the horizon.
      from_first: whether the decay counts from the first update, and not from the peak.
    """

    peak: float = 1e-3
    warmup: int = 1000
    power: float = 1.0
    end: float = 0.0
    from_first: bool = False

    def __post_init__(self) -> None:
        if self.power <= 0:
            raise ValueError(f"schedule.power={self.power} must be positive.")
        if not 0 <= self.end <= self.peak:
            raise ValueError(f"schedule.end={self.end} must be in [0, schedule.peak={self.peak}].")

    def build(self, steps: int) -> optax.Schedule:
        """The schedule over `steps` updates."""
        warmup = min(self.warmup, steps)

        def schedule(step: Array) -> Array:
            n = jnp.asarray(step, jnp.float32) + 1
            span = steps if self.from_first else max(steps + 1 - warmup, 1)
            left = jnp.clip((steps + 1 - n) / span, 0.0, 1.0)
            falling = self.end + (self.peak - self.end) * left**self.power
            growing = self.peak * n / max(warmup, 1)
            if self.from_first:
                return jnp.where(n <= warmup, growing, falling)
            return jnp.minimum(growing, falling)

        return schedule


@dataclasses.dataclass(frozen=True)
class WarmupCosine:
    """Linear growth to the peak, then half a cosine to zero at the horizon (arXiv:1608.03983).

    Attributes:
      peak: the largest learning rate.
      warmup: updates of linear growth.
    """

    peak: float = 1e-3
    warmup: int = 1000

    def build(self, steps: int) -> optax.Schedule:
        """The schedule over `steps` updates."""
        warmup = min(self.warmup, steps)

        def schedule(step: Array) -> Array:
            n = jnp.asarray(step, jnp.float32) + 1
            done = jnp.clip((n - warmup) / max(steps + 1 - warmup, 1), 0.0, 1.0)
            falling = 0.5 * (1.0 + jnp.cos(jnp.pi * done))
            return self.peak * jnp.minimum(n / max(warmup, 1), falling)

        return schedule


@dataclasses.dataclass(frozen=True)
class InverseSqrt:
    """Linear growth to the peak, then peak * sqrt(warmup / n): Noam with its peak written out.

    Attributes:
      peak: the largest learning rate.
      warmup: updates of linear growth.
    """

    peak: float = 1e-3
    warmup: int = 4000

    def build(self, steps: int) -> optax.Schedule:
        """The schedule; its horizon plays no part."""
        del steps
        warmup = max(self.warmup, 1)

        def schedule(step: Array) -> Array:
            n = jnp.asarray(step, jnp.float32) + 1
            return self.peak * jnp.minimum(n / warmup, jnp.sqrt(warmup / n))

        return schedule


Schedule = Noam | WarmupLinear | WarmupPolynomial | WarmupCosine | InverseSqrt

"""Which updates are made: none of numbers that are not finite, none of a spike or of no weight."""

from __future__ import annotations

import flax.struct
import jax.numpy as jnp

from transformer_jax.typing import Array

WINDOW = 128  # steps that a spike is measured by
ENOUGH = 64  # of them, before which nothing is a spike


class Guard(flax.struct.PyTreeNode):
    """What the train step remembers of the steps before.

    Attributes:
      updates: int32 [], how many were made; what the optimizer's schedule counts.
      skipped: int32 [], how many were not, because of their numbers.
      in_a_row: int32 [], how many of these since the last update.
      recent: float32 [2,128], loss and gradient norm of the last steps that had weight and finite
        ones, the newest last; where there was none yet, -1.
    """

    updates: Array
    skipped: Array
    in_a_row: Array
    recent: Array


def new_guard() -> Guard:
    """Before the first step."""
    return Guard(
        updates=jnp.zeros((), jnp.int32),  # each its own array, as a step donates them all
        skipped=jnp.zeros((), jnp.int32),
        in_a_row=jnp.zeros((), jnp.int32),
        recent=jnp.full((2, WINDOW), -1.0, jnp.float32),
    )


def decide(
    guard: Guard, loss: Array, norm: Array, has_weight: Array, sigmas: float | None
) -> tuple[Array, Guard]:
    """Whether an update is made, and what is remembered of it.

    It is not where the loss or the gradient norm is not finite, or above the mean of the steps in
    the window by more than `sigmas` of their standard deviations. As in OLMo-core's
    SkipStepOptimizer the spike itself comes into the window, so that a loss that stays where it
    has jumped to is none for long; unlike there, a low loss is no spike, and what is not finite
    stays out. An update without weight is not made either, and counts for nothing.

    Args:
      guard: of the steps before.
      loss: float [].
      norm: of the gradient, float [].
      has_weight: bool [], whether a term that is trained on has any.
      sigmas: None: nothing is a spike.

    Returns:
      bool [], and the guard of the next step.
    """
    now = jnp.stack([loss, norm]).astype(jnp.float32)
    finite = jnp.isfinite(now).all()
    good = finite
    if sigmas is not None:
        good &= ~(has_weight & _is_spike(guard.recent, now, sigmas))
    made = good & has_weight
    newer = jnp.concatenate([guard.recent[:, 1:], now[:, None]], axis=1)
    after = Guard(
        updates=guard.updates + made,
        skipped=guard.skipped + ~good,
        in_a_row=jnp.where(made, 0, guard.in_a_row + ~good),
        recent=jnp.where(finite & has_weight, newer, guard.recent),
    )
    return made, after


def _is_spike(recent: Array, now: Array, sigmas: float) -> Array:
    """Whether the loss or the norm [2] is far above those of the window [2,128]."""
    there = recent[1] >= 0
    mean = jnp.mean(recent, axis=1, where=there)
    deviation = jnp.std(recent, axis=1, where=there, ddof=1)
    return (jnp.sum(there) >= ENOUGH) & (now > mean + sigmas * deviation).any()

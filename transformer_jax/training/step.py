"""The train step: a pure function from state and batch to state and metrics."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import flax.struct
import jax
import jax.numpy as jnp
import optax
from jax.sharding import Mesh

from transformer_jax.parallel.sharding import Rules, shardings
from transformer_jax.training.gradient import TermsFn, make_gradient
from transformer_jax.training.guard import Guard, decide, new_guard
from transformer_jax.typing import Array, Batch, Metrics, Params


class TrainState(flax.struct.PyTreeNode):
    """All that changes in training.

    Attributes:
      step: int32 [], how many batches were seen, whether or not they made an update.
      params: what is trained.
      opt_state: the optimizer's.
      guard: which updates were made.
    """

    step: Array
    params: Params
    opt_state: optax.OptState
    guard: Guard


def init_state(params: Params, optimizer: optax.GradientTransformation) -> TrainState:
    """The state before the first update."""
    return TrainState(jnp.zeros((), jnp.int32), params, optimizer.init(params), new_guard())


def state_layout(state: TrainState, mesh: Mesh, rules: Rules) -> TrainState:
    """Where each array of a state (or its shapes) lives: a task's rules, copies of the guard."""
    return shardings(state, mesh, ((r"^guard/", ()), *rules))


def make_train_step(
    terms_fn: TermsFn,
    coefficients: Mapping[str, float],
    optimizer: optax.GradientTransformation,
    *,
    microbatches: int = 1,
    copies: Mesh | None = None,
    spike_sigmas: float | None = None,
) -> Callable[[TrainState, Batch, Array], tuple[TrainState, Metrics]]:
    """Makes `train_step(state, batch, key) -> (state, metrics)`.

    An update whose loss or gradient norm is not finite is skipped, and one whose trained terms all
    have weight 0 is none: parameters and optimizer state stay bitwise as they are. See `guard`.

    Args:
      terms_fn: the objective; this and the other arguments of the gradient as in `make_gradient`.
      coefficients: for each of its terms that is trained on.
      optimizer: an optax transformation.
      microbatches: parts that the batch is cut into, one after the other; must divide its rows.
      copies: a mesh whose `data` axis has copies of the model.
      spike_sigmas: also skips an update whose loss or gradient norm is so many standard deviations
        above the mean of the last 128; None skips none for that.

    Returns:
      The step. Its metrics are the loss, each term's mean, its gradient's norm before clipping;
      `updates`, that were made before this step; `skipped` and `skipped_in_a_row`, with this step.

    Raises:
      UserError: the mesh has copies, and more than one axis more.
    """
    gradient = make_gradient(terms_fn, coefficients, microbatches=microbatches, copies=copies)
    trained = [name for name, coefficient in coefficients.items() if coefficient]

    def train_step(state: TrainState, batch: Batch, key: Array) -> tuple[TrainState, Metrics]:
        key = jax.random.fold_in(key, state.step)  # from seed and step: a resumed run repeats it
        loss, means, weights, grads = gradient(state.params, batch, key)
        norm = optax.tree.norm(grads)
        has_weight = jnp.asarray(sum(weights[name] for name in trained)) > 0
        made, guard = decide(state.guard, loss, norm, has_weight, spike_sigmas)
        updates, opt_state = optimizer.update(grads, state.opt_state, state.params)
        new = (optax.apply_updates(state.params, updates), opt_state)
        # Not lax.cond, which keeps fewer copies: with it the 8 devices of a CPU waited for one
        # another in different sums, for ever.
        old = (state.params, state.opt_state)
        params, opt_state = jax.tree.map(lambda x, y: jnp.where(made, x, y), new, old)
        metrics = means | {
            "loss": loss,
            "grad_norm": norm,
            "updates": state.guard.updates,
            "skipped": guard.skipped,
            "skipped_in_a_row": guard.in_a_row,
        }
        return TrainState(state.step + 1, params, opt_state, guard), metrics

    return train_step

"""The train step: a pure function from state and batch to state and metrics."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import flax.struct
import jax
import jax.numpy as jnp
import optax
from jax.sharding import Mesh, PartitionSpec

from transformer_jax.errors import UserError
from transformer_jax.parallel.sharding import Rules, shardings
from transformer_jax.training.guard import Guard, decide, new_guard
from transformer_jax.typing import Array, Batch, Metrics, Params, Terms

# (params, batch, key) -> {name: (sum, weight)}; the weights depend on the batch and key alone.
TermsFn = Callable[[Params, Batch, Array], Terms]


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

    The loss is the sum over the terms of coefficient * sum / weight, with sums and weights of the
    whole batch. The weights are known before the first gradient, so microbatches and devices add
    up to exactly the gradient of the whole batch, however uneven their weights are.

    An update whose loss or gradient norm is not finite is skipped, and one whose trained terms all
    have weight 0 is none: parameters and optimizer state stay bitwise as they are. See `guard`.

    Args:
      terms_fn: the objective.
      coefficients: for each of its terms that is trained on.
      optimizer: an optax transformation.
      microbatches: parts that the batch is cut into, one after the other; must divide its rows.
      copies: a mesh whose `data` axis has copies of the model, which add up their gradients after
        the last microbatch, not after each. Each copy has a key of its own.
      spike_sigmas: also skips an update whose loss or gradient norm is so many standard deviations
        above the mean of the last 128; None skips none for that.

    Returns:
      The step. Its metrics are the loss, each term's mean, its gradient's norm before clipping;
      `updates`, that were made before this step; `skipped` and `skipped_in_a_row`, with this step.

    Raises:
      UserError: the mesh has copies, and more than one axis more.
    """
    if copies is not None:
        _check_copies(copies)
    trained = [name for name, coefficient in coefficients.items() if coefficient]

    def loss_fn(
        params: Params, batch: Batch, key: Array, weights: Metrics | None
    ) -> tuple[Array, tuple[Metrics, Metrics]]:
        terms = terms_fn(params, batch, key)
        mine = _weights(terms)
        if weights is None:
            weights = _not_zero(mine)
        means = {name: total / weights[name] for name, (total, _) in terms.items()}
        return sum(c * means[name] for name, c in coefficients.items()), (means, mine)

    gradient = jax.value_and_grad(loss_fn, has_aux=True)

    def accumulate(params: Params, batch: Batch, key: Array, over: tuple[str, ...]) -> Any:
        parts = _split(batch, microbatches)
        keys = jax.random.split(key, microbatches)

        def weigh(part: tuple[Batch, Array]) -> Metrics:
            return _weights(terms_fn(params, *part))  # XLA drops all of the pass but the weights

        counted = jax.tree.map(jnp.sum, jax.lax.map(weigh, (parts, keys)))
        weights = _not_zero(jax.lax.psum(counted, over))

        def add(total: Any, part: tuple[Batch, Array]) -> tuple[Any, None]:
            return jax.tree.map(jnp.add, total, gradient(params, *part, weights)), None

        first = jax.tree.map(lambda x: x[0], (parts, keys))
        shape = jax.eval_shape(gradient, params, *first, weights)
        zeros = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), shape)
        return jax.lax.psum(jax.lax.scan(add, zeros, (parts, keys))[0], over)

    def accumulate_apart(params: Params, batch: Batch, key: Array) -> Any:
        def local(params: Params, batch: Batch, key: Array) -> Any:
            key = jax.random.fold_in(key, jax.lax.axis_index("data"))
            return accumulate(params, batch, key, ("data",))

        assert copies is not None
        rows, whole = PartitionSpec("data"), PartitionSpec()
        # Axes of one device too, as a program that is left with none is compiled sooner.
        apart = {"data"} | {name for name, size in copies.shape.items() if size == 1}
        return jax.shard_map(
            local,
            mesh=copies,
            in_specs=(whole, rows, whole),
            out_specs=whole,
            axis_names=apart,
            check_vma=False,  # or each gradient is summed at once
        )(params, batch, key)

    def train_step(state: TrainState, batch: Batch, key: Array) -> tuple[TrainState, Metrics]:
        key = jax.random.fold_in(key, state.step)  # from seed and step: a resumed run repeats it
        if copies is not None and copies.shape["data"] > 1:
            (loss, (means, weights)), grads = accumulate_apart(state.params, batch, key)
        elif microbatches > 1:
            (loss, (means, weights)), grads = accumulate(state.params, batch, key, ())
        else:
            (loss, (means, weights)), grads = gradient(state.params, batch, key, None)
        norm = optax.tree.norm(grads)
        has_weight = sum(weights[name] for name in trained) > 0
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


def _check_copies(mesh: Mesh) -> None:
    others = [f"mesh.{name}={n}" for name, n in mesh.shape.items() if n > 1 and name != "data"]
    if mesh.shape["data"] > 1 and len(others) > 1:  # XLA ends the process by a failed check
        raise UserError(
            f"train.sum_once goes with mesh.data and one axis more, not with "
            f"{' and '.join(others)}. Leave it out, or one of these."
        )


def _weights(terms: Terms) -> dict[str, Array]:
    return {name: jax.lax.stop_gradient(weight) for name, (_, weight) in terms.items()}


def _not_zero(weights: Any) -> Any:
    return jax.tree.map(lambda w: jnp.where(w > 0, w, 1.0), weights)


def _split(batch: Batch, parts: int) -> Batch:
    """[B,...] -> [parts,B/parts,...]; each part takes rows from every device's slice."""

    def split(x: Array) -> Array:
        return jnp.swapaxes(x.reshape(x.shape[0] // parts, parts, *x.shape[1:]), 0, 1)

    return jax.tree.map(split, batch)

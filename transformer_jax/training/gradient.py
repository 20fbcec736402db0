"""The gradient of a whole batch, however it is cut into microbatches and over copies of a model."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.sharding import Mesh, PartitionSpec

from transformer_jax.errors import UserError
from transformer_jax.typing import Array, Batch, Metrics, Params, Terms

# (params, batch, key) -> {name: (sum, weight)}; the weights depend on the batch and key alone.
TermsFn = Callable[[Params, Batch, Array], Terms]


class Gradient(NamedTuple):
    """What one pass over a batch gives.

    Attributes:
      loss: [], the sum over the terms of coefficient * mean.
      means: of each term, [].
      weights: of each term, [].
      grads: of the loss, as the parameters.
    """

    loss: Array
    means: dict[str, Array]
    weights: dict[str, Array]
    grads: Params


def make_gradient(
    terms_fn: TermsFn,
    coefficients: Mapping[str, float],
    *,
    microbatches: int = 1,
    copies: Mesh | None = None,
) -> Callable[[Params, Batch, Array], Gradient]:
    """Makes `gradient(params, batch, key) -> Gradient`.

    The loss is the sum over the terms of coefficient * sum / weight, with sums and weights of the
    whole batch. The weights are known before the first gradient, so microbatches and devices add
    up to exactly the gradient of the whole batch, however uneven their weights are.

    Args:
      terms_fn: the objective.
      coefficients: for each of its terms that is trained on.
      microbatches: parts that the batch is cut into, one after the other; must divide its rows.
      copies: a mesh whose `data` axis has copies of the model, which add up their gradients after
        the last microbatch, not after each. Each copy has a key of its own.

    Raises:
      UserError: the mesh has copies, and more than one axis more.
    """
    if copies is not None:
        _check_copies(copies)

    def loss_fn(
        params: Params, batch: Batch, key: Array, weights: Metrics | None
    ) -> tuple[Array, tuple[dict[str, Array], dict[str, Array]]]:
        terms = terms_fn(params, batch, key)
        mine = _weights(terms)
        if weights is None:
            weights = _not_zero(mine)
        means = {name: total / weights[name] for name, (total, _) in terms.items()}
        return sum(c * means[name] for name, c in coefficients.items()), (means, mine)

    def of_part(params: Params, batch: Batch, key: Array, weights: Metrics | None) -> Gradient:
        value_and_grad = jax.value_and_grad(loss_fn, has_aux=True)
        (loss, (means, mine)), grads = value_and_grad(params, batch, key, weights)
        return Gradient(loss, means, mine, grads)

    def of_parts(params: Params, batch: Batch, key: Array, over: tuple[str, ...]) -> Gradient:
        parts = _split(batch, microbatches)
        keys = jax.random.split(key, microbatches)

        def weigh(part: tuple[Batch, Array]) -> Metrics:
            return _weights(terms_fn(params, *part))  # XLA drops all of the pass but the weights

        counted = jax.tree.map(jnp.sum, jax.lax.map(weigh, (parts, keys)))
        weights = _not_zero(jax.lax.psum(counted, over))

        def add(total: Gradient, part: tuple[Batch, Array]) -> tuple[Gradient, None]:
            return jax.tree.map(jnp.add, total, of_part(params, *part, weights)), None

        first = jax.tree.map(lambda x: x[0], (parts, keys))
        shape = jax.eval_shape(of_part, params, *first, weights)
        zeros = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), shape)
        return jax.lax.psum(jax.lax.scan(add, zeros, (parts, keys))[0], over)

    def of_copies(params: Params, batch: Batch, key: Array) -> Gradient:
        def local(params: Params, batch: Batch, key: Array) -> Gradient:
            key = jax.random.fold_in(key, jax.lax.axis_index("data"))
            return of_parts(params, batch, key, ("data",))

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

    def gradient(params: Params, batch: Batch, key: Array) -> Gradient:
        if copies is not None and copies.shape["data"] > 1:
            return of_copies(params, batch, key)
        if microbatches > 1:
            return of_parts(params, batch, key, ())
        return of_part(params, batch, key, None)

    return gradient


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

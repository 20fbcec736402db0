"""How many operations the products of a step take: the work that its model asks for."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Iterator
from typing import Any

import jax
from jax.extend.core import ClosedJaxpr, Jaxpr

from transformer_jax.training.config import ExperimentConfig

# What computes the same with less memory, and would have its repetitions counted.
_PLAIN = {"remat": "none", "attention": "dense", "score_chunk": None}


def plain(config: ExperimentConfig) -> ExperimentConfig:
    """The config without recomputation: whose products are those that the model asks for."""
    train = dataclasses.replace(config.train, microbatches=1)
    model, task = (_changed(part) for part in (config.model, config.task))
    return dataclasses.replace(config, train=train, model=model, task=task)


def model_flops(terms: Callable, coefficients: dict[str, float], *arguments: Any) -> float:
    """Of the products of the loss and its gradient, 2 for each multiplication and addition.

    What is elementwise is not counted, nor what the optimizer does.

    Args:
      terms: `Task.loss_terms`; it should recompute nothing, see `plain`.
      coefficients: of the terms that are trained on.
      *arguments: parameters, batch and key, as shapes.
    """

    def loss(params: Any, batch: Any, key: Any) -> jax.Array:
        found = terms(params, batch, key)
        return sum(c * found[k][0] for k, c in coefficients.items())

    return count_flops(jax.make_jaxpr(jax.grad(loss))(*arguments))


def count_flops(traced: ClosedJaxpr | Jaxpr) -> float:
    """Of all products in a traced function, those of a scan times its length.

    The shapes are global, but for those within a shard_map, which run on each of its devices: so
    the result is that of all devices.
    """
    jaxpr = traced.jaxpr if isinstance(traced, ClosedJaxpr) else traced
    total = 0.0
    for equation in jaxpr.eqns:
        if equation.primitive.name == "dot_general":
            total += _product(equation)
        inner = sum(count_flops(part) for part in _inner(equation.params))
        total += inner * _runs(equation) if inner else 0.0
    return total


def _runs(equation: Any) -> int:
    """How often what an equation holds is run."""
    if equation.primitive.name == "shard_map":
        mesh, axes = (equation.params[name] for name in ("mesh", "newly_manual_axes"))
        return math.prod(mesh.shape[name] for name in axes)
    return equation.params.get("length", 1)


def _product(equation: Any) -> float:
    (summed, _), _ = equation.params["dimension_numbers"]
    left, result = equation.invars[0].aval.shape, equation.outvars[0].aval.shape
    return 2.0 * math.prod(result) * math.prod(left[d] for d in summed)


def _inner(params: dict[str, Any]) -> Iterator[ClosedJaxpr | Jaxpr]:
    for value in params.values():
        parts = value if isinstance(value, tuple | list) else (value,)
        yield from (part for part in parts if isinstance(part, ClosedJaxpr | Jaxpr))


def _changed(settings: Any) -> Any:
    fields = {field.name for field in dataclasses.fields(settings)}
    return dataclasses.replace(settings, **{k: v for k, v in _PLAIN.items() if k in fields})

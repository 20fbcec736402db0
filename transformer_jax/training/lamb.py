"""LAMB's trust ratio, per layer and tensor also where the layers are stacked."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import optax

from transformer_jax.typing import Array


def scale_by_trust_ratio() -> optax.GradientTransformation:
    """Scales each tensor's update to the tensor's own norm (arXiv:1904.00962, algorithm 2).

    The ratio is norm(parameter) / norm(update), or 1 where either is 0; the paper's phi is the
    identity. Comes after Adam and the weight decay, before the learning rate. A leaf under a key
    "layer" is a stack [L,...], see `transformer_jax.layers.stacks`: it has L ratios, one for each
    layer. Shared layers (ALBERT) are under "shared_layer" and have one.
    """

    def scale(path: Any, update: Array, param: Array) -> Array:
        stacked = jax.tree_util.DictKey("layer") in path
        axes = tuple(range(int(stacked), param.ndim))
        return update * _trust_ratio(_norm(param, axes), _norm(update, axes)).astype(update.dtype)

    def update_fn(updates: Any, state: optax.EmptyState, params: Any = None) -> tuple[Any, Any]:
        if params is None:
            raise ValueError("The trust ratio needs the parameters: update(grads, state, params).")
        return jax.tree_util.tree_map_with_path(scale, updates, params), state

    return optax.GradientTransformation(lambda params: optax.EmptyState(), update_fn)


def _norm(x: Array, axes: tuple[int, ...]) -> Array:
    return jnp.sqrt(jnp.sum(jnp.square(x.astype(jnp.float32)), axes, keepdims=True))


def _trust_ratio(param_norm: Array, update_norm: Array) -> Array:
    nothing = (param_norm == 0) | (update_norm == 0)
    return jnp.where(nothing, 1.0, param_norm / jnp.where(nothing, 1.0, update_norm))

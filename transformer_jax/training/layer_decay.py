"""Smaller updates for lower layers of an encoder, which fine-tuning is to change less, or none."""

from __future__ import annotations

import re
from typing import Any

import jax
import jax.numpy as jnp
import optax

from transformer_jax.errors import UserError
from transformer_jax.parallel.sharding import path_of
from transformer_jax.typing import Array

_SHARED = re.compile(r"(^|/)encoder/shared_layer/")
_LAYER = re.compile(r"(^|/)encoder/layer/")
_BELOW = re.compile(r"(^|/)(\w+_embedding|embedding_norm|embedding_projection)/")


def scale_by_layer(decay: float) -> optax.GradientTransformation:
    """Multiplies the updates of layer l of L by decay^(L - 1 - l), those of embeddings by decay^L.

    What is above the encoder, its pooler and heads, keeps its updates. The parameters of the layers
    are stacked, [L,...].
    """

    def update(updates: Any, state: Any, params: Any = None) -> tuple[Any, Any]:
        del params
        count = _layers(updates, "layer_decay")

        def scale(path: Any, leaf: Array) -> Array:
            name = path_of(path)
            if _LAYER.search(name):
                factors = decay ** jnp.arange(count - 1, -1, -1, dtype=leaf.dtype)
                return leaf * factors.reshape(-1, *[1] * (leaf.ndim - 1))
            return leaf * decay**count if _BELOW.search(name) else leaf

        return jax.tree_util.tree_map_with_path(scale, updates), state

    return optax.GradientTransformation(_refusing("layer_decay"), update)


def hold_layers(held: int) -> optax.GradientTransformation:
    """Sets the updates of the first layers to zero, so many."""

    def update(updates: Any, state: Any, params: Any = None) -> tuple[Any, Any]:
        del params

        def hold(path: Any, leaf: Array) -> Array:
            return leaf.at[:held].set(0) if _LAYER.search(path_of(path)) else leaf

        return jax.tree_util.tree_map_with_path(hold, updates), state

    return optax.GradientTransformation(_refusing("frozen_layers", held), update)


def _refusing(name: str, needed: int = 0) -> optax.TransformInitFn:
    """Refuses a model, at the start, that a setting is not for."""

    def init(params: Any) -> optax.EmptyState:
        if needed > (count := _layers(params, name)):
            raise UserError(f"optimizer.{name}={needed}: the encoder has only {count} layers.")
        return optax.EmptyState()

    return init


def _layers(tree: Any, name: str) -> int:
    """The number of layers L; raises a UserError if there are no parameters of each layer."""
    leaves = [(path_of(p), leaf) for p, leaf in jax.tree_util.tree_leaves_with_path(tree)]
    layers = {leaf.shape[0] for path, leaf in leaves if _LAYER.search(path)}
    if len(layers) == 1:
        return layers.pop()
    if any(_SHARED.search(path) for path, _ in leaves):
        why = "the layers of this model share their parameters, as ALBERT's do"
    else:
        found = f"there are some of {sorted(layers)} layers" if layers else "there is none"
        why = f"it needs one encoder of stacked layers that are not frozen, and {found}"
    raise UserError(f"optimizer.{name} cannot be used: {why}.")

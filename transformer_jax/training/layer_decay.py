"""Smaller updates for lower layers of an encoder, which fine-tuning is to change less."""

from __future__ import annotations

import re
from typing import Any

import jax
import jax.numpy as jnp
import optax

from transformer_jax.parallel.sharding import path_of
from transformer_jax.typing import Array

_LAYER = re.compile(r"(^|/)encoder/layer/")
_BELOW = re.compile(r"(^|/)(\w+_embedding|embedding_norm|embedding_projection)/")


def scale_by_layer(decay: float) -> optax.GradientTransformation:
    """Multiplies the updates of layer l of L by decay^(L - 1 - l), those of embeddings by decay^L.

    What is above the encoder, its pooler and heads, keeps its updates. The parameters of the layers
    are stacked, [L,...].
    """

    def update(updates: Any, state: Any, params: Any = None) -> tuple[Any, Any]:
        del params
        layers = {
            leaf.shape[0]
            for path, leaf in jax.tree_util.tree_leaves_with_path(updates)
            if _LAYER.search(path_of(path))
        }
        if len(layers) != 1:
            raise ValueError(f"layer_decay needs one encoder of stacked layers, not {layers or 0}.")
        (count,) = layers

        def scale(path: Any, leaf: Array) -> Array:
            name = path_of(path)
            if _LAYER.search(name):
                factors = decay ** jnp.arange(count - 1, -1, -1, dtype=leaf.dtype)
                return leaf * factors.reshape(-1, *[1] * (leaf.ndim - 1))
            return leaf * decay**count if _BELOW.search(name) else leaf

        return jax.tree_util.tree_map_with_path(scale, updates), state

    return optax.GradientTransformation(lambda params: optax.EmptyState(), update)

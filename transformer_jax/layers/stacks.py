"""Stacks of layers: one stacked parameter tree, scanned or unrolled, with or without remat."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Literal

import flax.linen as nn
import jax

from transformer_jax.layers.attention import KeyValues
from transformer_jax.layers.blocks import CAUSAL, DecoderLayer, EncoderLayer
from transformer_jax.layers.masks import Mask
from transformer_jax.layers.norms import LayerNorm
from transformer_jax.typing import Array, Constrain, Params, identity

Remat = Literal["none", "dots", "full"]

_POLICIES = {
    "dots": jax.checkpoint_policies.checkpoint_dots_with_no_batch_dims,  # keeps the big products
    "full": jax.checkpoint_policies.nothing_saveable,
}


def unstacked(params: Params) -> Params:
    """The parameters of a stack's layers [L,...] as tuples of L, which decoding reads faster.

    Args:
      params: a tree; what is under a key "layer" is stacked.
    """

    def parts(path: Any, leaf: Array) -> Any:
        return tuple(leaf) if jax.tree_util.DictKey("layer") in path else leaf

    return jax.tree_util.tree_map_with_path(parts, params)


class _Stack(nn.Module):
    """Runs one layer `num_layers` times, each time with parameters of its own or with the same.

    Every leaf of the layer's parameters gets a leading axis L, whichever way the stack runs, so
    that there is one parameter tree and one checkpoint format. Parameters that all layers share
    have no such axis, and another name, "shared_layer", so that a path says what is stacked.

    Attributes:
      layer: the layer to repeat.
      num_layers: number of layers L.
      shared: runs all layers with the same parameters (arXiv:1909.11942, section 3.1); dropout
        still differs by layer.
      unroll: compiles the layers one after the other instead of as a loop: the same result,
        slower to compile, faster on a CPU.
      remat: what the backward pass computes again instead of keeping: nothing, all but the
        products with parameters ("dots"), or everything ("full").
      constrain: fixes the layout of the activations [B,T,D] after each layer.
    """

    layer: Any
    num_layers: int
    shared: bool = False
    unroll: bool = False
    remat: Remat = "none"
    constrain: Constrain = identity

    def setup(self) -> None:
        """Makes the parts."""
        if self.layer.norm_first:  # a pre-norm stack leaves its sum unnormalised
            self.norm = LayerNorm(epsilon=self.layer.norm_epsilon, dtype=self.layer.dtype)
        if self.shared:
            self.shared_layer = self.layer.clone(name=None)

    def _scan(self, body: Callable, carry: Any, xs: Any = None) -> tuple[Any, Any]:
        """Scans body(layer, carry, x) -> (carry, y) over the layers and xs [L, ...]."""
        if self.remat != "none":
            body = nn.remat(body, policy=_POLICIES[self.remat], prevent_cse=False)
        scan = nn.scan(
            body,
            variable_axes={"intermediates": 0, **({} if self.shared else {"params": 0})},
            variable_broadcast="params" if self.shared else False,
            split_rngs={"params": not self.shared, "dropout": True},
            length=self.num_layers,
            unroll=self.num_layers if self.unroll else 1,
        )
        return scan(self.shared_layer if self.shared else self.layer, carry, xs)

    def _with_layer(self, index: int, body: Callable) -> Any:
        """Calls body(layer) with the parameters of one layer, be they stacked or not."""

        def pick(params: Any) -> Any:
            return jax.tree.map(lambda x: x[index], params, is_leaf=lambda x: type(x) is tuple)

        return nn.map_variables(body, "params", trans_in_fn=pick)(self.layer)

    def _finish(self, x: Array) -> Array:
        return self.norm(x) if self.layer.norm_first else x


class Encoder(_Stack):
    """A stack of encoder layers (arXiv:1706.03762, section 3.1).

    Attributes:
      layer: an `EncoderLayer`, or a module of yours that is called in the same way.
      num_layers, shared, unroll, remat, constrain: see the stack.
    """

    layer: EncoderLayer

    def __call__(
        self,
        x: Array,
        *,
        mask: Mask | None = None,
        bias: Array | None = None,
        deterministic: bool = True,
    ) -> Array:
        """[B,T,D] -> [B,T,D]."""

        def body(layer: EncoderLayer, x: Array, _: None) -> tuple[Array, None]:
            y = layer(x, mask=mask, bias=bias, deterministic=deterministic)
            return self.constrain(y), None

        x, _ = self._scan(body, self.constrain(x))
        return self._finish(x)


class Decoder(_Stack):
    """A stack of decoder layers (arXiv:1706.03762, section 3.1).

    Attributes:
      layer: a `DecoderLayer`, or a module of yours that is called in the same way.
      num_layers, unroll, remat, constrain: see the stack; shared layers are refused.
    """

    layer: DecoderLayer

    def setup(self) -> None:
        """Makes the parts."""
        if self.shared:
            raise ValueError("A Decoder cannot share its layers; only an Encoder can.")
        super().setup()

    def __call__(
        self,
        x: Array,
        encoded: Array,
        *,
        mask: Mask | None = CAUSAL,
        cross_mask: Mask | None = None,
        deterministic: bool = True,
    ) -> Array:
        """[B,T,D] and the encoder's output [B,S,D'] -> [B,T,D]."""

        def body(layer: DecoderLayer, x: Array, _: None) -> tuple[Array, None]:
            y = layer(x, encoded, mask=mask, cross_mask=cross_mask, deterministic=deterministic)
            return self.constrain(y), None

        x, _ = self._scan(body, self.constrain(x))
        return self._finish(x)

    # Decoding calls the layers one after the other instead of scanning them: a scan would copy all
    # caches at every step, to stack them.

    def memory(self, encoded: Array) -> tuple[KeyValues, ...]:
        """Each layer's keys and values of the encoder's output [B,S,D']."""
        return tuple(
            self._with_layer(i, lambda layer: layer.memory(encoded)) for i in range(self.num_layers)
        )

    def empty_cache(self, batch_size: int, max_length: int) -> tuple[KeyValues, ...]:
        """Each layer's cache of max_length places before the first step; needs no parameters."""
        heads, width = self.layer.num_heads, self.layer.width
        shape = (batch_size, max_length, heads, width // heads)
        return tuple(KeyValues.zeros(shape, self.layer.dtype) for _ in range(self.num_layers))

    def decode(
        self,
        x: Array,
        memory: Sequence[KeyValues],
        cache: Sequence[KeyValues],
        index: Array,
        *,
        mask: Mask | None = None,
        cross_mask: Mask | None = None,
    ) -> tuple[Array, tuple[KeyValues, ...]]:
        """Incremental: x [B,T,D] at places index..index+T-1 -> [B,T,D] and the new cache.

        `mask` says which places of the cache each query sees; None: those up to its own.
        """
        written = []
        for i, (one_memory, one_cache) in enumerate(zip(memory, cache, strict=True)):

            def body(
                layer: DecoderLayer,
                x: Array = x,
                memory: KeyValues = one_memory,
                cache: KeyValues = one_cache,
            ) -> tuple[Array, KeyValues]:
                return layer.decode(x, memory, cache, index, mask=mask, cross_mask=cross_mask)

            x, now = self._with_layer(i, body)
            written.append(now)
        return self._finish(x), tuple(written)

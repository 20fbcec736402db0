"""One encoder layer and one decoder layer, post-norm as in the paper or pre-norm."""

from collections.abc import Callable

import flax.linen as nn
import jax.numpy as jnp

from transformer_jax.layers.attention import (
    AttentionFn,
    KeyValues,
    MultiHeadAttention,
    dense_attention,
)
from transformer_jax.layers.dropout import Dropout
from transformer_jax.layers.feed_forward import Activation, FeedForward
from transformer_jax.layers.masks import Mask
from transformer_jax.layers.norms import LayerNorm
from transformer_jax.typing import Array

CAUSAL = Mask.causal()


class LayerSizes(nn.Module):
    """What both layers share: their sizes, and the residual connection around a sublayer.

    Attributes:
      width: width D.
      num_heads: number of heads N; must divide the width.
      feed_forward_dim: width F of the feed-forward network.
      dropout_rate: dropout of each sublayer's output (arXiv:1706.03762, section 5.4).
      attention_dropout_rate: dropout of the attention weights.
      feed_forward_dropout_rate: dropout inside the feed-forward network.
      activation: activation of the feed-forward network.
      gated: gates the feed-forward network (arXiv:2002.05202).
      norm_first: normalises what enters a sublayer (arXiv:2002.04745), not what leaves it.
      norm_epsilon: added to the variance by the layer norms.
      attention_bias: gives the projections of the attention a bias.
      kernel_init: how the matrices start.
      attention_fn: the attention kernel.
      dtype: dtype of the products; parameters are float32, and so are the statistics.
    """

    width: int
    num_heads: int
    feed_forward_dim: int
    dropout_rate: float = 0.0
    attention_dropout_rate: float = 0.0
    feed_forward_dropout_rate: float = 0.0
    activation: Activation = "relu"
    gated: bool = False
    norm_first: bool = False
    norm_epsilon: float = 1e-6
    attention_bias: bool = True
    kernel_init: nn.initializers.Initializer = nn.initializers.xavier_uniform()
    attention_fn: AttentionFn = dense_attention
    dtype: jnp.dtype = jnp.float32

    def _attention(self) -> MultiHeadAttention:
        return MultiHeadAttention(
            self.width,
            self.num_heads,
            dropout_rate=self.attention_dropout_rate,
            use_bias=self.attention_bias,
            kernel_init=self.kernel_init,
            attention_fn=self.attention_fn,
            dtype=self.dtype,
        )

    def _feed_forward(self) -> FeedForward:
        return FeedForward(
            self.feed_forward_dim,
            dropout_rate=self.feed_forward_dropout_rate,
            activation=self.activation,
            gated=self.gated,
            kernel_init=self.kernel_init,
            dtype=self.dtype,
        )

    def _norm(self) -> nn.LayerNorm:
        return LayerNorm(epsilon=self.norm_epsilon, dtype=self.dtype)

    def _residual(
        self, x: Array, sublayer: Callable[[Array], Array], norm: nn.Module, deterministic: bool
    ) -> Array:
        y = sublayer(norm(x) if self.norm_first else x)
        x = x + self.dropout(y, deterministic=deterministic)
        return x if self.norm_first else norm(x)


class EncoderLayer(LayerSizes):
    """Self-attention and a feed-forward network (arXiv:1706.03762, section 3.1).

    Attributes: see `LayerSizes`.
    """

    def setup(self) -> None:
        """Makes the parts."""
        self.self_attention = self._attention()
        self.self_attention_norm = self._norm()
        self.feed_forward = self._feed_forward()
        self.feed_forward_norm = self._norm()
        self.dropout = Dropout(self.dropout_rate)

    def __call__(
        self,
        x: Array,
        *,
        mask: Mask | None = None,
        bias: Array | None = None,
        deterministic: bool = True,
    ) -> Array:
        """[B,T,D] -> [B,T,D]; bias is added to the attention's logits [B,N,T,T]."""

        def attend(y: Array) -> Array:
            return self.self_attention(y, mask=mask, bias=bias, deterministic=deterministic)

        def feed(y: Array) -> Array:
            return self.feed_forward(y, deterministic=deterministic)

        x = self._residual(x, attend, self.self_attention_norm, deterministic)
        return self._residual(x, feed, self.feed_forward_norm, deterministic)


class DecoderLayer(LayerSizes):
    """Causal self-attention, attention to the encoder, feed-forward network (section 3.1).

    Attributes: see `LayerSizes`.
    """

    def setup(self) -> None:
        """Makes the parts."""
        self.self_attention = self._attention()
        self.self_attention_norm = self._norm()
        self.cross_attention = self._attention()
        self.cross_attention_norm = self._norm()
        self.feed_forward = self._feed_forward()
        self.feed_forward_norm = self._norm()
        self.dropout = Dropout(self.dropout_rate)

    def __call__(
        self,
        x: Array,
        encoded: Array | KeyValues,
        *,
        mask: Mask | None = CAUSAL,
        cross_mask: Mask | None = None,
        deterministic: bool = True,
    ) -> Array:
        """[B,T,D], encoder output [B,S,D'] (or its `memory`) -> [B,T,D]."""

        def attend(y: Array) -> Array:
            return self.self_attention(y, mask=mask, deterministic=deterministic)

        return self._after(x, attend, encoded, cross_mask, deterministic)

    def memory(self, encoded: Array) -> KeyValues:
        """Keys and values of the cross-attention, once for all steps: [B,S,D'] -> S places."""
        return self.cross_attention.keys_values(encoded)

    def decode(
        self,
        x: Array,
        memory: KeyValues,
        cache: KeyValues,
        index: Array,
        *,
        mask: Mask | None = None,
        cross_mask: Mask | None = None,
    ) -> tuple[Array, KeyValues]:
        """Incremental: x [B,T,D] at places index..index+T-1 -> [B,T,D] and the new cache.

        `mask` says which places of the cache each query sees; None: those up to its own.
        """

        def attend(y: Array) -> Array:
            nonlocal cache
            y, cache = self.self_attention.decode(y, cache, index, mask=mask)
            return y

        x = self._after(x, attend, memory, cross_mask, True)
        return x, cache

    def _after(
        self,
        x: Array,
        attend: Callable[[Array], Array],
        encoded: Array | KeyValues,
        cross_mask: Mask | None,
        deterministic: bool,
    ) -> Array:
        def cross(y: Array) -> Array:
            return self.cross_attention(y, encoded, mask=cross_mask, deterministic=deterministic)

        def feed(y: Array) -> Array:
            return self.feed_forward(y, deterministic=deterministic)

        x = self._residual(x, attend, self.self_attention_norm, deterministic)
        x = self._residual(x, cross, self.cross_attention_norm, deterministic)
        return self._residual(x, feed, self.feed_forward_norm, deterministic)

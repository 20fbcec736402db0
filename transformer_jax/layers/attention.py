"""Scaled dot-product attention as pure functions, and the multi-head module around them."""

from __future__ import annotations

from typing import Any, Protocol

import flax.linen as nn
import flax.struct
import jax
import jax.numpy as jnp

from transformer_jax.layers.dropout import dropout
from transformer_jax.layers.masks import Mask
from transformer_jax.typing import Array

_HIDDEN = -1e30  # finite, so that no query's maximum is infinite


class AttentionFn(Protocol):
    """A kernel: mixes values [B,S,N,H] for queries [B,T,N,H] by their keys -> [B,T,N,H].

    A kernel that cannot honour a mask, a bias or dropout raises; none may drop one silently.
    """

    def __call__(
        self,
        query: Array,
        key: Array,
        value: Array,
        *,
        mask: Mask | None = None,
        bias: Array | None = None,
        dropout_rate: float = 0.0,
        dropout_key: Array | None = None,
    ) -> Array:
        """Bias is broadcastable to [B,N,T,S]; dropout is of the weights, and needs the key."""
        ...


@flax.struct.dataclass
class KeyValues:
    """Projected keys and values of S places, kept for many queries: [B,N,H,S] each.

    The places come last because products on a CPU read them so: a cache in another order would
    be copied into this one at every step of decoding.
    """

    key: Array
    value: Array

    @classmethod
    def of(cls, key: Array, value: Array) -> KeyValues:
        """Takes them as a kernel does, [B,S,N,H] each."""
        return cls(jnp.moveaxis(key, 1, 3), jnp.moveaxis(value, 1, 3))

    @classmethod
    def zeros(cls, shape: tuple[int, int, int, int], dtype: jnp.dtype = jnp.float32) -> KeyValues:
        """An empty cache for keys of shape [B,S,N,H]."""
        batch, places, heads, size = shape
        kept = (batch, heads, size, places)
        return cls(jnp.zeros(kept, dtype), jnp.zeros(kept, dtype))

    def read(self) -> tuple[Array, Array]:
        """Keys and values as a kernel takes them, [B,S,N,H] each."""
        return jnp.moveaxis(self.key, 3, 1), jnp.moveaxis(self.value, 3, 1)

    def write(self, new: KeyValues, index: Array | int) -> KeyValues:
        """Puts those of T places at places index..index+T-1."""

        def put(old: Array, part: Array) -> Array:
            return jax.lax.dynamic_update_slice_in_dim(old, part.astype(old.dtype), index, 3)

        return KeyValues(put(self.key, new.key), put(self.value, new.value))


def attention_weights(
    query: Array, key: Array, *, mask: Mask | None = None, bias: Array | None = None
) -> Array:
    """Softmax of scaled dot products, in float32: [B,T,N,H], [B,S,N,H] -> [B,N,T,S].

    Equation 1 of arXiv:1706.03762. `bias` is float, broadcastable to [B,N,T,S]. The weights of a
    query that sees no key are zeros.
    """
    query = query * (query.shape[-1] ** -0.5)
    logits = jnp.einsum("BTNH,BSNH->BNTS", query, key, preferred_element_type=jnp.float32)
    if bias is not None:
        logits = logits + bias
    allowed = None if mask is None else mask.to_dense(query.shape[1], key.shape[1])
    if allowed is None:
        return jax.nn.softmax(logits, axis=-1)
    # The weight of a hidden key is zero by its logit; the product is for queries that see none.
    # jax.nn.softmax(where=) is equal, and a tenth slower with its gradient on a CPU.
    return jax.nn.softmax(jnp.where(allowed, logits, _HIDDEN), axis=-1) * allowed


def dense_attention(
    query: Array,
    key: Array,
    value: Array,
    *,
    mask: Mask | None = None,
    bias: Array | None = None,
    dropout_rate: float = 0.0,
    dropout_key: Array | None = None,
) -> Array:
    """Attention that holds all weights [B,N,T,S] at once; any backend, any mask. -> [B,T,N,H]."""
    weights = attention_weights(query, key, mask=mask, bias=bias)
    if dropout_rate > 0.0 and dropout_key is not None:
        weights = dropout(dropout_key, weights, dropout_rate)
    return jnp.einsum("BNTS,BSNH->BTNH", weights.astype(value.dtype), value)


def chunked_attention(
    query: Array,
    key: Array,
    value: Array,
    *,
    mask: Mask | None = None,
    bias: Array | None = None,
    dropout_rate: float = 0.0,
    dropout_key: Array | None = None,
    chunk_size: int = 512,
) -> Array:
    """Dense attention for `chunk_size` queries at a time: equal results, less memory.

    The weights of one chunk [B,N,chunk_size,S] are all that lives at once, in the backward pass
    too, where they are computed again. Dropout draws other bits than `dense_attention`.
    Use it as a kernel with `functools.partial(chunked_attention, chunk_size=...)`.
    """
    length = query.shape[1]
    if length <= chunk_size:
        return dense_attention(
            query, key, value,
            mask=mask, bias=bias, dropout_rate=dropout_rate, dropout_key=dropout_key,
        )  # fmt: skip

    @jax.checkpoint
    def attend(start: Array) -> Array:
        def cut(x: Array, axis: int) -> Array:
            return jax.lax.dynamic_slice_in_dim(x, start, chunk_size, axis)

        return dense_attention(
            cut(query, 1),
            key,
            value,
            mask=None if mask is None else mask.query_block(start, chunk_size),
            bias=bias if bias is None or bias.shape[-2] == 1 else cut(bias, bias.ndim - 2),
            dropout_rate=dropout_rate,
            dropout_key=None if dropout_key is None else jax.random.fold_in(dropout_key, start),
        )

    # The last chunk starts early enough to be whole; what it repeats is cut off again.
    starts = [min(i, length - chunk_size) for i in range(0, length, chunk_size)]
    chunks = jax.lax.map(attend, jnp.asarray(starts))  # [chunks,B,chunk_size,N,H]
    body = jnp.moveaxis(chunks[:-1], 0, 1).reshape(query.shape[0], -1, *value.shape[2:])
    return jnp.concatenate([body, chunks[-1][:, body.shape[1] - length :]], axis=1)


class MultiHeadAttention(nn.Module):
    """Multi-head attention (arXiv:1706.03762, section 3.2.2).

    `apply(..., mutable=["intermediates"])` gives the weights [B,N,T,S] too, as
    `attention_weights`, whichever kernel runs (before dropout).

    Attributes:
      width: width D of the queries and of the output.
      num_heads: number of heads N; must divide the width.
      dropout_rate: probability of dropping one attention weight.
      use_bias: gives the four projections a bias.
      kernel_init: how the four matrices start.
      attention_fn: the kernel.
      dtype: dtype of the products; parameters are float32, and so is the softmax.
    """

    width: int
    num_heads: int
    dropout_rate: float = 0.0
    use_bias: bool = True
    kernel_init: nn.initializers.Initializer = nn.initializers.xavier_uniform()
    attention_fn: AttentionFn = dense_attention
    dtype: jnp.dtype = jnp.float32

    def setup(self) -> None:
        """Makes the parts."""
        if self.width % self.num_heads:
            raise ValueError(f"num_heads={self.num_heads} must divide width={self.width}.")
        heads = (self.num_heads, self.width // self.num_heads)
        options: dict[str, Any] = dict(
            use_bias=self.use_bias, kernel_init=self.kernel_init, dtype=self.dtype
        )
        self.query = nn.DenseGeneral(heads, **options)
        self.key = nn.DenseGeneral(heads, **options)
        self.value = nn.DenseGeneral(heads, **options)
        self.out = nn.DenseGeneral(self.width, axis=(-2, -1), **options)

    def keys_values(self, x_kv: Array) -> KeyValues:
        """Projects what is attended to, once for many queries: [B,S,D'] -> S places."""
        return KeyValues.of(self.key(x_kv), self.value(x_kv))

    def __call__(
        self,
        x_q: Array,
        x_kv: Array | KeyValues | None = None,
        *,
        mask: Mask | None = None,
        bias: Array | None = None,
        deterministic: bool = True,
    ) -> Array:
        """Attends from x_q [B,T,D] to x_kv [B,S,D'] -> [B,T,D].

        Args:
          x_q: the queries' input.
          x_kv: the keys' and values' input: x_q itself if None; KeyValues are taken as they are.
          mask: which keys each query may see; None hides nothing.
          bias: float, broadcastable to [B,N,T,S], added to the scaled dot products.
          deterministic: False turns dropout on and needs the rng "dropout".
        """
        if not isinstance(x_kv, KeyValues):
            x_kv = self.keys_values(x_q if x_kv is None else x_kv)
        query, (key, value) = self.query(x_q), x_kv.read()
        if self.is_mutable_collection("intermediates") and not self.is_initializing():
            weights = attention_weights(query, key, mask=mask, bias=bias)
            self.sow("intermediates", "attention_weights", weights)
        drop = self.dropout_rate > 0.0 and not deterministic
        mixed = self.attention_fn(
            query,
            key,
            value,
            mask=mask,
            bias=bias,
            dropout_rate=self.dropout_rate if drop else 0.0,
            dropout_key=self.make_rng("dropout") if drop else None,
        )
        return self.out(mixed)

    def decode(
        self, x_q: Array, cache: KeyValues, index: Array, *, mask: Mask | None = None
    ) -> tuple[Array, KeyValues]:
        """Self-attention over a cache: x_q [B,T,D] is written at places index..index+T-1.

        Returns the output [B,T,D] and the new cache. index+T beyond S is the caller's error.

        Args:
          x_q: the queries' input, whose keys and values are written.
          cache: S places.
          index: int [].
          mask: which places each query sees; None: those up to its own.
        """
        cache = cache.write(self.keys_values(x_q), index)
        if mask is None:
            places = (index + jnp.arange(x_q.shape[1]))[None]
            mask = Mask.causal(query_positions=places)
        return self(x_q, cache, mask=mask), cache

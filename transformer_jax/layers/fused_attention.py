"""Attention kernels of TPUs and GPUs, which hold no weights [B,N,T,S] at all.

They have no dropout of the weights, and refuse what they cannot honour.
"""

from __future__ import annotations

from typing import Any, Literal

import jax
import jax.numpy as jnp
from jax.experimental.pallas.ops.tpu import splash_attention as splash

from transformer_jax.layers.masks import Mask
from transformer_jax.typing import Array


def splash_attention(
    query: Array,
    key: Array,
    value: Array,
    *,
    mask: Mask | None = None,
    bias: Array | None = None,
    dropout_rate: float = 0.0,
    dropout_key: Array | None = None,
    block: int = 512,
    interpret: bool = False,
) -> Array:
    """JAX's block-sparse flash attention for TPUs (jax.experimental.pallas), with segments.

    Args:
      query, key, value: [B,T,N,H], [B,S,N,H] twice; T and S are multiples of 128.
      mask: segments, causal, window; no dense part, no positions of its own.
      bias, dropout_rate, dropout_key: refused.
      block: most queries and keys that a core works on at a time, a multiple of 128.
      interpret: runs the kernel's body by XLA, slowly, on any backend.

    Returns:
      [B,T,N,H]; zeros for a query that sees no key.

    Raises:
      ValueError: what the kernel cannot honour.
    """
    _refuse("splash", bias, dropout_rate)
    mask = mask or Mask()
    if mask.dense is not None or mask.query_positions is not None or mask.key_positions is not None:
        raise ValueError("splash takes no dense mask and no positions; use dense or chunked.")
    (length, heads), keys = query.shape[1:3], key.shape[1]
    for size in (length, keys):
        if size % 128:
            raise ValueError(f"splash needs rows whose length is a multiple of 128, not {size}.")
    kernel = _splash_kernel(length, keys, heads, mask, block, interpret)
    ids, seen = _segment_ids(mask, query.shape[0], length, keys)
    swapped = [jnp.swapaxes(x, 1, 2) for x in (query * query.shape[-1] ** -0.5, key, value)]
    mixed = jnp.swapaxes(jax.vmap(kernel)(*swapped, ids), 1, 2)
    return mixed if seen is None else jnp.where(seen[..., None, None], mixed, 0).astype(mixed.dtype)


def cudnn_attention(
    query: Array,
    key: Array,
    value: Array,
    *,
    mask: Mask | None = None,
    bias: Array | None = None,
    dropout_rate: float = 0.0,
    dropout_key: Array | None = None,
) -> Array:
    """cuDNN's flash attention for GPUs, by `jax.nn.dot_product_attention`; bfloat16 or float16.

    A mask is given whole, [B|1,N|1,T,S] in bool: it is what is left of the memory of the weights.

    Raises:
      ValueError: what the kernel cannot honour.
    """
    _refuse("cudnn", None, dropout_rate)
    if query.dtype not in (jnp.bfloat16, jnp.float16):
        raise ValueError(f"cudnn needs bfloat16 or float16, not {query.dtype}; set model.dtype.")
    return _by_jax(query, key, value, mask, bias, "cudnn")


def _by_jax(
    query: Array,
    key: Array,
    value: Array,
    mask: Mask | None,
    bias: Array | None,
    implementation: Literal["xla", "cudnn"],
) -> Array:
    """`jax.nn.dot_product_attention`, with zeros for queries that see no key."""
    allowed = None if mask is None else mask.to_dense(query.shape[1], key.shape[1])
    mixed = jax.nn.dot_product_attention(
        query,
        key,
        value,
        bias=bias,
        mask=allowed,
        implementation=implementation,
    )
    if allowed is None:
        return mixed
    seen = jnp.moveaxis(allowed.any(-1, keepdims=True), 1, 2)  # [B|1,T|1,N|1,1]
    return jnp.where(seen, mixed, 0).astype(mixed.dtype)


def _splash_kernel(
    length: int, keys: int, heads: int, mask: Mask, block: int, interpret: bool
) -> Any:
    """The kernel for one row."""
    shape = (length, keys)
    one: splash.Mask = splash.FullMask(shape)
    if mask.window is not None:
        reach = mask.window - 1
        one = splash.LocalMask(shape, (reach, 0 if mask.is_causal else reach), 0)
    elif mask.is_causal:
        one = splash.CausalMask(shape)
    block_q, block_kv = _block(length, block), _block(keys, block)
    blocks = splash.BlockSizes(
        block_q=block_q,
        block_kv=block_kv,
        block_kv_compute=block_kv,
        block_q_dkv=block_q,
        block_kv_dkv=block_kv,
        block_kv_dkv_compute=block_kv,
        block_q_dq=block_q,
        block_kv_dq=block_kv,
    )
    return splash.make_splash_mha_single_device(
        splash.MultiHeadMask([one] * heads), block_sizes=blocks, interpret=interpret
    )


def _block(length: int, most: int) -> int:
    """The largest block that divides a length."""
    return next(size for size in range(min(most, length), 0, -128) if length % size == 0)


def _segment_ids(
    mask: Mask, batch: int, length: int, keys: int
) -> tuple[splash.SegmentIds | None, Array | None]:
    """The segments as the kernel wants them, and which queries [B,T] see a key at all.

    To the kernel 0 is a segment as any other, and a query that sees no key is an error: it is
    given the keys of padding to see, and its result is thrown away.
    """
    if mask.key_segments is None:
        return None, None
    of_keys = jnp.broadcast_to(mask.key_segments, (batch, keys))
    if mask.query_segments is None:
        of_queries = jnp.ones((batch, length), of_keys.dtype)
        of_keys = (of_keys != 0).astype(of_keys.dtype)
    else:
        of_queries = jnp.broadcast_to(mask.query_segments, (batch, length))
    meets = of_queries[:, :, None] == of_keys[:, None, :]  # XLA keeps none of it: it only counts
    seen = meets.any(-1) & (of_queries != 0)
    return splash.SegmentIds(of_queries, of_keys), seen


def _refuse(name: str, bias: Array | None, dropout_rate: float) -> None:
    if bias is not None:
        raise ValueError(f"{name} takes no bias; use dense or chunked.")
    if dropout_rate > 0.0:
        raise ValueError(
            f"{name} has no dropout of attention weights; set model.attention_dropout_rate=0, or "
            f"use dense or chunked."
        )

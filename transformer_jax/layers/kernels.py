"""The attention kernels by the names that a config gives them, and what each cannot honour."""

from __future__ import annotations

import functools
from collections.abc import Mapping
from typing import Literal

from transformer_jax.layers.attention import AttentionFn, chunked_attention, dense_attention
from transformer_jax.layers.fused_attention import cudnn_attention, splash_attention

Kernel = Literal["dense", "chunked", "splash", "cudnn"]

# Queries, and for splash keys, of a block: MaxText's default for splash on all sides
# (github.com/AI-Hypercomputer/maxtext, configs/base.yml, sa_block_*).
BLOCK = 512

# Programs for one device of one platform; the others are XLA's, and run everywhere.
FUSED: Mapping[Kernel, str] = {"splash": "tpu", "cudnn": "gpu"}


def make_kernel(name: Kernel, block: int = BLOCK) -> AttentionFn:
    """The kernel of this name; chunked and splash work on blocks of so many queries at a time."""
    kernels: Mapping[Kernel, AttentionFn] = {
        "dense": dense_attention,
        "chunked": functools.partial(chunked_attention, chunk_size=block),
        "splash": functools.partial(splash_attention, block=block),
        "cudnn": cudnn_attention,
    }
    return kernels[name]


def check_kernel(name: Kernel, *, block: int, dropout_rate: float, dtype: str) -> None:
    """Raises a ValueError if a model's config asks a kernel for what it does not have."""
    if name in FUSED and dropout_rate > 0.0:
        raise ValueError(
            f"model.attention={name} has no dropout of the attention weights; set "
            f"model.attention_dropout_rate=0, or model.attention=chunked."
        )
    if name == "cudnn" and dtype == "float32":
        raise ValueError("model.attention=cudnn computes in 16 bits; set model.dtype=bfloat16.")
    least = 128 if name == "splash" else 1  # the width of a TPU's registers
    if block < 1 or block % least:
        raise ValueError(f"model.attention_block={block} must be a multiple of {least}.")

"""The attention kernels by the names that a config gives them, and what each cannot honour."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

from transformer_jax.layers.attention import AttentionFn, chunked_attention, dense_attention
from transformer_jax.layers.fused_attention import cudnn_attention, splash_attention

Kernel = Literal["dense", "chunked", "splash", "cudnn"]

KERNELS: Mapping[Kernel, AttentionFn] = {
    "dense": dense_attention,
    "chunked": chunked_attention,
    "splash": splash_attention,
    "cudnn": cudnn_attention,
}

# Programs for one device of one platform; the others are XLA's, and run everywhere.
FUSED: Mapping[Kernel, str] = {"splash": "tpu", "cudnn": "gpu"}


def check_kernel(name: Kernel, *, dropout_rate: float, dtype: str) -> None:
    """Raises a ValueError if a model's config asks a kernel for what it does not have."""
    if name in FUSED and dropout_rate > 0.0:
        raise ValueError(
            f"model.attention={name} has no dropout of the attention weights; set "
            f"model.attention_dropout_rate=0, or model.attention=chunked."
        )
    if name == "cudnn" and dtype == "float32":
        raise ValueError("model.attention=cudnn computes in 16 bits; set model.dtype=bfloat16.")

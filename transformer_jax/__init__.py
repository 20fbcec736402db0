"""Transformers for JAX: layers to compose, models to train, recipes to run.

`import transformer_jax` brings in jax and flax only. Training, data, decoding and the command
lines live in rooms of their own (`transformer_jax.training`, `transformer_jax.data`, ...).
"""

from transformer_jax.layers.attention import (
    AttentionFn,
    KeyValues,
    MultiHeadAttention,
    attention_weights,
    chunked_attention,
    dense_attention,
)
from transformer_jax.layers.blocks import DecoderLayer, EncoderLayer
from transformer_jax.layers.masks import Mask
from transformer_jax.layers.stacks import Decoder, Encoder
from transformer_jax.models.transformer import Transformer, TransformerConfig

__all__ = [
    "AttentionFn",
    "Decoder",
    "DecoderLayer",
    "Encoder",
    "EncoderLayer",
    "KeyValues",
    "Mask",
    "MultiHeadAttention",
    "Transformer",
    "TransformerConfig",
    "attention_weights",
    "chunked_attention",
    "dense_attention",
]

__version__ = "0.1.0"

"""Transformers for JAX: layers to compose, models to train, recipes to run.

`import transformer_jax` brings in jax and flax only. Training, data, decoding and the command
lines live in rooms of their own (`transformer_jax.training`, `transformer_jax.data`, ...), and
`load_pretrained`, `save_pretrained`, `PretrainedBert` and `PretrainedTransformer` are imported when
they are first used.
"""

import importlib
from typing import TYPE_CHECKING

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
from transformer_jax.models.bert import Bert, BertConfig
from transformer_jax.models.bert_pretraining import BertPretraining
from transformer_jax.models.transformer import Transformer, TransformerConfig

if TYPE_CHECKING:
    from transformer_jax.interop.huggingface import (
        PretrainedBert,
        PretrainedTransformer,
        load_pretrained,
        save_pretrained,
    )

__all__ = [
    "AttentionFn",
    "Bert",
    "BertConfig",
    "BertPretraining",
    "Decoder",
    "DecoderLayer",
    "Encoder",
    "EncoderLayer",
    "KeyValues",
    "Mask",
    "MultiHeadAttention",
    "PretrainedBert",
    "PretrainedTransformer",
    "Transformer",
    "TransformerConfig",
    "attention_weights",
    "chunked_attention",
    "dense_attention",
    "load_pretrained",
    "save_pretrained",
]

__version__ = "0.1.0"

_OF_INTEROP = ("PretrainedBert", "PretrainedTransformer", "load_pretrained", "save_pretrained")


def __getattr__(name: str) -> object:
    if name in _OF_INTEROP:
        return getattr(importlib.import_module("transformer_jax.interop.huggingface"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")

"""Marian's config.json as the config of a Transformer, and back."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from transformer_jax.errors import UserError
from transformer_jax.layers.feed_forward import Activation
from transformer_jax.models.transformer import TransformerConfig

MODEL_TYPE = "marian"
ARCHITECTURE = "MarianMTModel"
MAX_LENGTH = 512  # of opus-mt: most tokens of a translation, the start token included

# What a config.json that leaves a field out means: MarianConfig of transformers 5.23.
_DEFAULTS: dict[str, Any] = dict(
    vocab_size=58101,
    decoder_vocab_size=None,
    d_model=1024,
    encoder_layers=12,
    decoder_layers=12,
    encoder_attention_heads=16,
    decoder_attention_heads=16,
    encoder_ffn_dim=4096,
    decoder_ffn_dim=4096,
    activation_function="gelu",
    dropout=0.1,
    attention_dropout=0.0,
    activation_dropout=0.0,
    scale_embedding=False,
    share_encoder_decoder_embeddings=True,
    tie_word_embeddings=True,
)

_ACTIVATIONS: dict[str, Activation] = {
    "relu": "relu",
    "gelu": "gelu",
    "gelu_new": "gelu_tanh",
    "gelu_pytorch_tanh": "gelu_tanh",
    "swish": "swish",
    "silu": "swish",
}


def config_from(settings: Mapping[str, Any], where: str) -> TransformerConfig:
    """The sizes that a config.json states.

    Raises:
      UserError: a setting that this model does not have, or sizes that cannot be.
    """
    s = _DEFAULTS | dict(settings)
    if odd := [f"{k}={s[k]!r:.40}" for k, like in _DEFAULTS.items() if not _fits(s[k], like)]:
        raise UserError(f"{where}: {', '.join(odd)} cannot be.")
    activation = s["activation_function"]
    if activation not in _ACTIVATIONS:
        known = ", ".join(_ACTIVATIONS)
        raise UserError(f"{where}: activation_function {activation!r} is none of {known}.")
    shared, tied = s["share_encoder_decoder_embeddings"], s["tie_word_embeddings"]
    if shared and not tied:
        raise UserError(
            f"{where}: share_encoder_decoder_embeddings without tie_word_embeddings is no model "
            f"that Marian exports."
        )
    target_size = s["vocab_size"] if shared else s["decoder_vocab_size"] or s["vocab_size"]
    try:
        return TransformerConfig(
            vocab_size=target_size,
            source_vocab_size=None if shared else s["vocab_size"],
            tied_output=tied,
            width=s["d_model"],
            num_heads=s["encoder_attention_heads"],
            decoder_num_heads=s["decoder_attention_heads"],
            feed_forward_dim=s["encoder_ffn_dim"],
            decoder_feed_forward_dim=s["decoder_ffn_dim"],
            encoder_layers=s["encoder_layers"],
            decoder_layers=s["decoder_layers"],
            dropout_rate=s["dropout"],
            attention_dropout_rate=s["attention_dropout"],
            feed_forward_dropout_rate=s["activation_dropout"],
            activation=_ACTIVATIONS[activation],
            scaled_embedding=s["scale_embedding"],
            norm_epsilon=1e-5,
            attention_bias=True,
            logits_bias=True,
            sinusoids="halves",
        )
    except (TypeError, ValueError) as error:
        raise UserError(f"{where}: {error}") from error


def _fits(value: Any, like: Any) -> bool:
    """Whether a setting is of the kind of its default; a number may be a whole one."""
    kinds = {type(like)} | ({int} if like is None or type(like) is float else set())
    return type(value) in kinds and not (type(value) is int and abs(value) >= 2**31)


def settings_of(config: TransformerConfig) -> dict[str, Any]:
    """The config.json of a model, without its tokens.

    Raises:
      UserError: the model is not what Marian is; what differs is named.
    """
    needed = dict(norm_first=False, sinusoids="halves", norm_epsilon=1e-5)
    odd = [f"{k}={getattr(config, k)!r}" for k, v in needed.items() if getattr(config, k) != v]
    shared = config.source_vocab_size is None
    if shared and not config.tied_output:
        odd.append("tied_output=False with one vocabulary")
    if odd:
        wanted = ", ".join(f"{k}={v!r}" for k, v in needed.items())
        raise UserError(
            f"A Marian folder cannot hold a model with {', '.join(odd)}. It needs {wanted}, and "
            f"a tied output where the vocabulary is one; train with these to export."
        )
    names = {"swish": "swish", "gelu_tanh": "gelu_new"}
    return {
        "model_type": MODEL_TYPE,
        "architectures": [ARCHITECTURE],
        "is_encoder_decoder": True,
        "vocab_size": config.vocab_size if shared else config.source_vocab_size,
        "decoder_vocab_size": config.vocab_size,
        "share_encoder_decoder_embeddings": shared,
        "tie_word_embeddings": config.tied_output,
        "d_model": config.width,
        "encoder_layers": config.encoder_layers,
        "decoder_layers": config.decoder_layers,
        "encoder_attention_heads": config.num_heads,
        "decoder_attention_heads": config.decoder_num_heads or config.num_heads,
        "encoder_ffn_dim": config.feed_forward_dim,
        "decoder_ffn_dim": config.decoder_feed_forward_dim or config.feed_forward_dim,
        "activation_function": names.get(config.activation, config.activation),
        "dropout": config.dropout_rate,
        "attention_dropout": config.attention_dropout_rate,
        "activation_dropout": config.feed_forward_dropout_rate,
        "scale_embedding": config.scaled_embedding,
    }

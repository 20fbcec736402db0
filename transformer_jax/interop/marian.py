"""Marian's encoder-decoder as `transformers` keeps it: its config, its tensors' names and shapes.

A layer's matrices are [out, in] there and one tensor a layer; here they are [in, ...out] and
stacked over the layers. All else is the order of the channels of the sinusoids.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import jax.numpy as jnp
import numpy as np
from flax.traverse_util import flatten_dict, unflatten_dict

from transformer_jax.errors import UserError
from transformer_jax.layers.feed_forward import Activation
from transformer_jax.layers.positions import sinusoidal_positions
from transformer_jax.models.transformer import TransformerConfig
from transformer_jax.typing import Params

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

_LAYER = {
    "self_attention/query": "self_attn.q_proj",
    "self_attention/key": "self_attn.k_proj",
    "self_attention/value": "self_attn.v_proj",
    "self_attention/out": "self_attn.out_proj",
    "self_attention_norm": "self_attn_layer_norm",
    "cross_attention/query": "encoder_attn.q_proj",
    "cross_attention/key": "encoder_attn.k_proj",
    "cross_attention/value": "encoder_attn.v_proj",
    "cross_attention/out": "encoder_attn.out_proj",
    "cross_attention_norm": "encoder_attn_layer_norm",
    "feed_forward/up": "fc1",
    "feed_forward/down": "fc2",
    "feed_forward_norm": "final_layer_norm",
}
_NAMES_SHARED = {
    "token_embedding/embedding": "model.shared.weight",
    "token_embedding/bias": "final_logits_bias",
}
_NAMES_OWN = {
    "source_embedding/embedding": "model.encoder.embed_tokens.weight",
    "token_embedding/embedding": "model.decoder.embed_tokens.weight",
    "token_embedding/bias": "final_logits_bias",
    "output_embedding/embedding": "lm_head.weight",
    "output_embedding/bias": "final_logits_bias",
}
_HEAD = ("lm_head.weight", "final_logits_bias")
_LOGITS_BIAS = "_embedding/bias"
_SHOWN = 20  # problems in one message
_LEAF = {"kernel": "weight", "scale": "weight", "bias": "bias"}


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
    return type(value) in kinds and not (type(value) is int and value >= 2**31)


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


def params_from(
    tensors: Mapping[str, np.ndarray], shapes: Params, config: TransformerConfig, where: str
) -> Params:
    """The parameters, float32, of the tensors of a MarianMTModel.

    Args:
      tensors: name -> array; those that `transformers` ties or makes again may be there or not.
      shapes: the parameter tree that the model needs.
      config: from `config_from`.
      where: the file, for messages.

    Raises:
      UserError: names every tensor that is missing, unknown, of another shape, or not what the
        config says that it is.
    """
    given = _with_prefix(tensors)
    main = _NAMES_SHARED if config.source_vocab_size is None else _NAMES_OWN
    problems = _check_copies(given, config, main["token_embedding/embedding"])
    flat: dict[str, np.ndarray] = {}
    for path, shape in flatten_dict(shapes, sep="/").items():
        stacked = "/layer/" in path
        own_shape = shape.shape[1:] if stacked else shape.shape
        parts = []
        for name in _names(path, shape.shape[0], main):
            wanted, tensor = _their_shape(path, own_shape), given.pop(name, None)
            if tensor is None and path.endswith(_LOGITS_BIAS):  # a buffer, which need not be saved
                tensor = np.zeros(wanted, np.float32)
            if tensor is None:
                problems.append(f"missing: {name} {list(wanted)}")
            elif tensor.shape != wanted:
                problems.append(f"misshapen: {name} {list(tensor.shape)}, not {list(wanted)}")
            else:
                matrix = tensor.T if path.endswith("kernel") else tensor
                parts.append(np.asarray(matrix.reshape(own_shape), np.float32))
        if not problems:
            flat[path] = np.stack(parts) if stacked else parts[0]
    problems += [f"unknown: {name} {list(given[name].shape)}" for name in sorted(given)]
    if problems:
        more = len(problems) - _SHOWN
        shown = problems[:_SHOWN] + ([f"and {more} more"] if more > 0 else [])
        raise UserError(
            f"{where} does not hold the model that its config.json describes:\n  "
            + "\n  ".join(shown)
        )
    return unflatten_dict(flat, sep="/")


def tensors_of(params: Params, config: TransformerConfig) -> dict[str, np.ndarray]:
    """The tensors of a MarianMTModel with these parameters, without tied and derived ones."""
    flat = {k: np.asarray(v, np.float32) for k, v in flatten_dict(params, sep="/").items()}
    if not config.logits_bias:
        flat["token_embedding/bias"] = np.zeros(config.vocab_size, np.float32)
    if not config.attention_bias:
        for path in [path for path in flat if path.endswith("attention/out/kernel")]:
            for part in ("query", "key", "value", "out"):
                layers, width = len(flat[path]), config.width
                bias = path.replace("out/kernel", f"{part}/bias")
                flat[bias] = np.zeros((layers, width), np.float32)
    main = _NAMES_SHARED if config.source_vocab_size is None else _NAMES_OWN
    tensors = {}
    for path, value in flat.items():
        parts = value if "/layer/" in path else [value]
        for name, part in zip(_names(path, len(value), main), parts, strict=True):
            theirs = _their_shape(path, part.shape)
            matrix = part.reshape(theirs[::-1]).T if path.endswith("kernel") else part
            tensors[name] = np.ascontiguousarray(matrix.reshape(theirs))
    return tensors


def _names(path: str, num_layers: int, main: Mapping[str, str]) -> list[str]:
    """What a parameter of ours is called there: one name, or one for each layer."""
    if path in main:
        return [main[path]]
    side, _, rest = path.partition("/layer/")
    part, _, leaf = rest.rpartition("/")
    name = f"{_LAYER[part]}.{_LEAF[leaf]}"
    return [f"model.{side}.layers.{i}.{name}" for i in range(num_layers)]


def _their_shape(path: str, shape: tuple[int, ...]) -> tuple[int, ...]:
    """The shape there of one layer's parameter: a matrix is [out, in], all else is flat."""
    if path.endswith("embedding"):
        return shape
    if path.endswith(_LOGITS_BIAS):
        return (1, *shape)
    if not path.endswith("kernel"):
        return (math.prod(shape),)
    inputs = math.prod(shape[:-1]) if path.endswith("out/kernel") else shape[0]
    return (math.prod(shape) // inputs, inputs)


def _with_prefix(tensors: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """A copy, with the names of the whole model where they are those of its body (MarianModel)."""
    if any(name.startswith("model.") for name in tensors):
        return dict(tensors)
    return {name if name in _HEAD else f"model.{name}": x for name, x in tensors.items()}


def _check_copies(
    given: dict[str, np.ndarray], config: TransformerConfig, main_name: str
) -> list[str]:
    """Takes tied and derived tensors out; says which are not what they have to be.

    safetensors keeps one of several tied tensors, whichever it met first.
    """
    problems = []
    copies = ["lm_head.weight"] if config.tied_output else []
    if config.source_vocab_size is None:
        copies += [f"model.{side}.embed_tokens.weight" for side in ("encoder", "decoder")]
    for name in copies:
        copy = given.pop(name, None)
        if copy is not None and not np.array_equal(given.setdefault(main_name, copy), copy):
            problems.append(f"differ, and the config ties them: {main_name} and {name}")
    for side in ("encoder", "decoder"):
        table = given.pop(name := f"model.{side}.embed_positions.weight", None)
        if table is not None and not _is_sinusoidal(table, config.width):
            problems.append(f"no table of sinusoids in halves: {name} {list(table.shape)}")
    return problems


def _is_sinusoidal(table: np.ndarray, width: int) -> bool:
    if table.ndim != 2 or table.shape[1] != width:
        return False
    waves = sinusoidal_positions(jnp.arange(len(table))[None], width, layout="halves")[0]
    # A table may be of half precision; float32 angles of position 10^4 are good to 10^-3.
    return bool(np.allclose(np.asarray(table, np.float32), waves, atol=5e-3))

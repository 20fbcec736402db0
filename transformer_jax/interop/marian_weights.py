"""Marian's tensors as parameters, and back.

A layer's matrices are [out, in] there and one tensor a layer; here they are [in, ...out] and
stacked over the layers. All else is the order of the channels of the sinusoids.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

import jax.numpy as jnp
import numpy as np
from flax.traverse_util import flatten_dict, unflatten_dict

from transformer_jax.errors import UserError
from transformer_jax.layers.positions import sinusoidal_positions
from transformer_jax.models.transformer import TransformerConfig
from transformer_jax.typing import Params

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

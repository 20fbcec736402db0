"""Marian's tensors as parameters, and back; sinusoids have their channels in another order."""

from __future__ import annotations

from collections.abc import Mapping

import jax.numpy as jnp
import numpy as np
from flax.traverse_util import flatten_dict, unflatten_dict

from transformer_jax.interop.tensors import LEAVES, Names, their_shape
from transformer_jax.interop.tensors import params_from as tensors_to_params
from transformer_jax.interop.tensors import tensors_of as params_to_tensors
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
    given, names = _with_prefix(tensors), _names(config)
    problems = _check_copies(given, config, names("token_embedding/embedding", 0)[0])
    for side in ("token", "output"):  # buffers, which need not be saved
        if f"{side}{_LOGITS_BIAS}" in flatten_dict(shapes, sep="/"):
            zeros = np.zeros((1, config.vocab_size), np.float32)
            given.setdefault("final_logits_bias", zeros)
    return tensors_to_params(
        given, shapes, names, where, problems=problems, shape_there=_their_shape
    )


def tensors_of(params: Params, config: TransformerConfig) -> dict[str, np.ndarray]:
    """The tensors of a MarianMTModel with these parameters, without tied and derived ones."""
    flat = dict(flatten_dict(params, sep="/"))
    if not config.logits_bias:
        flat["token_embedding/bias"] = np.zeros(config.vocab_size, np.float32)
    if not config.attention_bias:
        for path in [path for path in flat if path.endswith("attention/out/kernel")]:
            for part in ("query", "key", "value", "out"):
                layers, width = len(flat[path]), config.width
                bias = path.replace("out/kernel", f"{part}/bias")
                flat[bias] = np.zeros((layers, width), np.float32)
    whole = unflatten_dict(flat, sep="/")
    return params_to_tensors(whole, _names(config), shape_there=_their_shape)


def _names(config: TransformerConfig) -> Names:
    """What a parameter of ours is called there: one name, or one for each layer."""
    main = _NAMES_SHARED if config.source_vocab_size is None else _NAMES_OWN

    def names(path: str, num_layers: int) -> list[str]:
        if path in main:
            return [main[path]]
        side, _, rest = path.partition("/layer/")
        part, _, leaf = rest.rpartition("/")
        name = f"{_LAYER[part]}.{LEAVES[leaf]}"
        return [f"model.{side}.layers.{i}.{name}" for i in range(num_layers)]

    return names


def _their_shape(path: str, shape: tuple[int, ...]) -> tuple[int, ...]:
    return (1, *shape) if path.endswith(_LOGITS_BIAS) else their_shape(path, shape)


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

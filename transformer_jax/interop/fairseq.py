"""RoBERTa of fairseq 0.9 and 0.10: its .pt as `transformers` would have it, and its dict.txt.

The names are those of fairseq/models/roberta/model.py and of the modules that it is made of; what
becomes of them, transformers/models/roberta/convert_roberta_original_pytorch_checkpoint_to_pytorch.
"""

from __future__ import annotations

import os
import re
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from transformer_jax.errors import UserError
from transformer_jax.interop.folders import read_json
from transformer_jax.interop.torch_files import read_torch_checkpoint
from transformer_jax.interop.torch_pickle import Record
from transformer_jax.parsing import read_regular

_SPECIAL = ("<s>", "<pad>", "</s>", "<unk>")  # ids 0 to 3; the rows 0 and 1 are no positions
_MASK = "<mask>"

_SIZES = {
    "hidden_size": "encoder_embed_dim",
    "num_hidden_layers": "encoder_layers",
    "num_attention_heads": "encoder_attention_heads",
    "intermediate_size": "encoder_ffn_embed_dim",
}
# What must be so, and is where a file leaves it out: `base_architecture` of fairseq's RoBERTa.
_NEEDED = {"activation_fn": "gelu", "untie_weights_roberta": False, "quant_noise_scalar": 0}
# The same, of versions that call the first norm layernorm_embedding; those before have one encoder.
_NEEDED_LATER = {
    "encoder_normalize_before": False,
    "encoder_learned_pos": True,
    "no_token_positional_embeddings": False,
    "layernorm_embedding": True,
    "no_scale_embedding": True,
    "adaptive_input": False,
}
_ONLY_IN_TRAINING = ("activation_dropout", "encoder_layerdrop", "quant_noise_pq")

_WORDS = "roberta.embeddings.word_embeddings.weight"
_POSITIONS = "roberta.embeddings.position_embeddings.weight"
_TYPES = "roberta.embeddings.token_type_embeddings.weight"
_TABLES = {"embed_tokens": _WORDS, "embed_positions": _POSITIONS}
_NORMS = ("emb_layer_norm", "layernorm_embedding")
_LAYER = {
    "self_attn.q_proj": "attention.self.query",
    "self_attn.k_proj": "attention.self.key",
    "self_attn.v_proj": "attention.self.value",
    "self_attn.out_proj": "attention.output.dense",
    "self_attn_layer_norm": "attention.output.LayerNorm",
    "fc1": "intermediate.dense",
    "fc2": "output.dense",
    "final_layer_norm": "output.LayerNorm",
}
_QKV = ("query", "key", "value")
_HEAD = ("lm_head", "lm_head.dense", "lm_head.layer_norm")  # as they are called there too
_COUNTED = (".version", "._float_tensor")  # buffers without meaning


def read_fairseq(path: str | os.PathLike[str]) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    """A RoBERTa's config.json, and its tensors as `transformers`' RobertaForMaskedLM names them.

    Nothing in the file is run. The heads of tasks are left out, with a warning.

    Raises:
      UserError: the file cannot be read or is none of fairseq's; it holds a model that RoBERTa is
        not; or it has tensors that are unknown or misshapen.
    """
    where = os.fspath(path)
    held, given = read_torch_checkpoint(path, "model")
    args = held.get("args")
    if not isinstance(args, Record) or not isinstance(args.state, dict):
        raise UserError(
            f"{where} has no settings: its 'args' is a {type(args).__name__}, not the Namespace "
            f"that fairseq 0.9 and 0.10 write."
        )
    tensors = _tensors(given, where)
    later = not any(".emb_layer_norm." in name for name in given)
    return _settings(args.state, tensors, later, where), tensors


def _settings(
    args: Mapping[str, Any], tensors: Mapping[str, np.ndarray], later: bool, where: str
) -> dict[str, Any]:
    needed = _NEEDED | (_NEEDED_LATER if later else {})
    odd = [f"{name}={_shown(args[name])}" for name, v in needed.items() if args.get(name, v) != v]
    if odd:
        raise UserError(f"{where}: a RoBERTa cannot have {', '.join(odd)}.")
    sizes = {ours: args.get(theirs) for ours, theirs in _SIZES.items()}
    positions = args.get("max_positions", args.get("tokens_per_sample"))
    named = dict(zip(_SIZES.values(), sizes.values(), strict=True)) | {"max_positions": positions}
    if bad := [f"{k}={_shown(v)}" for k, v in named.items() if type(v) is not int]:
        raise UserError(f"{where}: its args should have sizes, and have {', '.join(bad)}.")
    rows = len(tensors[_POSITIONS]) - 2
    if rows != positions:
        raise UserError(
            f"{where}: max_positions={positions}, but there are embeddings of {rows} positions."
        )
    lost = [f"{name}={_shown(args[name])}" for name in _ONLY_IN_TRAINING if args.get(name, 0) != 0]
    if lost:
        warnings.warn(
            f"{where}: read without {', '.join(lost)} of its training.", stacklevel=5
        )  # who calls load_pretrained
    return sizes | {
        "model_type": "roberta",
        "vocab_size": len(tensors[_WORDS]),
        "max_position_embeddings": positions + 2,
        "type_vocab_size": 1,
        "hidden_act": "gelu",
        "hidden_dropout_prob": args.get("dropout", 0.1),
        "attention_probs_dropout_prob": args.get("attention_dropout", 0.1),
        "layer_norm_eps": 1e-5,  # torch's, which fairseq keeps
        "bos_token_id": 0,
        "pad_token_id": 1,
        "eos_token_id": 2,
    }


def _shown(value: Any) -> str:
    """A value of the file; what is nested could be so deep that to print it is a crash."""
    simple = value is None or isinstance(value, (str, int, float))
    return f"{value!r:.40}" if simple else f"a {type(value).__name__}"


def _tensors(given: Mapping[str, np.ndarray], where: str) -> dict[str, np.ndarray]:
    """The tensors under their new names, with the table of the one token type."""
    tensors: dict[str, np.ndarray] = {}
    problems, heads = [], set()
    for name, tensor in given.items():
        if name.startswith("classification_heads."):
            heads.add(".".join(name.split(".")[:2]))
            continue
        if name.endswith(_COUNTED):
            continue
        new = _new_names(name)
        if not new or not tensors.keys().isdisjoint(new):
            problems.append(f"{'there twice' if new else 'unknown'}: {name} {list(tensor.shape)}")
        elif len(new) == 1:
            tensors[new[0]] = tensor
        elif tensor.ndim == 0 or len(tensor) % 3:
            problems.append(f"not three in one: {name} {list(tensor.shape)}")
        else:
            tensors |= zip(new, np.split(tensor, 3), strict=True)
    for name in (_WORDS, _POSITIONS):
        if name not in tensors or tensors[name].ndim != 2:
            problems.append(f"missing or no table: {name}")
    if problems:
        more = [f"and {len(problems) - 20} more"] if len(problems) > 20 else []
        raise UserError(
            f"{where} holds no RoBERTa of fairseq:\n  " + "\n  ".join(problems[:20] + more)
        )
    if heads:
        warnings.warn(
            f"{where}: read without {', '.join(sorted(heads))}.", stacklevel=5
        )  # who calls load_pretrained
    width = tensors[_WORDS].shape[1]
    return tensors | {_TYPES: np.zeros((1, width), tensors[_WORDS].dtype)}


def _new_names(name: str) -> list[str]:
    """What becomes of a tensor: one, three of a layer's queries, keys and values, or nothing."""
    side, _, name = name.partition(".")
    module, _, leaf = name.rpartition(".")
    if side not in ("decoder", "encoder"):
        return []
    if name == "lm_head.weight":
        return ["lm_head.decoder.weight"]
    if packed := re.fullmatch(
        r"sentence_encoder\.layers\.(\d+)\.self_attn\.in_proj_(weight|bias)", name
    ):
        prefix = f"roberta.encoder.layer.{packed[1]}.attention.self"
        return [f"{prefix}.{part}.{packed[2]}" for part in _QKV]
    if leaf not in ("weight", "bias"):
        return []
    if module in _HEAD:
        return [name]
    root, _, part = module.partition(".")
    if root != "sentence_encoder":
        return []
    if part in _TABLES and leaf == "weight":
        return [_TABLES[part]]
    if part in _NORMS:
        return [f"roberta.embeddings.LayerNorm.{leaf}"]
    layer = re.fullmatch(r"layers\.(\d+)\.(.+)", part)
    if layer is None or layer[2] not in _LAYER:
        return []
    return [f"roberta.encoder.layer.{layer[1]}.{_LAYER[layer[2]]}.{leaf}"]


def read_fairseq_dict(path: str | os.PathLike[str]) -> list[str]:
    """The symbols of a dict.txt in the order of their ids, with <mask> (the last if not in it).

    Raises:
      UserError: the file cannot be read; or it has a line that is no symbol and count, or a symbol
        twice.
    """
    where = os.fspath(path)
    try:
        lines = read_regular(path).decode("utf-8-sig").replace("\r\n", "\n").split("\n")
    except OSError as error:
        raise UserError(
            f"{where} cannot be read: {error.strerror}. Give the dict.txt of the model."
        ) from error
    except UnicodeDecodeError as error:
        raise UserError(f"{where} is no UTF-8 text: {error}. Give the model's dict.txt.") from error
    ids = {symbol: i for i, symbol in enumerate(_SPECIAL)}
    if lines[-1] == "":
        lines.pop()
    for number, line in enumerate(lines, start=1):
        symbol, _, count = line.rstrip().rpartition(" ")
        if not symbol or not re.fullmatch(r"\d+", count, re.ASCII):
            raise UserError(f"{where}:{number}: {line!r:.60} is no symbol and its count.")
        if symbol in ids:
            raise UserError(f"{where}:{number}: {symbol!r:.60} has the id {ids[symbol]} already.")
        ids[symbol] = len(ids)
    ids.setdefault(_MASK, len(ids))
    return list(ids)


def fairseq_vocabulary(
    dict_path: str | os.PathLike[str], encoder_json: str | os.PathLike[str]
) -> dict[str, int]:
    """The vocab.json of a RoBERTa: the text of each token, as in GPT-2's encoder.json -> its id.

    Args:
      dict_path: fairseq's dict.txt, whose symbols are the decimal numbers of GPT-2's tokens.
      encoder_json: GPT-2's tokens: text -> number.

    Raises:
      UserError: a file cannot be read; or a symbol is no token's number.
    """
    where, theirs = os.fspath(dict_path), Path(encoder_json)
    if not theirs.is_file():
        raise UserError(f"{theirs} is no file. Give the encoder.json of GPT-2.")
    encoder = read_json(theirs)
    texts = {str(number): text for text, number in encoder.items()}
    if len(texts) < len(encoder):
        raise UserError(f"{theirs} gives two tokens one number. Copy or download it again.")
    vocabulary: dict[str, int] = {}
    for i, symbol in enumerate(read_fairseq_dict(dict_path)):
        line = f"{where}:{i - len(_SPECIAL) + 1}"
        own = symbol in _SPECIAL or symbol == _MASK or symbol.startswith("madeupword")
        text = symbol if own else texts.get(symbol)
        if text is None:
            raise UserError(
                f"{line}: {symbol!r:.60} is the number of no token of {theirs}. "
                f"Only dictionaries of GPT-2's BPE can be read."
            )
        if text in vocabulary:
            raise UserError(f"{line}: the token {text!r:.60} is there twice.")
        vocabulary[text] = i
    return vocabulary

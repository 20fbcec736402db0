"""Google's checkpoints of BERT and ALBERT, of TensorFlow 1, as `transformers` would have them.

The names of the variables are those of modeling.py and run_pretraining.py in google-research/bert
and google-research/albert. TensorFlow itself reads the files; it need not be installed otherwise.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from transformer_jax.errors import UserError
from transformer_jax.interop.folders import read_json

CONFIGS = {"bert": "bert_config.json", "albert": "albert_config.json"}
_NAMED_ALIKE = {
    "vocab_size",
    "hidden_size",
    "num_hidden_layers",
    "num_attention_heads",
    "intermediate_size",
    "hidden_act",
    "hidden_dropout_prob",
    "attention_probs_dropout_prob",
    "max_position_embeddings",
    "type_vocab_size",
    "initializer_range",
}
_OF_ALBERT = {"embedding_size", "num_hidden_groups", "inner_group_num"}
_MAY_BE_ABSENT = {"initializer_range", "num_hidden_groups", "inner_group_num"}
# What stands in published files, and is read by nobody.
_UNUSED = {
    "bert": {
        "directionality",
        "pooler_fc_size",
        "pooler_num_attention_heads",
        "pooler_num_fc_layers",
        "pooler_size_per_head",
        "pooler_type",
    },
    "albert": {
        "net_structure_type",
        "layers_to_keep",
        "gap_size",
        "num_memory_blocks",
        "down_scale_factor",
    },
}
# ALBERT's gelu has tanh (gelu of its modeling.py). BERT's had erf before Google's commit
# bee6030, and tanh since; `transformers` has erf for what was published, and we go with that.
_ACTIVATIONS = {
    "bert": {"gelu": "gelu", "relu": "relu"},
    "albert": {"gelu": "gelu_new", "relu": "relu"},
}

_BERT_LAYER, _BERT_NEW = r"bert/encoder/layer_(\d+)", r"bert.encoder.layer.\1"
_ALBERT_LAYER = r"bert/encoder/transformer/group_(\d+)/inner_group_(\d+)"
_ALBERT_NEW = r"albert.encoder.albert_layer_groups.\1.albert_layers.\2"
_MODULES = {
    "bert": {
        r"bert/embeddings/LayerNorm": r"bert.embeddings.LayerNorm",
        rf"{_BERT_LAYER}/attention/self/(query|key|value)": rf"{_BERT_NEW}.attention.self.\2",
        rf"{_BERT_LAYER}/attention/output/(dense|LayerNorm)": rf"{_BERT_NEW}.attention.output.\2",
        rf"{_BERT_LAYER}/intermediate/dense": rf"{_BERT_NEW}.intermediate.dense",
        rf"{_BERT_LAYER}/output/(dense|LayerNorm)": rf"{_BERT_NEW}.output.\2",
        r"bert/pooler/dense": r"bert.pooler.dense",
        r"cls/predictions/transform/(dense|LayerNorm)": r"cls.predictions.transform.\1",
    },
    "albert": {
        r"bert/embeddings/LayerNorm": r"albert.embeddings.LayerNorm",
        r"bert/encoder/embedding_hidden_mapping_in": r"albert.encoder.embedding_hidden_mapping_in",
        rf"{_ALBERT_LAYER}/attention_1/self/(query|key|value)": rf"{_ALBERT_NEW}.attention.\3",
        rf"{_ALBERT_LAYER}/attention_1/output/dense": rf"{_ALBERT_NEW}.attention.dense",
        rf"{_ALBERT_LAYER}/LayerNorm": rf"{_ALBERT_NEW}.attention.LayerNorm",
        rf"{_ALBERT_LAYER}/ffn_1/intermediate/dense": rf"{_ALBERT_NEW}.ffn",
        rf"{_ALBERT_LAYER}/ffn_1/intermediate/output/dense": rf"{_ALBERT_NEW}.ffn_output",
        rf"{_ALBERT_LAYER}/LayerNorm_1": rf"{_ALBERT_NEW}.full_layer_layer_norm",
        r"bert/pooler/dense": r"albert.pooler",
        r"cls/predictions/transform/(dense|LayerNorm)": r"predictions.\1",
    },
}
_LEAVES = {"kernel": "weight", "bias": "bias", "gamma": "weight", "beta": "bias"}
_TABLES = re.compile(r"bert/embeddings/((?:word|position|token_type)_embeddings)")
_SINGLE = {
    "bert": {
        "cls/predictions/output_bias": "cls.predictions.bias",
        "cls/seq_relationship/output_weights": "cls.seq_relationship.weight",
        "cls/seq_relationship/output_bias": "cls.seq_relationship.bias",
    },
    "albert": {
        "cls/predictions/output_bias": "predictions.bias",
        "cls/seq_relationship/output_weights": "sop_classifier.classifier.weight",
        "cls/seq_relationship/output_bias": "sop_classifier.classifier.bias",
    },
}
_OPTIMIZER = re.compile(r"(.+/)?(adam_m|adam_v|lamb_m|lamb_v|global_step)")


def read_tensorflow_checkpoint(
    path: str | os.PathLike[str],
) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    """A config.json, and tensors as BertForPreTraining or AlbertForPreTraining names them.

    Args:
      path: a folder with bert_config.json or albert_config.json and one checkpoint; or of several,
        the prefix of one, such as folder/bert_model.ckpt.

    Raises:
      UserError: a file is missing or damaged; a setting or a variable is unknown; or TensorFlow is
        not installed.
    """
    prefix = _prefix(Path(path))
    configs = {family: prefix.parent / name for family, name in CONFIGS.items()}
    found = [family for family, config in configs.items() if config.is_file()]
    if len(found) != 1:
        what = "both" if found else "neither"
        raise UserError(
            f"{prefix.parent} has {what} of {' and '.join(CONFIGS.values())}, and which one it "
            f"has says what the model is. Leave one there."
        )
    (family,) = found
    settings = settings_from(read_json(configs[family]), family, str(configs[family]))
    return settings, tensors_from(_read_variables(prefix), family, str(prefix))


def _prefix(path: Path) -> Path:
    """What the names of a checkpoint's files begin with."""
    if not path.is_dir():
        if not path.with_name(f"{path.name}.index").is_file():
            raise UserError(f"{path}.index is missing. Give a folder, or a checkpoint's prefix.")
        return path
    names = sorted(file.name.removesuffix(".index") for file in path.glob("*.index"))
    if len(names) != 1:
        raise UserError(
            f"{path} has {len(names)} checkpoints (files *.index): {', '.join(names)}. "
            f"Give the prefix of one, such as {path / (names or ['bert_model.ckpt'])[0]}."
        )
    return path / names[0]


def _read_variables(prefix: Path) -> dict[str, np.ndarray]:
    """All variables but those of an optimizer, which are twice as large as the rest."""
    try:
        import tensorflow as tf
    except ImportError as error:
        raise UserError(
            f"{prefix} is a checkpoint of TensorFlow, which reads it and is not installed: "
            f"pip install 'transformer-jax[tf]'."
        ) from error
    try:
        reader = tf.train.load_checkpoint(str(prefix))
        names = sorted(reader.get_variable_to_shape_map())
        return {name: reader.get_tensor(name) for name in names if not _OPTIMIZER.fullmatch(name)}
    except (tf.errors.OpError, IndexError, ValueError, RuntimeError) as error:
        raise UserError(
            f"{prefix} cannot be read ({str(error):.200}). Copy or download its files again."
        ) from error


def settings_from(google: Mapping[str, Any], family: str, where: str) -> dict[str, Any]:
    """The config.json of a bert_config.json or albert_config.json.

    Raises:
      UserError: a setting is missing or unknown, or an activation that the model cannot have.
    """
    known = _NAMED_ALIKE | (_OF_ALBERT if family == "albert" else set())
    missing = sorted(known - _MAY_BE_ABSENT - google.keys())
    unknown = sorted(google.keys() - known - _UNUSED[family])
    if missing or unknown:
        problems = [f"has no {', '.join(missing)}"] if missing else []
        problems += [f"has unknown settings: {', '.join(unknown)}"] if unknown else []
        raise UserError(f"{where} {', and '.join(problems)}. It should be Google's {family}.")
    activation, activations = google["hidden_act"], _ACTIVATIONS[family]
    if activation not in list(activations):
        raise UserError(
            f"{where}: hidden_act={activation!r:.40} is none of {', '.join(activations)}."
        )
    settings = {name: value for name, value in google.items() if name in known}
    return settings | {
        "model_type": family,
        "hidden_act": activations[activation],
        "layer_norm_eps": 1e-12,  # of tf.contrib.layers.layer_norm
    }


def tensors_from(
    variables: Mapping[str, np.ndarray], family: str, where: str
) -> dict[str, np.ndarray]:
    """Variables under their new names, kernels transposed; without those of an optimizer.

    Raises:
      UserError: names every variable that is unknown, or a kernel and no matrix.
    """
    tensors, problems = {}, []
    for name, value in variables.items():
        if _OPTIMIZER.fullmatch(name):
            continue
        is_kernel = name.endswith("/kernel")
        if (new := _new_name(name, family)) is None:
            problems.append(f"unknown: {name} {list(value.shape)}")
        elif is_kernel and value.ndim != 2:
            problems.append(f"no matrix: {name} {list(value.shape)}")
        else:
            tensors[new] = value.T if is_kernel else value
    if problems:
        more = [f"and {len(problems) - 20} more"] if len(problems) > 20 else []
        raise UserError(
            f"{where} holds no {family} of Google's pretraining:\n  "
            + "\n  ".join(problems[:20] + more)
        )
    return tensors


def _new_name(name: str, family: str) -> str | None:
    if name in _SINGLE[family]:
        return _SINGLE[family][name]
    if table := _TABLES.fullmatch(name):
        return f"{family}.embeddings.{table[1]}.weight"
    module, _, leaf = name.rpartition("/")
    for pattern, new in _MODULES[family].items():
        if leaf in _LEAVES and (match := re.fullmatch(pattern, module, re.ASCII)):
            return f"{match.expand(new)}.{_LEAVES[leaf]}"
    return None

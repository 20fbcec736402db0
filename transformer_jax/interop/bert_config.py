"""The config.json of BERT, RoBERTa, DistilBERT and ALBERT as the config of a Bert, and back."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from transformer_jax.errors import UserError
from transformer_jax.layers.feed_forward import Activation
from transformer_jax.models.bert import BertConfig

FAMILIES = ("bert", "roberta", "distilbert", "albert")

# What a config.json calls our fields, and what it means where it leaves one out: the config classes
# of transformers 5.23.
_BERT: dict[str, tuple[str, Any]] = {
    "vocab_size": ("vocab_size", 30522),
    "width": ("hidden_size", 768),
    "num_heads": ("num_attention_heads", 12),
    "feed_forward_dim": ("intermediate_size", 3072),
    "num_layers": ("num_hidden_layers", 12),
    "max_positions": ("max_position_embeddings", 512),
    "type_vocab_size": ("type_vocab_size", 2),
    "dropout_rate": ("hidden_dropout_prob", 0.1),
    "attention_dropout_rate": ("attention_probs_dropout_prob", 0.1),
    "activation": ("hidden_act", "gelu"),
    "norm_epsilon": ("layer_norm_eps", 1e-12),
    "init_std": ("initializer_range", 0.02),
}
_FIELDS: dict[str, dict[str, tuple[str, Any]]] = {
    "bert": _BERT,
    "roberta": _BERT | {"vocab_size": ("vocab_size", 50265)},
    "distilbert": {
        "vocab_size": ("vocab_size", 30522),
        "width": ("dim", 768),
        "num_heads": ("n_heads", 12),
        "feed_forward_dim": ("hidden_dim", 3072),
        "num_layers": ("n_layers", 6),
        "max_positions": ("max_position_embeddings", 512),
        "dropout_rate": ("dropout", 0.1),
        "attention_dropout_rate": ("attention_dropout", 0.1),
        "activation": ("activation", "gelu"),
        "init_std": ("initializer_range", 0.02),
    },
    "albert": _BERT
    | {
        "vocab_size": ("vocab_size", 30000),
        "embedding_width": ("embedding_size", 128),
        "width": ("hidden_size", 4096),
        "num_heads": ("num_attention_heads", 64),
        "feed_forward_dim": ("intermediate_size", 16384),
        "dropout_rate": ("hidden_dropout_prob", 0.0),
        "attention_dropout_rate": ("attention_probs_dropout_prob", 0.0),
        "activation": ("hidden_act", "gelu_new"),
    },
}
# What must be so: its value where a config.json leaves it out comes first.
_NEEDED: dict[str, tuple[Any, ...]] = {
    "is_decoder": (False,),
    "add_cross_attention": (False,),
    "position_embedding_type": ("absolute",),
    "tie_word_embeddings": (True,),
    "num_hidden_groups": (1,),
    "inner_group_num": (1,),
}
_FIXED: dict[str, dict[str, Any]] = {
    "bert": {},
    "roberta": {},
    "distilbert": {"type_vocab_size": 0, "norm_epsilon": 1e-12},
    "albert": {"shared_layers": True},
}
_HEAD_DROPOUT = {
    "bert": "classifier_dropout",
    "roberta": "classifier_dropout",
    "distilbert": "seq_classif_dropout",
    "albert": "classifier_dropout_prob",
}
_ACTIVATIONS: dict[str, Activation] = {
    "relu": "relu",
    "gelu": "gelu",
    "gelu_new": "gelu_tanh",
    "gelu_pytorch_tanh": "gelu_tanh",
    "swish": "swish",
    "silu": "swish",
}
_ACTIVATION_NAMES = {"relu": "relu", "gelu": "gelu", "gelu_tanh": "gelu_new", "swish": "silu"}


def config_from(settings: Mapping[str, Any], where: str) -> BertConfig:
    """The sizes that a config.json states; the pooler is as if there were one.

    Raises:
      UserError: a setting that this model does not have, or sizes that cannot be.
    """
    family = settings["model_type"]
    refused = [
        f"{k}={settings[k]!r:.40}" for k, v in _NEEDED.items() if settings.get(k, v[0]) not in v
    ]
    if refused:
        raise UserError(f"{where}: a Bert cannot have {', '.join(refused)}.")
    values, odd = dict(_FIXED[family]), []
    for ours, (theirs, default) in _FIELDS[family].items():
        value = settings.get(theirs, default)
        if type(default) is float and type(value) is int:
            value = float(value)
        if type(value) is not type(default):
            odd.append(f"{theirs}={value!r:.40}")
        values[ours] = value
    if odd:
        raise UserError(f"{where}: {', '.join(odd)} cannot be.")
    if values["activation"] not in _ACTIVATIONS:
        known = ", ".join(_ACTIVATIONS)
        raise UserError(f"{where}: the activation {values['activation']!r} is none of {known}.")
    values["activation"] = _ACTIVATIONS[values["activation"]]
    if family == "roberta":
        # The rows of the table up to the padding's id are not for positions.
        pad = settings.get("pad_token_id", 1)
        if type(pad) is not int or not 0 <= pad < values["max_positions"] - 1:
            raise UserError(f"{where}: pad_token_id={pad!r:.40} cannot be.")
        values["first_position"] = pad + 1
        values["max_positions"] -= pad + 1
        if values["activation"] != "gelu":
            raise UserError(f"{where}: RoBERTa's head has gelu, and hidden_act must be that too.")
    try:
        return BertConfig(**values)
    except (TypeError, ValueError) as error:
        raise UserError(f"{where}: {error}") from error


def head_dropout_from(settings: Mapping[str, Any], where: str) -> float:
    """The dropout before the head of a task; raises a UserError if it cannot be."""
    family = settings["model_type"]
    default = {"distilbert": 0.2, "albert": 0.1}.get(family)
    value = settings.get(_HEAD_DROPOUT[family], default)
    if value is None:  # BERT and RoBERTa then take that of the encoder
        value = settings.get("hidden_dropout_prob", 0.1)
    if type(value) not in (int, float) or not 0 <= value < 1:
        raise UserError(f"{where}: {_HEAD_DROPOUT[family]}={value!r:.40} cannot be.")
    return float(value)


def family_of(config: BertConfig) -> str:
    """Which of `FAMILIES` a model is of."""
    if config.shared_layers or config.embedding_width is not None:
        return "albert"
    if config.first_position:
        return "roberta"
    return "bert" if config.type_vocab_size else "distilbert"


def settings_of(config: BertConfig, head_dropout: float) -> dict[str, Any]:
    """The config.json of a model, without its class, tokens and labels.

    Raises:
      UserError: the model is what no class of `transformers` is; what differs is named.
    """
    family = family_of(config)
    odd = [
        f"{k}={getattr(config, k)!r}" for k, v in _FIXED[family].items() if getattr(config, k) != v
    ]
    if (
        family != "albert"
        and config.embedding_width is not None
        or (family == "albert" and config.embedding_width is None)
    ):
        odd.append(f"embedding_width={config.embedding_width}")
    if family != "roberta" and config.first_position:
        odd.append(f"first_position={config.first_position}")
    if family == "roberta" and config.activation != "gelu":
        odd.append(f"activation={config.activation!r}")
    if odd:
        raise UserError(
            f"No model of `transformers` is like this {family} with {', '.join(odd)}; it cannot be "
            f"exported."
        )
    settings: dict[str, Any] = {"model_type": family, _HEAD_DROPOUT[family]: head_dropout}
    for ours, (theirs, _) in _FIELDS[family].items():
        settings[theirs] = getattr(config, ours)
    settings[_FIELDS[family]["activation"][0]] = _ACTIVATION_NAMES[config.activation]
    if family == "roberta":
        settings["pad_token_id"] = config.first_position - 1
        settings["max_position_embeddings"] += config.first_position
        settings["type_vocab_size"] = max(1, config.type_vocab_size)
    return settings

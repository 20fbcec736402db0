"""What the parameters of a BERT are called in `transformers`, for each family and kind of model."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Literal, get_args

import numpy as np

from transformer_jax.interop.tensors import LEAVES, Names

# An encoder alone, or with the head that it is pretrained or fine-tuned with.
Kind = Literal[
    "encoder", "pretraining", "masked_lm", "classification", "tagging", "reading", "choice"
]
KINDS: tuple[Kind, ...] = get_args(Kind)
TASKS: dict[Kind, str] = {
    "classification": "SequenceClassification",
    "tagging": "TokenClassification",
    "reading": "QuestionAnswering",
    "choice": "MultipleChoice",
}

_STEMS = {"bert": "Bert", "roberta": "Roberta", "distilbert": "DistilBert", "albert": "Albert"}
_EMBEDDINGS = {
    "token_embedding": "embeddings.word_embeddings",
    "position_embedding": "embeddings.position_embeddings",
    "type_embedding": "embeddings.token_type_embeddings",
    "embedding_norm": "embeddings.LayerNorm",
    "embedding_projection": "encoder.embedding_hidden_mapping_in",
}
_PARTS = (
    "self_attention/query",
    "self_attention/key",
    "self_attention/value",
    "self_attention/out",
    "self_attention_norm",
    "feed_forward/up",
    "feed_forward/down",
    "feed_forward_norm",
)
_BERT_PARTS = (
    "attention.self.query",
    "attention.self.key",
    "attention.self.value",
    "attention.output.dense",
    "attention.output.LayerNorm",
    "intermediate.dense",
    "output.dense",
    "output.LayerNorm",
)
_THEIR_PARTS: dict[str, tuple[str, ...]] = {
    "bert": _BERT_PARTS,
    "roberta": _BERT_PARTS,
    "distilbert": (
        "attention.q_lin",
        "attention.k_lin",
        "attention.v_lin",
        "attention.out_lin",
        "sa_layer_norm",
        "ffn.lin1",
        "ffn.lin2",
        "output_layer_norm",
    ),
    "albert": (
        "attention.query",
        "attention.key",
        "attention.value",
        "attention.dense",
        "attention.LayerNorm",
        "ffn",
        "ffn_output",
        "full_layer_layer_norm",
    ),
}
_LAYER = {
    "bert": "encoder.layer",
    "roberta": "encoder.layer",
    "distilbert": "transformer.layer",
    "albert": "encoder.albert_layer_groups.0.albert_layers",
}
# Of the head that scores tokens: the parameters, the copies of the embedding and of the bias.
_MLM_HEAD = {
    "bert": {
        "transform/dense": "cls.predictions.transform.dense",
        "transform/norm": "cls.predictions.transform.LayerNorm",
        "": "cls.predictions",
    },
    "roberta": {
        "transform/dense": "lm_head.dense",
        "transform/norm": "lm_head.layer_norm",
        "": "lm_head",
    },
    "distilbert": {
        "transform/dense": "vocab_transform",
        "transform/norm": "vocab_layer_norm",
        "": "vocab_projector",
    },
    "albert": {
        "transform/dense": "predictions.dense",
        "transform/norm": "predictions.LayerNorm",
        "": "predictions",
    },
}
DECODER = {
    "bert": "cls.predictions.decoder",
    "roberta": "lm_head.decoder",
    "distilbert": "vocab_projector",
    "albert": "predictions.decoder",
}
_PAIR_HEAD = {"bert": "cls.seq_relationship", "albert": "sop_classifier.classifier"}
_BUFFERS = re.compile(r"embeddings\.(position_ids|token_type_ids)$")  # counted, and not learnt
_HEADS = re.compile(
    r"(cls|classifier|qa_outputs|lm_head|vocab_(transform|layer_norm|projector)|pre_classifier"
    r"|predictions|sop_classifier)\."
)


def names_of(family: str, kind: Kind) -> Names:
    """What each parameter of `BertPretraining` or of a model with "head" is called."""
    parts = dict(zip(_PARTS, _THEIR_PARTS[family], strict=True))
    outer = _pooler_and_head(family, kind)

    def module(path: str) -> str:
        """The name of the module of all parameters under a path."""
        if path in outer:
            return outer[path]
        head, _, rest = path.partition("/")
        if head == "mlm_head":
            return _MLM_HEAD[family][rest]
        stack = rest.removeprefix("encoder/")
        if stack == rest:
            return f"{family}.{_EMBEDDINGS[rest]}"
        which, _, part = stack.partition("/")
        return f"{family}.{_LAYER[family]}.{'0' if which == 'shared_layer' else '{}'}.{parts[part]}"

    def names(path: str, num_layers: int) -> list[str]:
        path, _, leaf = path.rpartition("/")
        name = f"{module(path)}.{LEAVES[leaf]}"
        return [name.format(i) for i in range(num_layers)] if "{}" in name else [name]

    return names


def _pooler_and_head(family: str, kind: Kind) -> dict[str, str]:
    pooler = f"{family}.pooler" if family == "albert" else f"{family}.pooler.dense"
    head = "qa_outputs" if kind == "reading" else "classifier"
    if family == "distilbert" and kind in ("classification", "choice"):
        pooler = "pre_classifier"
    if family == "roberta" and kind == "classification":
        pooler, head = "classifier.dense", "classifier.out_proj"
    pair = _PAIR_HEAD.get(family, "")
    return {"bert/pooler": pooler, "head/dense": head, "pair_head/dense": pair}


def normal(tensors: Mapping[str, np.ndarray], family: str) -> dict[str, np.ndarray]:
    """The tensors under the names of a class with a head, whatever class and age they are of."""
    prefixed = any(name.startswith(f"{family}.") for name in tensors)
    found = {}
    for name, tensor in tensors.items():
        if _BUFFERS.search(name):
            continue
        name = re.sub(r"\.gamma$", ".weight", re.sub(r"\.beta$", ".bias", name))
        if not prefixed and not is_of_head(name):
            name = f"{family}.{name}"
        found[name] = tensor
    return found


def is_of_head(name: str) -> bool:
    """Whether a tensor is no encoder's."""
    return _HEADS.match(name) is not None


def kind_of(tensors: Mapping[str, np.ndarray], family: str, architecture: str) -> Kind:
    """What a checkpoint holds, by its tensors; for the heads of tasks, by its class."""
    for kind, ending in TASKS.items():
        if architecture.endswith(f"For{ending}"):
            return kind
    transform = _MLM_HEAD[family]["transform/dense"]
    if f"{transform}.weight" not in tensors:
        return "encoder"
    pair = _PAIR_HEAD.get(family)
    return "pretraining" if pair and f"{pair}.weight" in tensors else "masked_lm"


def family_by_class(architectures: object) -> str | None:
    """The family whose class a config.json names; None if it names none."""
    name = architectures[0] if isinstance(architectures, list) and architectures else ""
    for family, stem in _STEMS.items():
        if isinstance(name, str) and re.match(rf"{stem}(Model|For[A-Z]\w*)$", name):
            return family
    return None


def family_by_tensors(names: Iterable[str]) -> str | None:
    """The family that the names of tensors are of; None if they could be of several."""
    names = list(names)
    for family in _STEMS:
        # The layers of BERT and RoBERTa are called the same.
        own = _LAYER[family] if _LAYER[family] != _LAYER["bert"] else f"{family}."
        if any(name.startswith((f"{family}.", own)) for name in names):
            return family
    return None


def architecture_of(family: str, kind: Kind) -> str:
    """The class of `transformers` that a checkpoint is of.

    Raises:
      KeyError: there is none.
    """
    if kind == "encoder":
        return f"{_STEMS[family]}Model"
    if kind == "pretraining" and family not in _PAIR_HEAD:
        raise KeyError(kind)
    suffixes = {"pretraining": "PreTraining", "masked_lm": "MaskedLM"} | TASKS
    return f"{_STEMS[family]}For{suffixes[kind]}"

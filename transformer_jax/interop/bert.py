"""Folders of BERT, RoBERTa, DistilBERT and ALBERT: the encoder, its head, its tokenizer."""

from __future__ import annotations

import dataclasses
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from flax.traverse_util import flatten_dict

from transformer_jax.data.encoder_tokenizer import EncoderTokenizer
from transformer_jax.errors import UserError
from transformer_jax.interop.bert_checks import check_settings
from transformer_jax.interop.bert_config import config_from, head_dropout_from
from transformer_jax.interop.bert_names import (
    DECODER,
    KINDS,
    Kind,
    is_of_head,
    kind_of,
    names_of,
    normal,
)
from transformer_jax.interop.bert_tokenizer import load_bert_tokenizer
from transformer_jax.interop.folders import read_weights
from transformer_jax.interop.tensors import check_sizes, params_from
from transformer_jax.models.bert import Bert, BertConfig
from transformer_jax.models.bert_pretraining import BertPretraining
from transformer_jax.models.bert_tasks import BertChooser, BertClassifier, BertReader, BertTagger
from transformer_jax.typing import Params

# Those whose head is on the pooler.
POOLED: tuple[Kind, ...] = ("pretraining", "classification", "choice")


@dataclasses.dataclass(frozen=True)
class PretrainedBert:
    """An encoder with all that it takes to use it.

    Attributes:
      config: the sizes.
      kind: what stands on it.
      params: of `model`, float32.
      tokenizer: text to ids and back; None where the folder has none.
      labels: the names of a head's classes, in order; () where there are none, or where it gives a
        single number.
      head_dropout: of what enters the head of a task.
      left_out: the tensors of the file that a model of this kind has no place for.
      multi_label: whether a text may be of several classes: each has a probability of its own.
    """

    config: BertConfig
    kind: Kind
    params: Params
    tokenizer: EncoderTokenizer | None = None
    labels: tuple[str, ...] = ()
    head_dropout: float = 0.1
    multi_label: bool = False
    left_out: tuple[str, ...] = dataclasses.field(default=(), compare=False)

    @property
    def model(self) -> nn.Module:
        """The module that the parameters are of."""
        config, count = self.config, max(1, len(self.labels))
        if self.kind == "encoder":
            return Bert(config)
        if self.kind in ("pretraining", "masked_lm"):
            return BertPretraining(config)
        if self.kind == "classification":
            return BertClassifier(config, self.head_dropout, num_classes=count)
        if self.kind == "tagging":
            return BertTagger(config, self.head_dropout, num_classes=count)
        if self.kind == "reading":
            return BertReader(config)
        # The parameters are the same for any number of choices.
        return BertChooser(config, self.head_dropout, num_choices=1)

    def checked(self, where: str) -> PretrainedBert:
        """The same; raises a UserError if the tokenizer has more tokens than the model."""
        tokenizer, size = self.tokenizer, self.config.vocab_size
        if tokenizer is not None and tokenizer.vocab_size > size:
            raise UserError(
                f"{where}: the vocabulary has {tokenizer.vocab_size} tokens, the model only {size} "
                f"embeddings. The tokenizer is of another model."
            )
        return self

    def with_kind(self, kind: Kind, where: str) -> PretrainedBert:
        """The same with less on the encoder, or with nothing.

        Raises:
          UserError: it has no head of this kind.
        """
        if kind == self.kind:
            return self
        if kind != "encoder":
            raise UserError(f"{where} holds no {kind!r}: it is of the kind {self.kind!r}.")
        return dataclasses.replace(
            self, kind=kind, params=self.params["bert"], labels=(), multi_label=False
        )


def load_bert(
    folder: Path, settings: Mapping[str, Any], kind: Kind | None = None
) -> PretrainedBert:
    """Reads a folder whose config.json has these settings; see `huggingface.load_pretrained`."""
    path, tensors = read_weights(folder)
    where = str(folder / "config.json")
    found = bert_from(tensors, settings, kind, where=where, weights=str(path))
    return dataclasses.replace(found, tokenizer=load_bert_tokenizer(folder)).checked(str(folder))


def bert_from(
    tensors: Mapping[str, np.ndarray],
    settings: Mapping[str, Any],
    kind: Kind | None,
    *,
    where: str,
    weights: str,
) -> PretrainedBert:
    """A model of tensors and settings that are named as in `transformers`, without a tokenizer.

    Args:
      tensors: name -> array.
      settings: of a config.json.
      kind: see `huggingface.load_pretrained`.
      where: where the settings are from, for messages.
      weights: where the tensors are from, for messages.

    Raises:
      UserError: settings that cannot be; tensors that are missing, unknown or misshapen; or there
        is no model of this kind in it.
    """
    check_settings(settings, tensors, where)
    family, config = settings["model_type"], config_from(settings, where)
    check_sizes(1 if config.shared_layers else config.num_layers, config.width, tensors, where)
    given = normal(tensors, family)
    architecture = (settings.get("architectures") or [""])[0]
    there = kind_of(given, family, architecture)
    kind = kind or there
    if kind not in _possible(there, given):
        raise UserError(f"{weights} holds no {kind!r}: it is of the kind {there!r}.")
    names = names_of(family, kind)
    pooler = f"{names('bert/pooler/bias', 0)[0].rpartition('.')[0]}."
    has_pooler = kind in POOLED or kind == "encoder" and any(n.startswith(pooler) for n in given)
    relu = family == "distilbert" and kind in ("classification", "choice")
    config = dataclasses.replace(
        config, pooler=has_pooler, pooler_activation="relu" if relu else "tanh"
    )
    problems = _take_copies(given, family, names)
    labels, multi_label = _classes(settings, kind, where)
    dropout = head_dropout_from(settings, where)
    found = PretrainedBert(config, kind, {}, None, labels, dropout, multi_label)
    shapes = _shapes(found)
    used = {
        name
        for path, shape in flatten_dict(shapes, sep="/").items()
        for name in names(path, shape.shape[0])
    }
    lost = _leave_out(given, used, family, kind, there, weights)
    params = params_from(given, shapes, names, weights, problems=problems, left_out=lost)
    params = params["bert"] if kind == "encoder" else params
    params = jax.tree.map(jnp.asarray, params)
    return dataclasses.replace(found, params=params, left_out=tuple(lost))


def _shapes(pretrained: PretrainedBert) -> Params:
    tokens = jnp.zeros((1, 2), jnp.int32)
    params = jax.eval_shape(pretrained.model.init, jax.random.key(0), tokens)["params"]
    return {"bert": params} if pretrained.kind == "encoder" else params


def _possible(there: Kind, given: Mapping[str, np.ndarray]) -> tuple[Kind, ...]:
    """The kinds that a checkpoint may be read as; what it lacks for one is said later."""
    if there == "encoder" and any(map(is_of_head, given)):  # of a head that no class tells
        return KINDS
    return ("encoder", there, "masked_lm") if there == "pretraining" else ("encoder", there)


def _take_copies(given: dict[str, np.ndarray], family: str, names: Any) -> list[str]:
    """Takes tied tensors out; says which are not what they have to be."""
    problems = []
    embedding, bias = (
        names(path, 0)[0] for path in ("bert/token_embedding/embedding", "mlm_head/bias")
    )
    for copy, main in ((f"{DECODER[family]}.weight", embedding), (f"{DECODER[family]}.bias", bias)):
        if copy == main:
            continue
        tensor = given.pop(copy, None)
        if tensor is not None and not np.array_equal(given.setdefault(main, tensor), tensor):
            problems.append(f"differ, and `transformers` ties them: {main} and {copy}")
    return problems


def _leave_out(
    given: dict[str, np.ndarray], used: set[str], family: str, kind: Kind, there: Kind, weights: str
) -> list[str]:
    """Takes out what this kind of model has no place for; says so if nobody asked for it.

    Returns:
      The names of these tensors.
    """
    needless = kind != there or kind == "encoder"
    spare = [n for n in given if n.startswith(f"{family}.pooler.") or needless and is_of_head(n)]
    lost = sorted(name for name in spare if name not in used)
    for name in lost:
        del given[name]
    if lost and kind == there:
        warnings.warn(
            f"{weights}: a model of the kind {kind!r} has no use for {', '.join(lost)}.",
            stacklevel=5,
        )
    return lost


def _classes(settings: Mapping[str, Any], kind: Kind, where: str) -> tuple[tuple[str, ...], bool]:
    """A head's classes, () of a score or of none; and whether a text may be of several."""
    if kind not in ("classification", "tagging"):
        return (), False
    labels = _labels(settings, where)
    problem = settings.get("problem_type") if kind == "classification" else None
    if problem == "regression" and len(labels) > 1:
        raise UserError(f"{where}: a regression of {len(labels)} numbers cannot be read, only one.")
    multi_label = problem == "multi_label_classification"
    is_score = len(labels) == 1 and not multi_label
    return () if is_score else labels, multi_label


def _labels(settings: Mapping[str, Any], where: str) -> tuple[str, ...]:
    """The names of the classes, in order."""
    names = settings.get("id2label")
    if names is None:
        count = settings.get("num_labels", 2)
        names = {str(i): f"LABEL_{i}" for i in range(count if type(count) is int else 2)}
    try:
        found = {int(i): str(name) for i, name in names.items()}
    except (AttributeError, ValueError) as error:
        raise UserError(f"{where}: id2label={names!r:.60} cannot be.") from error
    if sorted(found) != list(range(len(found))) or not found:
        raise UserError(f"{where}: id2label must name the classes 0, 1, ...")
    return tuple(found[i] for i in range(len(found)))

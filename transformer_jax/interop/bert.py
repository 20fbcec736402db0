"""Folders of BERT, RoBERTa, DistilBERT and ALBERT: the encoder, its head, its tokenizer."""

from __future__ import annotations

import dataclasses
import warnings
from collections.abc import Iterator, Mapping
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
from transformer_jax.interop.bert_config import (
    config_from,
    family_of,
    head_dropout_from,
    settings_of,
)
from transformer_jax.interop.bert_names import (
    DECODER,
    KINDS,
    Kind,
    architecture_of,
    is_of_head,
    kind_of,
    names_of,
    normal,
)
from transformer_jax.interop.bert_tokenizer import load_bert_tokenizer, save_bert_tokenizer
from transformer_jax.interop.folders import make_folder, read_weights, write_json, write_weights
from transformer_jax.interop.tensors import check_sizes, is_stacked, params_from, tensors_of
from transformer_jax.models.bert import Bert, BertConfig
from transformer_jax.models.bert_pretraining import BertPretraining
from transformer_jax.models.bert_tasks import BertChooser, BertClassifier, BertReader, BertTagger
from transformer_jax.typing import Params

_SCORE = ("LABEL_0",)  # what `transformers` calls a number that is predicted
_POOLED: tuple[Kind, ...] = ("pretraining", "classification", "choice")


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
    """

    config: BertConfig
    kind: Kind
    params: Params
    tokenizer: EncoderTokenizer | None = None
    labels: tuple[str, ...] = ()
    head_dropout: float = 0.1

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
        return dataclasses.replace(self, kind=kind, params=self.params["bert"], labels=())


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
    if (
        kind not in KINDS
        or kind not in ("encoder", there)
        and (kind, there)
        != (
            "masked_lm",
            "pretraining",
        )
    ):
        raise UserError(f"{weights} holds no {kind!r}: it is of the kind {there!r}.")
    names = names_of(family, kind)
    pooler = f"{names('bert/pooler/bias', 0)[0].rpartition('.')[0]}."
    has_pooler = kind in _POOLED or kind == "encoder" and any(n.startswith(pooler) for n in given)
    relu = family == "distilbert" and kind in ("classification", "choice")
    config = dataclasses.replace(
        config, pooler=has_pooler, pooler_activation="relu" if relu else "tanh"
    )
    problems = _take_copies(given, family, names)
    labels = _labels(settings, where) if kind in ("classification", "tagging") else ()
    found = PretrainedBert(config, kind, {}, None, labels, head_dropout_from(settings, where))
    shapes = _shapes(found)
    used = {
        name
        for path, shape in flatten_dict(shapes, sep="/").items()
        for name in names(path, shape.shape[0])
    }
    _leave_out(given, used, family, kind, there, weights)
    params = params_from(given, shapes, names, weights, problems=problems)
    params = params["bert"] if kind == "encoder" else params
    return dataclasses.replace(found, params=jax.tree.map(jnp.asarray, params))


def save_bert(folder: Path, pretrained: PretrainedBert) -> None:
    """Writes a folder that `transformers` loads; see `huggingface.save_pretrained`."""
    family = family_of(pretrained.config)
    if family == "roberta" and pretrained.tokenizer is not None:
        pretrained = _positions_from(pretrained, pretrained.tokenizer.pad_id + 1)
    config, kind = pretrained.config, pretrained.kind
    settings = settings_of(config, pretrained.head_dropout)
    try:
        settings["architectures"] = [architecture_of(family, kind)]
    except KeyError as error:
        raise UserError(f"`transformers` has no {kind} of {family}.") from error
    relu = family == "distilbert" and kind in ("classification", "choice")
    needs_pooler = kind in _POOLED or (kind == "encoder" and family != "distilbert")
    if (
        kind != "encoder"
        and config.pooler != needs_pooler
        or (config.pooler and config.pooler_activation != ("relu" if relu else "tanh"))
    ):
        raise UserError(
            f"{kind} of {family} cannot have pooler={config.pooler} with "
            f"{config.pooler_activation} in `transformers`; it cannot be exported."
        )
    if kind in ("classification", "tagging"):
        labels = pretrained.labels or _SCORE
        settings["id2label"] = {str(i): name for i, name in enumerate(labels)}
        settings["label2id"] = {name: i for i, name in enumerate(labels)}
        if not pretrained.labels:
            settings["problem_type"] = "regression"
    params = {"bert": pretrained.params} if kind == "encoder" else dict(pretrained.params)
    if params.pop("span_boundary_head", None) is not None:
        warnings.warn(f"{folder}: written without the span-boundary head.", stacklevel=3)
    tensors = tensors_of(params, names_of(family, kind))
    if family == "roberta" and not config.type_vocab_size:  # it has a table, of a single type
        table = np.zeros((1, config.width), np.float32)
        tensors["roberta.embeddings.token_type_embeddings.weight"] = table
    if kind == "encoder":
        tensors = {name.removeprefix(f"{family}."): x for name, x in tensors.items()}
    make_folder(folder)
    tokenizer = pretrained.tokenizer
    if tokenizer is not None:
        save_bert_tokenizer(
            folder,
            tokenizer,
            family,
            token_types=config.type_vocab_size > 1,
            max_tokens=config.max_positions,
        )
        tokens = {"pad": tokenizer.pad_id, "bos": tokenizer.cls_id, "eos": tokenizer.sep_id}
        settings |= {f"{name}_token_id": i for name, i in tokens.items()}
    write_weights(folder, tensors)
    write_json(folder / "config.json", settings)


def report(pretrained: PretrainedBert) -> Iterator[str]:
    """A line for each tensor: our parameter, its name there, shape, mean and deviation."""
    names = names_of(family_of(pretrained.config), pretrained.kind)
    params = pretrained.params
    params = {"bert": params} if pretrained.kind == "encoder" else params
    for path, value in flatten_dict(params, sep="/").items():
        parts = np.asarray(value) if is_stacked(path) else [np.asarray(value)]
        for layer, (name, part) in enumerate(zip(names(path, len(value)), parts, strict=True)):
            at = f"[{layer}]" if is_stacked(path) else ""
            yield (
                f"{path}{at} <- {name} {list(part.shape)} mean {part.mean():.4g} "
                f"deviation {part.std():.4g}"
            )


def _shapes(pretrained: PretrainedBert) -> Params:
    tokens = jnp.zeros((1, 2), jnp.int32)
    params = jax.eval_shape(pretrained.model.init, jax.random.key(0), tokens)["params"]
    return {"bert": params} if pretrained.kind == "encoder" else params


def _positions_from(pretrained: PretrainedBert, first: int) -> PretrainedBert:
    """The same with another first place in the table: RoBERTa's is behind its padding's id."""
    config, of_encoder = pretrained.config, pretrained.kind == "encoder"
    if first == config.first_position:
        return pretrained
    params = dict(pretrained.params)
    encoder = params if of_encoder else dict(params["bert"])
    table = np.asarray(encoder["position_embedding"]["embedding"])[config.first_position :]
    unread = np.zeros((first, config.width), table.dtype)
    encoder["position_embedding"] = {"embedding": jnp.asarray(np.concatenate([unread, table]))}
    config = dataclasses.replace(config, first_position=first)
    params = encoder if of_encoder else params | {"bert": encoder}
    return dataclasses.replace(pretrained, config=config, params=params)


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
) -> None:
    """Takes out what this kind of model has no place for; says so if nobody asked for it."""
    spare = [
        n for n in given if n.startswith(f"{family}.pooler.") or kind != there and is_of_head(n)
    ]
    if lost := [name for name in spare if name not in used]:
        for name in lost:
            del given[name]
        if kind == there:
            warnings.warn(
                f"{weights}: a model of the kind {kind!r} has no use for {', '.join(lost)}.",
                stacklevel=5,
            )


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
    return tuple(found[i] for i in range(len(found))) if len(found) > 1 else ()

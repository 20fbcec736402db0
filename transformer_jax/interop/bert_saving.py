"""Writes folders of BERT, RoBERTa, DistilBERT and ALBERT, and tells where tensors are from."""

from __future__ import annotations

import dataclasses
import warnings
from collections.abc import Iterator
from pathlib import Path

import jax.numpy as jnp
import numpy as np
from flax.traverse_util import flatten_dict

from transformer_jax.errors import UserError
from transformer_jax.interop.bert import POOLED, PretrainedBert
from transformer_jax.interop.bert_config import family_of, settings_of
from transformer_jax.interop.bert_names import architecture_of, names_of
from transformer_jax.interop.bert_tokenizer import save_bert_tokenizer
from transformer_jax.interop.folders import make_folder, write_json, write_weights
from transformer_jax.interop.tensors import fitting, is_stacked, tensors_of, their_shape

_SCORE = ("LABEL_0",)  # what `transformers` calls a number that is predicted


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
    needs_pooler = kind in POOLED or (kind == "encoder" and family != "distilbert")
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
        if pretrained.multi_label:
            settings["problem_type"] = "multi_label_classification"
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
    """A line for each tensor: our parameter, what it is there, both shapes, mean and deviation."""
    names = names_of(family_of(pretrained.config), pretrained.kind)
    params = pretrained.params
    params = {"bert": params} if pretrained.kind == "encoder" else params
    for path, value in flatten_dict(params, sep="/").items():
        parts = np.asarray(value) if is_stacked(path) else [np.asarray(value)]
        for layer, (name, part) in enumerate(zip(names(path, len(value)), parts, strict=True)):
            line = fitting(path, layer, part.shape, name, their_shape(path, part.shape))
            yield f"{line} mean {part.mean():.4g} deviation {part.std():.4g}"
    yield from (f"left out: {name}" for name in pretrained.left_out)


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

"""Other people's models with their parameters and tokenizers, in; as Hugging Face folders, out."""

from __future__ import annotations

import os
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from transformer_jax.data.encoder_tokenizer import EncoderTokenizer
from transformer_jax.errors import UserError
from transformer_jax.interop import (
    bert,
    bert_config,
    bert_names,
    bert_saving,
    marian,
    marian_config,
    originals,
)
from transformer_jax.interop.bert import Kind, PretrainedBert
from transformer_jax.interop.bert_tokenizer import load_bert_tokenizer
from transformer_jax.interop.folders import WEIGHTS, read_json, read_weights
from transformer_jax.interop.hub import local_folder
from transformer_jax.interop.marian import PretrainedTransformer

Pretrained = PretrainedBert | PretrainedTransformer

_TYPES = (*bert_config.FAMILIES, marian_config.MODEL_TYPE)


def is_pretrained(folder: str | os.PathLike[str]) -> bool:
    """Whether `load_pretrained` reads it, and it is no run, whose config.json is another thing."""
    folder = local_folder(folder)
    path = folder / "config.json"
    if not path.exists():
        return originals.is_original(folder)
    settings = read_json(path)
    if "model_type" in settings or "architectures" in settings:
        return True
    return any((folder / name).exists() for name in WEIGHTS) or originals.is_original(folder)


def pretrained_tokenizer(folder: str | os.PathLike[str]) -> EncoderTokenizer | None:
    """The tokenizer of an encoder that `load_pretrained` reads; None if it has none.

    Raises:
      UserError: it is damaged, or of a kind that cannot be read.
    """
    path = local_folder(folder)
    if not (path / "config.json").exists() and originals.is_original(path):
        return originals.original_tokenizer(path)
    return load_bert_tokenizer(path)


def load_pretrained(folder: str | os.PathLike[str], *, kind: Kind | None = None) -> Pretrained:
    """Reads a Hugging Face folder, or an original checkpoint of BERT; no code in it is run.

    A Hugging Face folder may be of BERT, RoBERTa, DistilBERT or ALBERT, the encoder alone or with
    one of its heads; or of a MarianMTModel (opus-mt). The weights are in model.safetensors or in
    pytorch_model.bin of either format; they become float32. Originals are a fairseq RoBERTa (a .pt,
    or its folder with dict.txt), and Google's BERT and ALBERT (a folder with bert_config.json or
    albert_config.json, or the prefix of a checkpoint in it), which need the extra `tf`.

    Args:
      folder: the folder, or of an original its file; `hf:NAME` takes a folder from the hub.
      kind: of a BERT, "encoder" leaves its heads behind, "masked_lm" all but that one; None: as the
        folder has it. Where no class in config.json tells what a head is for, this does; a head
        that is not told of is left out, with a warning.

    Raises:
      UserError: a file is missing or damaged, the model is none of these, or tensors are missing,
        unknown or misshapen; all of them are named.
    """
    folder = local_folder(folder)
    if not (folder / "config.json").exists() and originals.is_original(folder):
        return originals.load_original(folder, kind)
    settings = read_json(folder / "config.json")
    if "model_type" not in settings:
        settings["model_type"] = _model_type(folder, settings)
    model_type = settings["model_type"]
    if model_type in bert_config.FAMILIES:
        return bert.load_bert(folder, settings, kind)
    if model_type != marian_config.MODEL_TYPE:
        raise UserError(
            f"{folder / 'config.json'}: model_type is {model_type!r}; {', '.join(_TYPES)} can be "
            f"read."
        )
    if kind is not None:
        raise UserError(f"{folder} is of a MarianMTModel, which has no {kind!r}.")
    return marian.load_marian(folder, settings)


def _model_type(folder: Path, settings: Mapping[str, Any]) -> str:
    """What a config.json does not name, by its class or else by its tensors.

    Raises:
      UserError: neither tells, or the weights are missing or damaged.
    """
    found = bert_names.family_by_class(settings.get("architectures"))
    if settings.get("architectures") == [marian_config.ARCHITECTURE]:
        found = marian_config.MODEL_TYPE
    if found is None:
        found = bert_names.family_by_tensors(read_weights(folder)[1])
    where = folder / "config.json"
    if found is None:
        raise UserError(
            f"{where} names no model_type, and neither its architectures nor the tensors tell it. "
            f"Write one of {', '.join(_TYPES)} into it."
        )
    warnings.warn(f"{where} names no model_type; it is read as {found!r}.", stacklevel=3)
    return found


def save_pretrained(folder: str | os.PathLike[str], pretrained: Pretrained) -> None:
    """Writes a folder that `transformers` loads, with equal outputs.

    Of a translation's search, GNMT's scoring rule, sampling and a coverage penalty are left out;
    the latter two with a warning.

    Raises:
      UserError: the model is not what a class of `transformers` is (what differs is named), or the
        folder cannot be written.
    """
    if isinstance(pretrained, PretrainedBert):
        bert_saving.save_bert(Path(folder), pretrained)
    else:
        marian.save_marian(Path(folder), pretrained)

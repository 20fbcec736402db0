"""Fills in what a config takes from the pretrained encoder that it starts from."""

from __future__ import annotations

import dataclasses
from pathlib import Path

from transformer_jax.cli.run_config import read_run_config
from transformer_jax.errors import UserError
from transformer_jax.interop.bert_config import FAMILIES, config_from
from transformer_jax.interop.folders import read_json
from transformer_jax.interop.hub import local_folder
from transformer_jax.interop.huggingface import is_pretrained, load_pretrained
from transformer_jax.models.bert import BertConfig
from transformer_jax.tasks.encoder_start import PretrainedSizes
from transformer_jax.training.config import ExperimentConfig


def with_sizes(config: ExperimentConfig, workdir: Path) -> ExperimentConfig:
    """The config with a model in place of `PretrainedSizes`, and with that model's tokenizer.

    A run that has begun has its model in its own config.json, and needs the other folder no more.

    Raises:
      UserError: train.init_from is missing, or has no encoder.
    """
    if not isinstance(config.model, PretrainedSizes):
        return config
    start = config.train.init_from
    if (workdir / "config.json").exists():
        before = read_run_config(workdir)
        model, tokenizer = before.model, getattr(before.data, "tokenizer", "")
    elif start is None:
        raise UserError(
            "This config starts from a pretrained encoder. Name its folder, a run or one of "
            "Hugging Face, with --train.init_from."
        )
    else:
        model, tokenizer = _sizes(Path(start)), start
    if not isinstance(model, BertConfig):
        raise UserError(f"{start or workdir} has no encoder like BERT, which this config needs.")
    data = config.data
    if not data.tokenizer:
        data = dataclasses.replace(data, tokenizer=tokenizer)
    return dataclasses.replace(config, model=config.model.applied_to(model), data=data)


def _sizes(folder: Path) -> object:
    if not is_pretrained(folder):
        return read_run_config(folder).model
    path = local_folder(folder) / "config.json"
    if not path.exists():  # an original checkpoint, whose sizes are in what holds its weights
        return load_pretrained(folder, kind="encoder").config
    settings = read_json(path)
    return config_from(settings, str(path)) if settings["model_type"] in FAMILIES else None

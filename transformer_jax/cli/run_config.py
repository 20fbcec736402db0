"""Reads the config that a run left in its folder."""

from __future__ import annotations

import typing
from pathlib import Path

from transformer_jax.cli.config_file import load_config
from transformer_jax.errors import UserError
from transformer_jax.models.bert import BertConfig
from transformer_jax.models.transformer import TransformerConfig
from transformer_jax.tasks.bert_data import BertData
from transformer_jax.tasks.choosing import ChoosingConfig
from transformer_jax.tasks.choosing_data import ChoosingData
from transformer_jax.tasks.classification import ClassificationConfig
from transformer_jax.tasks.classification_data import ClassificationData
from transformer_jax.tasks.distillation import DistillationConfig
from transformer_jax.tasks.masked_lm import MaskedLmConfig
from transformer_jax.tasks.reading import ReadingConfig
from transformer_jax.tasks.reading_data import ReadingData
from transformer_jax.tasks.tagging import TaggingConfig
from transformer_jax.tasks.tagging_data import TaggingData
from transformer_jax.tasks.translation import TranslationConfig
from transformer_jax.tasks.translation_data import TranslationData
from transformer_jax.training.config import ExperimentConfig
from transformer_jax.training.config_json import classes_in, fits, from_json, read_json

# The classes that a config.json may name; those of one's own come from one's own config file.
CLASSES = classes_in(
    (
        ExperimentConfig(TranslationConfig(), TransformerConfig(), TranslationData()),
        ExperimentConfig(MaskedLmConfig(), BertConfig(), BertData()),
        DistillationConfig(),
        ExperimentConfig(ClassificationConfig(), BertConfig(), ClassificationData()),
        ExperimentConfig(ReadingConfig(), BertConfig(), ReadingData()),
        ExperimentConfig(TaggingConfig(), BertConfig(), TaggingData()),
        ExperimentConfig(ChoosingConfig(), BertConfig(), ChoosingData()),
    )
)


def read_run_config(workdir: Path, own_config: Path | None = None) -> ExperimentConfig:
    """The config of the run in `workdir`.

    Args:
      workdir: the run's folder.
      own_config: a config file whose classes config.json may name too.

    Raises:
      UserError: the folder is not of a run, or its config is damaged or of unknown classes.
    """
    path = workdir / "config.json"
    own = classes_in(load_config(own_config)) if own_config else set()
    config = from_json(read_json(path), CLASSES | own, where=str(path))
    if not isinstance(config, ExperimentConfig):
        raise UserError(f"{path} is of a {type(config).__name__}, and not of a run.")
    _check_parts(config, path)
    return config


def _check_parts(config: ExperimentConfig, path: Path) -> None:
    """Raises a UserError for a task that is none, or is given the model or the data of another."""
    task = type(config.task)
    if not hasattr(task, "build"):
        raise UserError(f"{path}: the task is a {task.__name__}, and not a task.")
    try:
        wanted = typing.get_type_hints(task.build)
    except NameError:  # one's own task may import its types for a type checker alone
        return
    for part in ("model", "data"):
        found = getattr(config, part)
        if part in wanted and not fits(found, wanted[part]):
            raise UserError(f"{path}: a {type(found).__name__} is no {part} of a {task.__name__}.")

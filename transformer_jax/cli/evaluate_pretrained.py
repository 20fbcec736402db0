"""Evaluates a fine-tuned model of a Hugging Face folder, as a run of ours."""

from __future__ import annotations

import dataclasses
import re
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax

from transformer_jax.data.glue import glue_task
from transformer_jax.errors import UserError
from transformer_jax.interop.bert import PretrainedBert
from transformer_jax.interop.huggingface import load_pretrained
from transformer_jax.parallel.mesh import make_mesh
from transformer_jax.parallel.sharding import shardings
from transformer_jax.tasks.encoder_start import PretrainedSizes
from transformer_jax.tasks.fine_tuning import FineTuning
from transformer_jax.tasks.run_labels import store_labels
from transformer_jax.tasks.run_tokenizer import store_tokenizer
from transformer_jax.training.config import ExperimentConfig
from transformer_jax.training.config_json import write_config
from transformer_jax.training.evaluate import evaluate_task
from transformer_jax.training.loop import build_task


def evaluate_pretrained(
    folder: Path, config: ExperimentConfig, split: str
) -> tuple[dict[str, Any], str]:
    """Evaluates a model with the head of a task, that was fine-tuned elsewhere.

    Args:
      folder: as `load_pretrained` reads it.
      config: a task of fine-tuning and its data; the sizes are those of the model.
      split: train, valid or test.

    Returns:
      The metrics, and a report to read.

    Raises:
      UserError: the folder has no such model, or the data is missing or does not fit it.
    """
    found = load_pretrained(folder)
    if not isinstance(found, PretrainedBert):
        raise UserError(f"{folder} is of a translation, and has no head of a task.")
    if found.tokenizer is None:
        raise UserError(f"{folder} has no tokenizer. Copy the one of its model there.")
    sizes = config.model if isinstance(config.model, PretrainedSizes) else PretrainedSizes()
    config = dataclasses.replace(
        config,
        model=sizes.applied_to(found.config),
        train=dataclasses.replace(config.train, batch_size=8 * jax.device_count(), microbatches=1),
    )
    mesh = make_mesh(config.mesh)
    with tempfile.TemporaryDirectory() as name:  # what the task looks for in the folder of a run
        workdir = Path(name)
        store_tokenizer(found.tokenizer, workdir)
        store_labels(_class_names(found.labels, getattr(config.data, "glue_name", None)), workdir)
        write_config(config, workdir / "config.json")
        task = build_task(config, workdir, mesh)
    if not isinstance(task, FineTuning):
        raise UserError("--model is evaluated by a config of fine-tuning, as configs/classify.py.")
    if task.kind != found.kind:
        raise UserError(f"{folder} is of the kind {found.kind!r}, the config of {task.kind!r}.")
    params = jax.device_put(found.params, shardings(found.params, mesh, task.sharding_rules))
    return evaluate_task(task, params, mesh, split)


def _class_names(labels: Sequence[str], glue_name: str | None) -> Sequence[str]:
    """The classes as the data names them; LABEL_0 is no name, and stands for the first one."""
    if not all(re.fullmatch(r"LABEL_\d+", label) for label in labels):
        return labels
    if glue_name is not None and len(glue_task(glue_name).labels) == len(labels):
        return glue_task(glue_name).labels
    return [label.removeprefix("LABEL_") for label in labels]

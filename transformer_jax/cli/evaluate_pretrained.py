"""Evaluates a fine-tuned model of a Hugging Face folder, as a run of ours."""

from __future__ import annotations

import dataclasses
import re
import tempfile
import warnings
from collections.abc import Sequence
from pathlib import Path

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
from transformer_jax.tasks.task import Evaluation
from transformer_jax.training.config import ExperimentConfig
from transformer_jax.training.config_json import write_config
from transformer_jax.training.evaluate import evaluate_task
from transformer_jax.training.loop import build_task


def evaluate_pretrained(
    folder: Path, config: ExperimentConfig, split: str, labels: Sequence[str] | None = None
) -> Evaluation:
    """Evaluates a model with the head of a task, that was fine-tuned elsewhere.

    Args:
      folder: as `load_pretrained` reads it.
      config: a task of fine-tuning and its data; the sizes are those of the model.
      split: train, valid or test.
      labels: what the data calls the model's classes, in the order of the model; None: as the model
        calls them.

    Returns:
      As `evaluate_task`.

    Raises:
      UserError: the folder has no such model, or the data is missing or does not fit it.
    """
    found = load_pretrained(folder)
    if not isinstance(found, PretrainedBert):
        raise UserError(f"{folder} is of a translation, and has no head of a task.")
    if found.tokenizer is None:
        raise UserError(f"{folder} has no tokenizer. Copy the one of its model there.")
    if found.multi_label:
        raise UserError(f"{folder} gives texts several labels, and the data has one of each text.")
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
        glue_name = getattr(config.data, "glue_name", None)
        store_labels(_class_names(found.labels, labels, glue_name), workdir)
        write_config(config, workdir / "config.json")
        task = build_task(config, workdir, mesh)
    if not isinstance(task, FineTuning):
        raise UserError("--model is evaluated by a config of fine-tuning, as configs/classify.py.")
    if task.kind != found.kind:
        raise UserError(f"{folder} is of the kind {found.kind!r}, the config of {task.kind!r}.")
    params = jax.device_put(found.params, shardings(found.params, mesh, task.sharding_rules))
    return evaluate_task(task, params, mesh, split)


def _class_names(
    own: Sequence[str], given: Sequence[str] | None, glue_name: str | None
) -> Sequence[str]:
    """The classes as the data names them; LABEL_0 is no name, and stands for the first one."""
    if given is not None:
        if len(set(given)) != len(own) or len(given) != len(own):
            raise UserError(
                f"--labels must name {len(own)} different classes, in the order of the model's: "
                f"{', '.join(own) or 'it has none'}."
            )
        return given
    numbered = all(re.fullmatch(r"LABEL_\d+", name) for name in own)
    of_glue = () if glue_name is None else glue_task(glue_name).labels
    if not of_glue:
        return [name.removeprefix("LABEL_") for name in own] if numbered else own
    order = ", ".join(of_glue)
    if numbered and len(of_glue) == len(own):
        if len(own) > 2:
            warnings.warn(
                f"{', '.join(own)} are taken for {order}, GLUE's order of {glue_name}, which is "
                f"not every model's. --labels says another.",
                stacklevel=3,
            )
        return of_glue
    spelled = {name.lower(): name for name in of_glue}
    if sorted(spelled) != sorted(name.lower() for name in own):
        raise UserError(
            f"The model's classes are {', '.join(own)}, those of GLUE's {glue_name} {order}. Name "
            f"GLUE's in the order of the model's, as --labels {','.join(of_glue)}."
        )
    return [spelled[name.lower()] for name in own]

"""A model from its folder: of a run of train.py, or of Hugging Face."""

from __future__ import annotations

import dataclasses
from pathlib import Path

from jax.sharding import Mesh

from transformer_jax.cli.run_config import read_run_config
from transformer_jax.data.tokenizers import Tokenizer
from transformer_jax.decoding.search_config import SearchConfig
from transformer_jax.errors import UserError
from transformer_jax.interop.bert import PretrainedBert
from transformer_jax.interop.bert_names import Kind
from transformer_jax.interop.huggingface import Pretrained, is_pretrained, load_pretrained
from transformer_jax.interop.marian import PretrainedTransformer
from transformer_jax.models.transformer import Transformer
from transformer_jax.tasks.fine_tuning import FineTuning
from transformer_jax.tasks.masked_lm import MaskedLm
from transformer_jax.tasks.translation import Translation
from transformer_jax.tasks.translation_search import Translator
from transformer_jax.training.restore import RestoredRun, restore_run
from transformer_jax.typing import Params


@dataclasses.dataclass(frozen=True)
class TranslationModel:
    """What it takes to translate; `mesh` is None where the parameters are not laid out yet."""

    model: Transformer
    params: Params
    tokenizer: Tokenizer
    search: SearchConfig
    mesh: Mesh | None

    def translator(
        self, search: SearchConfig, seed: int = 0, batch_size: int | None = None
    ) -> Translator:
        """A function that translates with it."""
        return Translator(
            self.model,
            self.params,
            self.tokenizer,
            search=search,
            mesh=self.mesh,
            batch_size=batch_size,
            seed=seed,
        )


def open_pretrained(
    folder: Path, kind: Kind | None = None, *, step: str | None = None, average: int | None = None
) -> tuple[Pretrained, Mesh | None]:
    """What `load_pretrained` reads as this kind, or what a run has; and a run's mesh.

    Raises:
      UserError: it is neither, or is damaged, or has no such step.
    """
    if is_pretrained(folder):
        if step is not None or average is not None:
            raise UserError(f"--step and --average are of runs, and {folder} is none.")
        return load_pretrained(folder, kind=kind), None
    run = restore_run(read_run_config(folder), folder, step=step or "latest", average=average)
    return pretrained_of(run), run.mesh


def open_any(
    folder: Path, *, step: str | None = None, average: int | None = None
) -> TranslationModel | PretrainedBert:
    """Restores a run's parameters, at a step, or loads a Hugging Face folder.

    Raises:
      UserError: it is neither, or is damaged, or has no such step.
    """
    found, mesh = open_pretrained(folder, step=step, average=average)
    if isinstance(found, PretrainedBert):
        return found
    return TranslationModel(found.model, found.params, found.tokenizer, found.search, mesh)


def open_model(
    folder: Path, *, step: str | None = None, average: int | None = None
) -> TranslationModel:
    """The same, of a translation.

    Raises:
      UserError: as `open_any`; or it is of another kind.
    """
    found = open_any(folder, step=step, average=average)
    if not isinstance(found, TranslationModel):
        raise UserError(f"{folder} is of an encoder, which does not translate.")
    return found


def open_bert(
    folder: Path, kind: Kind, *, step: str | None = None, average: int | None = None
) -> PretrainedBert:
    """An encoder with the head of this kind.

    Raises:
      UserError: as `open_any`; or it is of a translation, has no such head or no tokenizer.
    """
    found, _ = open_pretrained(folder, kind, step=step, average=average)
    if not isinstance(found, PretrainedBert):
        raise UserError(f"{folder} is of a translation, and not of an encoder.")
    if found.tokenizer is None:
        raise UserError(f"{folder} has no tokenizer. Copy the one of its model there.")
    return found.with_kind(kind, str(folder))


def pretrained_of(run: RestoredRun) -> Pretrained:
    """What a run has trained, as what `save_pretrained` writes; of a distillation the student.

    Raises:
      UserError: there is no such thing for its task.
    """
    task, params = run.task, run.params
    if isinstance(task, Translation):
        return PretrainedTransformer(
            task.model.config, task.model, params, task.tokenizer, task.search
        )
    if isinstance(task, MaskedLm):
        params = task.own_params(params)
        config = task.model.config
        return PretrainedBert(
            config, "pretraining" if config.pooler else "masked_lm", params, task.tokenizer
        )
    if isinstance(task, FineTuning):
        dropout = task.model.head_dropout_rate
        return PretrainedBert(
            task.model.config, task.kind, params, task.tokenizer, task.labels, dropout
        )
    raise UserError(f"{type(task).__name__} has no form that `transformers` reads.")

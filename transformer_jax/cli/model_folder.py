"""A translation model from its folder: of a run of train.py, or of Hugging Face."""

from __future__ import annotations

import dataclasses
from pathlib import Path

from jax.sharding import Mesh

from transformer_jax.cli.run_config import read_run_config
from transformer_jax.data.tokenizers import Tokenizer
from transformer_jax.decoding.search_config import SearchConfig
from transformer_jax.errors import UserError
from transformer_jax.interop.huggingface import is_pretrained, load_pretrained
from transformer_jax.models.transformer import Transformer
from transformer_jax.tasks.translation import Translation
from transformer_jax.tasks.translation_search import Translator
from transformer_jax.training.restore import restore_run
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


def open_model(
    folder: Path, *, step: str | None = None, average: int | None = None
) -> TranslationModel:
    """Restores a run's parameters, at a step, or loads a Hugging Face folder.

    Raises:
      UserError: it is neither, or is damaged, or has no such step.
    """
    if is_pretrained(folder):
        if step is not None or average is not None:
            raise UserError(f"--step and --average are of runs, and {folder} is none.")
        loaded = load_pretrained(folder)
        return TranslationModel(loaded.model, loaded.params, loaded.tokenizer, loaded.search, None)
    run = restore_run(read_run_config(folder), folder, step=step or "latest", average=average)
    task = run.task
    if not isinstance(task, Translation):
        raise UserError(f"{folder} is no run of a translation.")
    return TranslationModel(task.model, run.params, task.tokenizer, task.search, run.mesh)

"""The step of a config as shapes and layouts: no data is read, no array is made."""

from __future__ import annotations

import contextlib
import dataclasses
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import jax
from jax.sharding import Mesh

from transformer_jax.data.pipeline import DataState
from transformer_jax.data.wordpiece import SPECIAL, WordPieceTokenizer
from transformer_jax.errors import UserError
from transformer_jax.parallel.sharding import (
    batch_sharding,
    check_batch_size,
    replicated,
    with_layout,
)
from transformer_jax.tasks.bert_data import BertData
from transformer_jax.tasks.run_tokenizer import store_tokenizer
from transformer_jax.tasks.task import Task
from transformer_jax.tasks.translation_data import TranslationData
from transformer_jax.training.config import ExperimentConfig
from transformer_jax.training.config_json import write_config
from transformer_jax.training.loop import build_task, make_programs
from transformer_jax.training.optimizer import make_optimizer
from transformer_jax.training.step import TrainState, init_state, state_layout

# Characters that no tokenizer takes apart or leaves out: ideographs, then Hangul syllables.
_LETTERS = (*range(0x4E00, 0x9FA6), *range(0xAC00, 0xD7A4), *range(0x20000, 0x2A6D7))


class AbstractStep(NamedTuple):
    """A train step and what it would be called with.

    Attributes:
      task: the config's, on made-up data.
      train_step: the jitted step of the training loop.
      arguments: state, batch and key of dropout, as shapes with layouts.
      mesh: of the devices.
    """

    task: Task
    train_step: Any
    arguments: tuple[TrainState, dict[str, jax.ShapeDtypeStruct], Any]
    mesh: Mesh

    def lower(self) -> Any:
        """The step, traced for its devices."""
        with jax.set_mesh(self.mesh):
            return self.train_step.lower(*self.arguments)


def abstract_step(config: ExperimentConfig, mesh: Mesh) -> AbstractStep:
    """The train step of a config on a mesh of devices that need not be here.

    Text to pretrain on and pairs to translate are made up, so that the tokenizer of the config has
    its size. Other tasks read the data that the config names.

    Raises:
      UserError: the batch or the sizes do not divide by the mesh, or the task refuses its data.
    """
    settings = config.train
    rows = settings.batch_size // settings.microbatches
    check_batch_size(rows, mesh, "train.batch_size / train.microbatches")
    with _made_up(config) as (small, workdir):
        task = build_task(small, workdir, mesh)
        batch, _ = next(iter(task.train_batches(DataState(), 0, 1)))
    optimizer = make_optimizer(config.optimizer, settings.steps)

    def init(key: jax.Array) -> TrainState:
        return init_state(task.init_params(key), optimizer)

    shapes = jax.eval_shape(init, jax.random.key(settings.seed))
    layout = state_layout(shapes, mesh, task.sharding_rules)
    state = jax.tree.map(with_layout, shapes, layout)
    by_rows = batch_sharding(mesh)
    whole = {
        name: jax.ShapeDtypeStruct((settings.batch_size, *x.shape[1:]), x.dtype, sharding=by_rows)
        for name, x in batch.items()
    }
    key = jax.eval_shape(lambda: jax.random.key(settings.seed, impl=settings.dropout_bits))
    key = jax.ShapeDtypeStruct(key.shape, key.dtype, sharding=replicated(mesh))
    programs = make_programs(task, optimizer, settings, mesh, layout)
    return AbstractStep(task, programs.train_step, (state, whole, key), mesh)


@contextlib.contextmanager
def _made_up(config: ExperimentConfig) -> Iterator[tuple[ExperimentConfig, Path]]:
    """The config with a batch of one row of made-up data, and a folder for its run."""
    train = dataclasses.replace(config.train, batch_size=1, microbatches=1, init_from=None)
    config = dataclasses.replace(config, train=train)
    with tempfile.TemporaryDirectory(prefix="plan_") as name:
        folder = Path(name)
        if isinstance(config.data, BertData):
            _write_texts(folder)
            data: Any = dataclasses.replace(config.data, path=name, tokenizer="wordpiece")
            config = dataclasses.replace(config, data=data)
            write_config(config, folder / "config.json")  # so that the tokenizer is taken as it is
        elif isinstance(config.data, TranslationData):
            _write_pairs(folder, config.model.vocab_size)
            data = dataclasses.replace(config.data, path=name)
            config = dataclasses.replace(config, data=data)
        yield config, folder


def _write_texts(folder: Path) -> None:
    """Some documents of one word, and a tokenizer that knows it.

    The size of its vocabulary is in no shape of the step: that of the embedding is the model's.
    """
    document = "\n".join(["word " * 8] * 4)
    (folder / "train.txt").write_text("\n\n".join([document] * 4) + "\n", encoding="utf-8")
    vocabulary = folder / "vocab.txt"
    vocabulary.write_text("\n".join([*SPECIAL, "word"]) + "\n", encoding="utf-8")
    store_tokenizer(WordPieceTokenizer.from_vocab(vocabulary, lowercase=True), folder)


def _write_pairs(folder: Path, vocab_size: int) -> None:
    """Pairs of so many characters that a tokenizer of this size can be trained on them.

    It has a token for each, four special ones, and one for the space. The sides are equally long,
    so that rows are, too: how long the sides of real rows are, their lengths decide.
    """
    letters = "".join(map(chr, _LETTERS[: vocab_size - 5]))
    if len(letters) < vocab_size - 5:
        raise UserError(f"model.vocab_size={vocab_size} is too large to make up text for it.")
    lines = [letters[i : i + 4] for i in range(0, len(letters), 4)]
    text = "".join(f"{line}\t{line}\n" for line in lines)
    for split in ("train", "valid"):
        (folder / f"{split}.tsv").write_text(text, encoding="utf-8")

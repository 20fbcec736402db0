"""What the training loop asks of a task; anything with these members can be trained."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, Protocol

from jax.sharding import Mesh

from transformer_jax.data.pipeline import DataState
from transformer_jax.parallel.sharding import Rules
from transformer_jax.typing import Array, Batch, Params, Terms


@dataclasses.dataclass(frozen=True)
class Evaluation:
    """What an evaluation found: numbers for machines, and a text for people.

    Attributes:
      metrics: the numbers.
      report: the text.
      files: what was predicted, {name of a JSON file: its content}; {} where a task gives none.
    """

    metrics: Mapping[str, Any]
    report: str
    files: Mapping[str, Any] = dataclasses.field(default_factory=dict)


class Task(Protocol):
    """A model, its objective and its data.

    Attributes:
      coefficients: the terms that are trained on, and how much each counts.
      sharding_rules: where each parameter lives on a mesh.
      fingerprint: names what the data depends on; a resumed run must have the same.
      summary: a few lines about data and model, for the log.
    """

    coefficients: Mapping[str, float]
    sharding_rules: Rules
    fingerprint: Mapping[str, Any]
    summary: str

    def init_params(self, key: Array) -> Params:
        """Fresh parameters; a pure function that is jitted."""
        ...

    def loss_terms(self, params: Params, batch: Batch, key: Array | None) -> Terms:
        """The objective, pure: {name: (sum, weight)}; without a key, without dropout."""
        ...

    def train_batches(
        self, start: DataState, process_index: int, process_count: int
    ) -> Iterator[tuple[Batch, DataState]]:
        """This host's rows of endless batches from `start` on, each with where to go on."""
        ...

    def eval_batches(self, split: str, process_index: int, process_count: int) -> Iterable[Batch]:
        """This host's rows of one pass over a split; the same shapes in every batch."""
        ...

    def count_tokens(self, batch: Batch) -> int:
        """How many of a batch's tokens are real."""
        ...

    def evaluate(self, params: Params, split: str) -> Evaluation:
        """The task's own metrics on a split (beyond the mean loss, which the caller adds)."""
        ...


class TaskConfig(Protocol):
    """A frozen dataclass of a task's settings that knows how to build the task."""

    def build(
        self, *, model: Any, data: Any, batch_size: int, seed: int, workdir: Path, mesh: Mesh
    ) -> Task:
        """Loads the data, makes what is missing in the workdir (a tokenizer), checks all of it."""
        ...

"""Fine-tuning: what all its tasks have in common (arXiv:1810.04805, section 3.2)."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from transformer_jax.data.pipeline import DataState
from transformer_jax.errors import UserError
from transformer_jax.interop.bert_names import Kind
from transformer_jax.models.bert import BertConfig
from transformer_jax.models.bert_tasks import BertWithHead
from transformer_jax.parallel.attention import without_mesh
from transformer_jax.parallel.sharding import TRANSFORMER_RULES, Rules, put_batch
from transformer_jax.tasks.encoder_inputs import encoder_inputs
from transformer_jax.tasks.encoder_start import adopt_encoder, encoder_tokenizer
from transformer_jax.tasks.fine_tuning_data import ExampleRows, FineTuningData
from transformer_jax.tasks.task import Evaluation
from transformer_jax.typing import Array, Batch, Params, Terms


@dataclasses.dataclass(frozen=True)
class HeadConfig:
    """The settings of a task whose head has dropout.

    Attributes:
      head_dropout_rate: dropout of the states that enter the head.
    """

    head_dropout_rate: float = 0.1

    def __post_init__(self) -> None:
        if not 0.0 <= self.head_dropout_rate < 1.0:
            raise ValueError(f"task.head_dropout_rate={self.head_dropout_rate} must be in [0, 1).")


class FineTuning:
    """A pretrained encoder that learns a task; see `Task` for the members, and `adopt_params`.

    A task's own class makes the model, reads a split, and has the loss and the evaluation.

    Attributes:
      kind: which head stands on the encoder.
      labels: the names of its classes; () where there are none.
      model: the encoder with its head.
      tokenizer: of the encoder.
    """

    kind: Kind
    coefficients: Mapping[str, float]
    model: BertWithHead
    labels: tuple[str, ...] = ()
    sharding_rules: Rules = TRANSFORMER_RULES

    def __init__(
        self,
        encoder: BertConfig,
        data: FineTuningData,
        batch_size: int,
        seed: int,
        workdir: Path,
        mesh: Mesh,
    ) -> None:
        """Copies the tokenizer to the workdir, or loads the run's own.

        Raises:
          UserError: there is no tokenizer, or the encoder is too small for it or for the examples.
        """
        self.batch_size, self.seed, self.mesh = batch_size, seed, mesh
        self._rows = data
        if data.longest > encoder.max_positions:
            raise UserError(
                f"Examples have up to {data.longest} tokens, and the model {encoder.max_positions} "
                f"positions. Set --data.example_length {encoder.max_positions}."
            )
        self.tokenizer = encoder_tokenizer(data.tokenizer, data.lowercase, encoder, workdir)
        self._splits: dict[str, Any] = {}

    def init_params(self, key: Array) -> Params:
        """Fresh parameters; `adopt_params` puts a pretrained encoder in the place of theirs."""
        return without_mesh(self.model).init(key, jnp.zeros((1, 2), jnp.int32))["params"]

    def adopt_params(self, params: Params, fresh: Params) -> Params:
        """The encoder of these parameters, and a fresh head."""
        return adopt_encoder(params, fresh)

    def judge(self, params: Params, batch: Batch, key: Array | None) -> Any:
        """What the model says of a batch; without a key, without dropout."""
        return self.model.apply(
            {"params": params},
            **encoder_inputs(batch, self.model.config),
            first_tokens=batch["first_tokens"],
            deterministic=key is None,
            rngs=None if key is None else {"dropout": key},
        )

    def loss_terms(self, params: Params, batch: Batch, key: Array | None) -> Terms:
        """The task's own."""
        raise NotImplementedError

    def evaluate(self, params: Params, split: str) -> Evaluation:
        """The task's own."""
        raise NotImplementedError

    def train_batches(
        self, start: DataState, process_index: int, process_count: int
    ) -> Iterator[tuple[Batch, DataState]]:
        """Packed rows, others in each epoch."""
        rows = self._split("train")
        return rows.batches(self.seed, start, self.batch_size, process_index, process_count)

    def eval_batches(self, split: str, process_index: int, process_count: int) -> Iterable[Batch]:
        """Packed rows of one pass.

        Raises:
          UserError: the split has no labels.
        """
        rows = self._split(split)
        if not rows.labelled:
            hint = " Use --split valid." if self._has_labels("valid") else ""
            raise UserError(f"{self._rows.path} has no labels for {split}.{hint}")
        for batch, following in rows.batches(
            0, DataState(), self.batch_size, process_index, process_count
        ):
            yield batch
            if following.epoch:
                break

    def count_tokens(self, batch: Batch) -> int:
        """Tokens that are not padding."""
        return int(np.count_nonzero(batch["segments"]))

    @functools.cached_property
    def fingerprint(self) -> Mapping[str, Any]:
        """What the batches depend on."""
        return {
            "examples": self._split("train").fingerprint,
            "tokenizer": self.tokenizer.fingerprint,
            "row": [self._rows.row_length, self._rows.places],
            "batch_size": self.batch_size,
            "seed": self.seed,
        }

    @functools.cached_property
    def summary(self) -> str:
        """Sizes of the data, and how well rows are filled."""
        train, valid = self._split("train"), self._split("valid")  # read now: what is bad shows
        plan, examples = train.plan(0, seed=self.seed), train.examples
        filled = len(examples.tokens.tokens) / (len(plan) * self._rows.row_length)
        return (
            f"{self._rows.path}: {self._describe(train)}; to validate {self._describe(valid)}\n"
            f"{len(plan):,} rows of {self._rows.row_length} tokens an epoch, filled {filled:.1%}; "
            f"{np.count_nonzero(examples.cut):,} examples are cut"
        )

    def _judge_all(self, params: Params, split: str) -> np.ndarray:
        """What the model says of each example of a split, which has labels: [N,...]."""
        judge = jax.jit(lambda params, batch: self.judge(params, batch, None))
        found: np.ndarray | None = None
        for batch in self.eval_batches(split, 0, 1):
            with jax.set_mesh(self.mesh):
                values = np.asarray(judge(params, put_batch(batch, self.mesh)))
            if found is None:
                found = np.zeros((len(self._split(split)), *values.shape[2:]), values.dtype)
            there = batch["examples"] >= 0
            found[batch["examples"][there]] = values[there]
        assert found is not None  # a split has examples
        return found

    def _split(self, split: str) -> Any:
        """The rows of a split; the type is the task's own."""
        if split not in self._splits:
            self._splits[split] = self._read(split)
        return self._splits[split]

    def _has_labels(self, split: str) -> bool:
        try:
            return bool(self._split(split).labelled)
        except UserError:  # there is no such split
            return False

    def _read(self, split: str) -> ExampleRows:
        raise NotImplementedError

    def _describe(self, rows: Any) -> str:
        """How many examples there are, and of what."""
        return f"{len(rows):,} examples"

"""Fine-tuning: which of several endings is the right one (arXiv:1810.04805, section 4.4)."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from pathlib import Path

import numpy as np
from jax.sharding import Mesh

from transformer_jax.data.choices import NUM_CHOICES
from transformer_jax.models.bert import BertConfig
from transformer_jax.models.bert_tasks import BertChooser
from transformer_jax.objectives.losses import label_smoothed_cross_entropy, token_accuracy
from transformer_jax.parallel.attention import attention_on, without_mesh
from transformer_jax.parallel.sharding import constrain_activations
from transformer_jax.tasks.choosing_data import ChoiceRows, ChoosingData, read_split
from transformer_jax.tasks.classification_metrics import accuracy
from transformer_jax.tasks.encoder_start import with_pooler
from transformer_jax.tasks.fine_tuning import FineTuning, HeadConfig
from transformer_jax.tasks.task import Evaluation
from transformer_jax.typing import Array, Batch, Params, Terms


@dataclasses.dataclass(frozen=True)
class ChoosingConfig(HeadConfig):
    """The objective: cross-entropy of the right choice among those of its question."""

    def build(
        self,
        *,
        model: BertConfig,
        data: ChoosingData,
        batch_size: int,
        seed: int,
        workdir: Path,
        mesh: Mesh,
    ) -> Choosing:
        """Copies the tokenizer, or loads the run's own.

        Raises:
          UserError: there is no tokenizer, or the model is too small for it or for the examples.
        """
        return Choosing(self, model, data, batch_size, seed, workdir, mesh)


class Choosing(FineTuning):
    """The task; see `FineTuning`."""

    kind = "choice"
    coefficients: Mapping[str, float] = {"loss_of_choice": 1.0}

    def __init__(
        self,
        config: ChoosingConfig,
        model: BertConfig,
        data: ChoosingData,
        batch_size: int,
        seed: int,
        workdir: Path,
        mesh: Mesh,
    ) -> None:
        super().__init__(model, data, batch_size, seed, workdir, mesh)
        self.config, self.data = config, data
        self.model: BertChooser = BertChooser(
            with_pooler(model),
            config.head_dropout_rate,
            attention_fn=attention_on(mesh, model.attention, model.attention_block),
            constrain=constrain_activations(mesh),
            num_choices=NUM_CHOICES,
        )

    def init_params(self, key: Array) -> Params:
        """As of `FineTuning`, on a row of as many examples as a question has choices."""
        tokens = np.zeros((1, NUM_CHOICES), np.int32)
        return without_mesh(self.model).init(key, tokens, first_tokens=tokens)["params"]

    def loss_terms(self, params: Params, batch: Batch, key: Array | None) -> Terms:
        """The loss of the choices; and for information the accuracy."""
        logits = self.judge(params, batch, key)
        labels, weights = batch["labels"], batch["weights"]
        terms = {"loss_of_choice": label_smoothed_cross_entropy(logits, labels, weights)}
        if key is None:
            terms["accuracy"] = token_accuracy(logits, labels, weights)
        return terms

    def evaluate(self, params: Params, split: str) -> Evaluation:
        """Of how many questions the right choice is found."""
        found = self._judge_all(params, split).argmax(-1)
        rows: ChoiceRows = self._split(split)
        assert rows.labels is not None  # _judge_all saw them
        metrics = {"questions": len(rows), "accuracy": accuracy(found, rows.labels)}
        return Evaluation(metrics, "\n".join(f"{name}: {x:.4g}" for name, x in metrics.items()))

    def _read(self, split: str) -> ChoiceRows:
        return read_split(self.data, split, self.tokenizer)

    def _describe(self, rows: ChoiceRows) -> str:
        return f"{len(rows):,} questions with {NUM_CHOICES} choices"

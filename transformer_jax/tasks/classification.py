"""Fine-tuning: classes or scores of texts and pairs of texts (arXiv:1810.04805, section 4.1)."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from transformer_jax.errors import UserError
from transformer_jax.models.bert import BertConfig
from transformer_jax.models.bert_tasks import BertClassifier
from transformer_jax.objectives.losses import label_smoothed_cross_entropy, token_accuracy
from transformer_jax.parallel.attention import attention_on
from transformer_jax.parallel.sharding import constrain_activations
from transformer_jax.tasks.classification_data import (
    ClassificationData,
    LabelledRows,
    read_split,
    run_labels,
)
from transformer_jax.tasks.classification_metrics import (
    accuracy,
    f1,
    glue_metrics,
    pearson,
    spearman,
)
from transformer_jax.tasks.encoder_start import with_pooler
from transformer_jax.tasks.fine_tuning import FineTuning, HeadConfig
from transformer_jax.tasks.task import Evaluation
from transformer_jax.typing import Array, Batch, Params, Terms


@dataclasses.dataclass(frozen=True)
class ClassificationConfig(HeadConfig):
    """The objective: cross-entropy of the classes, or the squared error of a score."""

    def build(
        self,
        *,
        model: BertConfig,
        data: ClassificationData,
        batch_size: int,
        seed: int,
        workdir: Path,
        mesh: Mesh,
    ) -> Classification:
        """Copies the tokenizer and finds the classes, or loads the run's own.

        Raises:
          UserError: the data is missing or malformed, or does not fit the model.
        """
        return Classification(self, model, data, batch_size, seed, workdir, mesh)


class Classification(FineTuning):
    """The task; see `FineTuning`."""

    kind = "classification"
    coefficients: Mapping[str, float] = {"loss_of_label": 1.0}

    def __init__(
        self,
        config: ClassificationConfig,
        model: BertConfig,
        data: ClassificationData,
        batch_size: int,
        seed: int,
        workdir: Path,
        mesh: Mesh,
    ) -> None:
        super().__init__(model, data, batch_size, seed, workdir, mesh)
        self.config, self.data = config, data
        self.labels = run_labels(data, workdir)
        if bool(self.labels) != data.has_classes:
            has, wants = ("classes", "numbers") if self.labels else ("a number", "classes")
            raise UserError(f"The model gives {has}, and the labels of {data.path} are {wants}.")
        self.model: BertClassifier = BertClassifier(
            with_pooler(model),
            config.head_dropout_rate,
            attention_fn=attention_on(mesh, model.attention, model.attention_block),
            constrain=constrain_activations(mesh),
            num_classes=len(self.labels) or 1,
        )

    def loss_terms(self, params: Params, batch: Batch, key: Array | None) -> Terms:
        """The loss of the labels; and for information the accuracy."""
        logits = self.judge(params, batch, key)
        labels, weights = batch["labels"], batch["weights"]
        if not self.labels:
            errors = jnp.square(logits[..., 0] - labels) * weights
            return {"loss_of_label": (jnp.sum(errors), jnp.sum(weights))}
        terms = {"loss_of_label": label_smoothed_cross_entropy(logits, labels, weights)}
        if key is None:
            terms["accuracy"] = token_accuracy(logits, labels, weights)
        return terms

    def evaluate(self, params: Params, split: str) -> Evaluation:
        """The official metrics of a GLUE task; else accuracy (with F1 for two classes), or r."""
        outputs = self._judge_all(params, split)
        rows: LabelledRows = self._split(split)
        assert rows.labels is not None  # _judge_all saw them
        predictions = outputs.argmax(-1) if self.labels else outputs[:, 0]
        metrics: dict[str, Any] = {"examples": len(rows)}
        metrics |= self._metrics(predictions, rows.labels)
        if cut := int(np.count_nonzero(rows.examples.cut)):
            metrics["cut"] = cut
        lines = [f"{name}: {value:.4g}" for name, value in metrics.items()]
        return Evaluation(metrics, "\n".join(lines))

    def _metrics(self, predictions: np.ndarray, labels: np.ndarray) -> dict[str, float]:
        if (name := self.data.glue_name) is not None:
            return glue_metrics(name, predictions, labels)
        if not self.labels:
            return {f.__name__: f(predictions, labels) for f in (pearson, spearman)}
        functions = (accuracy, f1) if len(self.labels) == 2 else (accuracy,)
        return {f.__name__: f(predictions, labels) for f in functions}

    def _read(self, split: str) -> LabelledRows:
        return read_split(self.data, split, self.tokenizer, self.labels)

    def _describe(self, rows: LabelledRows) -> str:
        what = f"{len(self.labels)} classes" if self.labels else "a score"
        return f"{len(rows):,} examples with {what}"

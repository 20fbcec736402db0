"""Fine-tuning: classes or scores of texts and pairs of texts (arXiv:1810.04805, section 4.1)."""

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
from transformer_jax.models.bert import BertConfig
from transformer_jax.models.bert_tasks import BertClassifier
from transformer_jax.objectives.losses import label_smoothed_cross_entropy, token_accuracy
from transformer_jax.parallel.sharding import (
    TRANSFORMER_RULES,
    Rules,
    constrain_activations,
    put_batch,
)
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
from transformer_jax.tasks.encoder_start import adopt_encoder, encoder_tokenizer, with_pooler
from transformer_jax.tasks.task import Evaluation
from transformer_jax.typing import Array, Batch, Params, Terms


@dataclasses.dataclass(frozen=True)
class ClassificationConfig:
    """The objective: cross-entropy of the classes, or the squared error of a score.

    Attributes:
      head_dropout_rate: dropout of the pooled state.
    """

    head_dropout_rate: float = 0.1

    def __post_init__(self) -> None:
        if not 0.0 <= self.head_dropout_rate < 1.0:
            raise ValueError(f"task.head_dropout_rate={self.head_dropout_rate} must be in [0, 1).")

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


class Classification:
    """The task; see `Task` for its members, and `adopt_params`."""

    sharding_rules: Rules = TRANSFORMER_RULES

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
        self.config, self.data = config, data
        self.batch_size, self.seed, self.mesh = batch_size, seed, mesh
        if data.longest > model.max_positions:
            raise UserError(
                f"Examples have up to {data.longest} tokens, and the model {model.max_positions} "
                f"positions. Set --data.example_length {model.max_positions}."
            )
        self.tokenizer = encoder_tokenizer(data.tokenizer, data.lowercase, model, workdir)
        self.labels = run_labels(data, workdir)
        self.model = BertClassifier(
            with_pooler(model),
            config.head_dropout_rate,
            constrain=constrain_activations(mesh),
            num_classes=len(self.labels) or 1,
        )
        self.coefficients: Mapping[str, float] = {"loss_of_label": 1.0}
        self._splits: dict[str, LabelledRows] = {}

    def init_params(self, key: Array) -> Params:
        """Fresh parameters; `adopt_params` puts a pretrained encoder in the place of theirs."""
        return self.model.init(key, jnp.zeros((1, 2), jnp.int32))["params"]

    def adopt_params(self, params: Params, fresh: Params) -> Params:
        """The encoder of these parameters, and a fresh head."""
        return adopt_encoder(params, fresh)

    def loss_terms(self, params: Params, batch: Batch, key: Array | None) -> Terms:
        """The loss of the labels; and for information the accuracy."""
        logits = self._logits(params, batch, key)
        labels, weights = batch["labels"], batch["weights"]
        if not self.labels:
            errors = jnp.square(logits[..., 0] - labels) * weights
            return {"loss_of_label": (jnp.sum(errors), jnp.sum(weights))}
        terms = {"loss_of_label": label_smoothed_cross_entropy(logits, labels, weights)}
        if key is None:
            terms["accuracy"] = token_accuracy(logits, labels, weights)
        return terms

    def train_batches(
        self, start: DataState, process_index: int, process_count: int
    ) -> Iterator[tuple[Batch, DataState]]:
        """Packed rows, others in each epoch."""
        rows = self._split("train")
        return rows.batches(self.seed, start, self.batch_size, process_index, process_count)

    def eval_batches(self, split: str, process_index: int, process_count: int) -> Iterable[Batch]:
        """Packed rows of one pass."""
        rows = self._split(split)
        if rows.labels is None:
            raise UserError(f"{self.data.path} has no labels for {split}. Use --split valid.")
        for batch, following in rows.batches(
            0, DataState(), self.batch_size, process_index, process_count
        ):
            yield batch
            if following.epoch:
                break

    def count_tokens(self, batch: Batch) -> int:
        """Tokens that are not padding."""
        return int(np.count_nonzero(batch["segments"]))

    def evaluate(self, params: Params, split: str) -> Evaluation:
        """The official metrics of a GLUE task; else accuracy (with F1 for two classes), or r."""
        logits_of = jax.jit(lambda params, batch: self._logits(params, batch, None))
        rows = self._split(split)
        outputs = np.zeros((len(rows.examples), self.model.num_classes), np.float32)
        for batch in self.eval_batches(split, 0, 1):
            with jax.set_mesh(self.mesh):
                logits = np.asarray(logits_of(params, put_batch(batch, self.mesh)))
            there = batch["examples"] >= 0
            outputs[batch["examples"][there]] = logits[there]
        assert rows.labels is not None  # eval_batches saw them
        predictions = outputs.argmax(-1) if self.labels else outputs[:, 0]
        metrics: dict[str, Any] = {"examples": len(rows.examples)}
        metrics |= self._metrics(predictions, rows.labels)
        if cut := int(np.count_nonzero(rows.examples.cut)):
            metrics["cut"] = cut
        lines = [f"{name}: {value:.4g}" for name, value in metrics.items()]
        return Evaluation(metrics, "\n".join(lines))

    @functools.cached_property
    def fingerprint(self) -> Mapping[str, Any]:
        """What the batches depend on."""
        return {
            "examples": self._split("train").fingerprint,
            "tokenizer": self.tokenizer.fingerprint,
            "row": [self.data.row_length, self.data.places],
            "batch_size": self.batch_size,
            "seed": self.seed,
        }

    @functools.cached_property
    def summary(self) -> str:
        """Sizes of the data, and how well rows are filled."""
        train, valid = self._split("train"), self._split("valid")  # read now: what is bad shows
        plan = train.plan(0, seed=self.seed)
        filled = len(train.examples.tokens.tokens) / (len(plan) * self.data.row_length)
        what = f"{len(self.labels)} classes" if self.labels else "a score"
        return (
            f"{self.data.path}: {len(train.examples):,} examples with {what}; to validate "
            f"{len(valid.examples):,}\n{len(plan):,} rows of {self.data.row_length} tokens an "
            f"epoch, filled {filled:.1%}; {np.count_nonzero(train.examples.cut):,} examples are cut"
        )

    def _logits(self, params: Params, batch: Batch, key: Array | None) -> Array:
        logits: Any = self.model.apply(
            {"params": params},
            batch["tokens"],
            segments=batch["segments"],
            positions=batch["positions"],
            token_types=batch["token_types"] if self.model.config.type_vocab_size > 1 else None,
            first_tokens=batch["first_tokens"],
            deterministic=key is None,
            rngs=None if key is None else {"dropout": key},
        )
        return logits

    def _metrics(self, predictions: np.ndarray, labels: np.ndarray) -> dict[str, float]:
        if (name := self.data.glue_name) is not None:
            return glue_metrics(name, predictions, labels)
        if not self.labels:
            return {f.__name__: f(predictions, labels) for f in (pearson, spearman)}
        functions = (accuracy, f1) if len(self.labels) == 2 else (accuracy,)
        return {f.__name__: f(predictions, labels) for f in functions}

    def _split(self, split: str) -> LabelledRows:
        if split not in self._splits:
            self._splits[split] = read_split(self.data, split, self.tokenizer, self.labels)
        return self._splits[split]

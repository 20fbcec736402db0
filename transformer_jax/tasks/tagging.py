"""Fine-tuning: tags of words, such as the names among them (arXiv:1810.04805, section 5.3)."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from jax.sharding import Mesh

from transformer_jax.models.bert import BertConfig
from transformer_jax.models.bert_tasks import BertTagger
from transformer_jax.objectives.losses import label_smoothed_cross_entropy, token_accuracy
from transformer_jax.parallel.attention import attention_on
from transformer_jax.parallel.sharding import constrain_activations
from transformer_jax.tasks.entity_metrics import entity_scores
from transformer_jax.tasks.fine_tuning import FineTuning, HeadConfig
from transformer_jax.tasks.tagger import Tagger, marks_entities, odd_tags
from transformer_jax.tasks.tagging_data import TaggedRows, TaggingData, read_split, run_labels
from transformer_jax.tasks.task import Evaluation
from transformer_jax.typing import Array, Batch, Params, Terms


@dataclasses.dataclass(frozen=True)
class TaggingConfig(HeadConfig):
    """The objective: cross-entropy of the tags, at the first piece of each word."""

    def build(
        self,
        *,
        model: BertConfig,
        data: TaggingData,
        batch_size: int,
        seed: int,
        workdir: Path,
        mesh: Mesh,
    ) -> Tagging:
        """Copies the tokenizer and finds the tags, or loads the run's own.

        Raises:
          UserError: the data is missing or malformed, or does not fit the model.
        """
        return Tagging(self, model, data, batch_size, seed, workdir, mesh)


class Tagging(FineTuning):
    """The task; see `FineTuning`."""

    kind = "tagging"
    coefficients: Mapping[str, float] = {"loss_of_tags": 1.0}

    def __init__(
        self,
        config: TaggingConfig,
        model: BertConfig,
        data: TaggingData,
        batch_size: int,
        seed: int,
        workdir: Path,
        mesh: Mesh,
    ) -> None:
        super().__init__(model, data, batch_size, seed, workdir, mesh)
        self.config, self.data = config, data
        self.labels = run_labels(data, workdir)
        self.model: BertTagger = BertTagger(
            dataclasses.replace(model, pooler=False),
            config.head_dropout_rate,
            attention_fn=attention_on(mesh, model.attention, model.attention_block),
            constrain=constrain_activations(mesh),
            num_classes=len(self.labels),
        )

    def loss_terms(self, params: Params, batch: Batch, key: Array | None) -> Terms:
        """The loss of the tags; and for information the accuracy."""
        logits = self.judge(params, batch, key)
        labels, weights = batch["labels"], batch["labels"] >= 0
        terms = {"loss_of_tags": label_smoothed_cross_entropy(logits, labels, weights)}
        if key is None:
            terms["accuracy"] = token_accuracy(logits, labels, weights)
        return terms

    def evaluate(self, params: Params, split: str) -> Evaluation:
        """How many entities are found, if tags mark some, and how many words have their tag."""
        tagger = Tagger(
            self.model,
            params,
            self.tokenizer,
            self.labels,
            mesh=self.mesh,
            max_tokens=self.data.longest,
        )
        rows: TaggedRows = self._split(split)
        found = tagger([sentence.words for sentence in rows.sentences])
        return score_tags(
            [sentence.tags for sentence in rows.sentences],
            found,
            self.labels,
            cut=int(np.count_nonzero(rows.examples.cut)),
            lost=int(rows.lost.sum()),
        )

    def _read(self, split: str) -> TaggedRows:
        return read_split(self.data, split, self.tokenizer, self.labels)

    def _describe(self, rows: TaggedRows) -> str:
        return f"{len(rows):,} sentences with {len(self.labels)} tags"


def score_tags(
    truth: Sequence[Sequence[str]],
    found: Sequence[Sequence[str]],
    labels: Sequence[str],
    *,
    cut: int,
    lost: int,
) -> Evaluation:
    """The scores of entities if all labels mark some, and the share of the words with their tag.

    Args:
      truth: the tags of each sentence.
      found: of the same sentences, as many tags.
      labels: all tags of the model.
      cut: sentences that were too long.
      lost: the words that they lost, whose tags were not looked for.
    """
    pairs = [pair for each in zip(truth, found, strict=True) for pair in zip(*each, strict=True)]
    metrics: dict[str, Any] = {"sentences": len(truth), "words": len(pairs)}
    types: Mapping[str, Mapping[str, Any]] = {}
    if marks_entities(labels):
        scores = entity_scores(truth, found)
        types = scores.pop("types")
        metrics |= {"entities": scores.pop("support"), **scores}
    metrics["accuracy"] = sum(a == b for a, b in pairs) / len(pairs)
    if cut:
        metrics |= {"cut": cut, "lost_words": lost}
    lines = [f"{name}: {_shown(value)}" for name, value in metrics.items()]
    if not types and (odd := odd_tags(labels)):
        lines.append(f"no F1 of entities: of {', '.join(odd)} it is not known what they mark")
    if types:
        lines += ["", f"{'type':<12} precision  recall     f1  entities"]
    for name, of_type in types.items():
        numbers = "  ".join(f"{of_type[key]:6.4f}" for key in ("recall", "f1"))
        lines.append(f"{name:<12}    {of_type['precision']:6.4f}  {numbers}  {of_type['support']}")
    return Evaluation(metrics, "\n".join(lines))


def _shown(value: float) -> str:
    return f"{value:,}" if isinstance(value, int) else f"{value:.4g}"

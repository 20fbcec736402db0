"""Fine-tuning: tags of words, such as the names among them (arXiv:1810.04805, section 5.3)."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from transformer_jax.data.pipeline import DataState
from transformer_jax.errors import UserError
from transformer_jax.models.bert import BertConfig
from transformer_jax.models.bert_tasks import BertTagger
from transformer_jax.objectives.losses import label_smoothed_cross_entropy, token_accuracy
from transformer_jax.parallel.sharding import TRANSFORMER_RULES, Rules, constrain_activations
from transformer_jax.tasks.encoder_start import adopt_encoder, encoder_tokenizer
from transformer_jax.tasks.entity_metrics import entity_scores
from transformer_jax.tasks.tagger import Tagger, marks_entities
from transformer_jax.tasks.tagging_data import TaggedRows, TaggingData, read_split, run_labels
from transformer_jax.tasks.task import Evaluation
from transformer_jax.typing import Array, Batch, Params, Terms


@dataclasses.dataclass(frozen=True)
class TaggingConfig:
    """The objective: cross-entropy of the tags, at the first piece of each word.

    Attributes:
      head_dropout_rate: dropout of the states that enter the head.
    """

    head_dropout_rate: float = 0.1

    def __post_init__(self) -> None:
        if not 0.0 <= self.head_dropout_rate < 1.0:
            raise ValueError(f"task.head_dropout_rate={self.head_dropout_rate} must be in [0, 1).")

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


class Tagging:
    """The task; see `Task` for its members, and `adopt_params`."""

    sharding_rules: Rules = TRANSFORMER_RULES
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
        self.config, self.data = config, data
        self.batch_size, self.seed, self.mesh = batch_size, seed, mesh
        if data.longest > model.max_positions:
            raise UserError(
                f"Sentences have up to {data.longest} tokens, and the model {model.max_positions} "
                f"positions. Set --data.example_length {model.max_positions}."
            )
        self.tokenizer = encoder_tokenizer(data.tokenizer, data.lowercase, model, workdir)
        self.labels = run_labels(data, workdir)
        self.model = BertTagger(
            dataclasses.replace(model, pooler=False),
            config.head_dropout_rate,
            constrain=constrain_activations(mesh),
            num_classes=len(self.labels),
        )
        self._splits: dict[str, TaggedRows] = {}

    def init_params(self, key: Array) -> Params:
        """Fresh parameters; `adopt_params` puts a pretrained encoder in the place of theirs."""
        return self.model.init(key, jnp.zeros((1, 2), jnp.int32))["params"]

    def adopt_params(self, params: Params, fresh: Params) -> Params:
        """The encoder of these parameters, and a fresh head."""
        return adopt_encoder(params, fresh)

    def loss_terms(self, params: Params, batch: Batch, key: Array | None) -> Terms:
        """The loss of the tags; and for information the accuracy."""
        logits: Any = self.model.apply(
            {"params": params},
            batch["tokens"],
            segments=batch["segments"],
            positions=batch["positions"],
            token_types=batch["token_types"] if self.model.config.type_vocab_size > 1 else None,
            deterministic=key is None,
            rngs=None if key is None else {"dropout": key},
        )
        labels, weights = batch["labels"], batch["labels"] >= 0
        terms = {"loss_of_tags": label_smoothed_cross_entropy(logits, labels, weights)}
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
        for batch, following in self._split(split).batches(
            0, DataState(), self.batch_size, process_index, process_count
        ):
            yield batch
            if following.epoch:
                break

    def count_tokens(self, batch: Batch) -> int:
        """Tokens that are not padding."""
        return int(np.count_nonzero(batch["segments"]))

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
        rows = self._split(split)
        found = tagger([sentence.words for sentence in rows.sentences])
        return score_tags(
            [sentence.tags for sentence in rows.sentences],
            found,
            cut=int(np.count_nonzero(rows.words.examples.cut)),
            lost=int(rows.words.lost.sum()),
        )

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
        plan, examples = train.plan(0, seed=self.seed), train.words.examples
        filled = len(examples.tokens.tokens) / (len(plan) * self.data.row_length)
        return (
            f"{self.data.path}: {len(examples):,} sentences with {len(self.labels)} tags; to "
            f"validate {len(valid.sentences):,}\n"
            f"{len(plan):,} rows of {self.data.row_length} tokens an epoch, filled {filled:.1%}; "
            f"{np.count_nonzero(examples.cut):,} sentences are cut"
        )

    def _split(self, split: str) -> TaggedRows:
        if split not in self._splits:
            self._splits[split] = read_split(self.data, split, self.tokenizer, self.labels)
        return self._splits[split]


def score_tags(
    truth: Sequence[Sequence[str]], found: Sequence[Sequence[str]], *, cut: int, lost: int
) -> Evaluation:
    """The scores of entities if all tags mark some, and the share of the words with their tag.

    Args:
      truth: the tags of each sentence.
      found: of the same sentences, as many tags.
      cut: sentences that were too long.
      lost: the words that they lost, whose tags were not looked for.
    """
    pairs = [pair for each in zip(truth, found, strict=True) for pair in zip(*each, strict=True)]
    metrics: dict[str, Any] = {"sentences": len(truth), "words": len(pairs)}
    types: Mapping[str, Mapping[str, Any]] = {}
    if marks_entities([tag for pair in pairs for tag in pair]):
        scores = entity_scores(truth, found)
        types = scores.pop("types")
        metrics |= {"entities": scores.pop("support"), **scores}
    metrics["accuracy"] = sum(a == b for a, b in pairs) / len(pairs)
    if cut:
        metrics |= {"cut": cut, "lost_words": lost}
    lines = [f"{name}: {_shown(value)}" for name, value in metrics.items()]
    if types:
        lines += ["", f"{'type':<12} precision  recall     f1  entities"]
    for name, of_type in types.items():
        numbers = "  ".join(f"{of_type[key]:6.4f}" for key in ("recall", "f1"))
        lines.append(f"{name:<12}    {of_type['precision']:6.4f}  {numbers}  {of_type['support']}")
    return Evaluation(metrics, "\n".join(lines))


def _shown(value: float) -> str:
    return f"{value:,}" if isinstance(value, int) else f"{value:.4g}"

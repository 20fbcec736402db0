"""Fine-tuning: finding the answer to a question in a text (arXiv:1810.04805, sections 4.2, 4.3)."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from transformer_jax.data.squad import Question
from transformer_jax.models.bert import BertConfig
from transformer_jax.models.bert_tasks import BertReader
from transformer_jax.parallel.attention import attention_on
from transformer_jax.parallel.sharding import constrain_activations
from transformer_jax.tasks.answer_search import Answer, best_text, final_answer, null_odds
from transformer_jax.tasks.fine_tuning import FineTuning
from transformer_jax.tasks.reader import Reader
from transformer_jax.tasks.reading_data import ReadingData, ReadingRows, read_split
from transformer_jax.tasks.squad_metrics import best_threshold, squad_scores
from transformer_jax.tasks.task import Evaluation
from transformer_jax.typing import Array, Batch, Params, Terms

_LARGE = 1e9  # the odds of no answer where there is no text: JSON has no infinity


@dataclasses.dataclass(frozen=True)
class ReadingConfig:
    """The objective: cross-entropy of where the answer starts and of where it ends.

    Attributes:
      max_answer_tokens: the most tokens of an answer that an evaluation gives.
      threshold: it gives none if the score of that is more than this above the best text's.
    """

    max_answer_tokens: int = 30
    threshold: float = 0.0

    def __post_init__(self) -> None:
        if self.max_answer_tokens < 1:
            raise ValueError(f"task.max_answer_tokens={self.max_answer_tokens} must be at least 1.")

    def build(
        self,
        *,
        model: BertConfig,
        data: ReadingData,
        batch_size: int,
        seed: int,
        workdir: Path,
        mesh: Mesh,
    ) -> Reading:
        """Copies the tokenizer, or loads the run's own.

        Raises:
          UserError: there is no tokenizer, or the model is too small for it or for the windows.
        """
        return Reading(self, model, data, batch_size, seed, workdir, mesh)


class Reading(FineTuning):
    """The task; see `FineTuning`."""

    kind = "reading"
    coefficients: Mapping[str, float] = {"start": 0.5, "end": 0.5}

    def __init__(
        self,
        config: ReadingConfig,
        model: BertConfig,
        data: ReadingData,
        batch_size: int,
        seed: int,
        workdir: Path,
        mesh: Mesh,
    ) -> None:
        super().__init__(model, data, batch_size, seed, workdir, mesh)
        self.config, self.data = config, data
        self.model: BertReader = BertReader(
            dataclasses.replace(model, pooler=False),
            attention_fn=attention_on(mesh, model.attention, model.attention_block),
            constrain=constrain_activations(mesh),
        )

    def loss_terms(self, params: Params, batch: Batch, key: Array | None) -> Terms:
        """The losses of the first and of the last token of the answer."""
        logits = self.judge(params, batch, key)
        segments, weights = batch["segments"], batch["weights"]
        return {
            name: place_cross_entropy(side, batch[f"{name}s"], segments, weights)
            for name, side in zip(("start", "end"), logits, strict=True)
        }

    def evaluate(self, params: Params, split: str) -> Evaluation:
        """The figures of SQuAD 1.1; of 2.0 where there are questions that have no answer."""
        reader = Reader(
            self.model,
            params,
            self.tokenizer,
            mesh=self.mesh,
            max_tokens=self.data.longest,
            stride=self.data.stride,
            max_question_tokens=self.data.max_question_tokens,
        )
        questions = self._split(split).questions
        null = any(question.impossible for question in questions)
        most = self.config.max_answer_tokens
        found = reader(questions, null=null, max_answer_tokens=most)
        return score_answers(questions, found, self.config.threshold)

    def _read(self, split: str) -> ReadingRows:
        return read_split(self.data, split, self.tokenizer)

    def _describe(self, rows: ReadingRows) -> str:
        whole = np.count_nonzero(rows.answers[:, 0])
        return (
            f"{len(rows.questions):,} questions in {len(rows):,} windows, {whole:,} of them with "
            f"an answer"
        )


def place_cross_entropy(
    logits: Array, places: Array, segments: Array, weights: Array
) -> tuple[Array, Array]:
    """Cross-entropy of a token of each packed example, among the tokens of that example alone.

    Args:
      logits: [B,T].
      places: int [B,E], where in its row the right token of each example stands.
      segments: int [B,T], the number of the example in its row, from 1.
      weights: [B,E], 0 where there is no example.

    Returns:
      The weighted sum of the losses and the sum of the weights, float32 [], [].
    """
    logits, weights = logits.astype(jnp.float32), weights.astype(jnp.float32)
    inside = segments[:, None] == jnp.arange(1, places.shape[1] + 1)[:, None]  # [B,E,T]
    inside |= (weights == 0.0)[..., None]  # a sum over no token would be -inf, and NaN times 0
    normalizer = jax.nn.logsumexp(jnp.where(inside, logits[:, None], -jnp.inf), axis=-1)
    right = jnp.take_along_axis(logits, places, axis=1)
    return jnp.sum((normalizer - right) * weights), jnp.sum(weights)


def score_answers(
    questions: Sequence[Question], found: Sequence[Sequence[Answer]], threshold: float = 0.0
) -> Evaluation:
    """The official figures, five questions to read, and the files of Google's run_squad.py.

    Args:
      questions: one or more.
      found: the answers to each, with that there is none if this is so of any question.
      threshold: see `ReadingConfig`.
    """
    pairs = list(zip(questions, found, strict=True))
    given = {question.id: final_answer(answers, threshold) for question, answers in pairs}
    metrics: dict[str, Any] = squad_scores(questions, given)
    files: dict[str, Any] = {
        "predictions.json": given,
        "nbest_predictions.json": {q.id: [_shown(a) for a in answers] for q, answers in pairs},
    }
    if any(question.impossible for question in questions):
        texts = {question.id: best_text(answers) for question, answers in pairs}
        odds = {question.id: null_odds(answers) for question, answers in pairs}
        metrics |= best_threshold(questions, texts, odds)
        files["null_odds.json"] = {i: x if math.isfinite(x) else _LARGE for i, x in odds.items()}
    lines = [f"{name}: {value:.4g}" for name, value in metrics.items() if "total" not in name]
    lines += [f"questions: {len(questions):,}"]
    for i in np.linspace(0, len(questions) - 1, min(5, len(questions))).astype(int):
        true = dict.fromkeys(text for text, _ in questions[i].answers)
        lines += ["", f"question  {questions[i].question.strip()}"]
        lines += [f"true      {' | '.join(true) or '(none)'}"]
        lines += [f"found     {given[questions[i].id] or '(none)'}"]
    return Evaluation(metrics, "\n".join(lines), files)


def _shown(answer: Answer) -> dict[str, Any]:
    return {"text": answer.text, "probability": answer.probability, "score": answer.score}

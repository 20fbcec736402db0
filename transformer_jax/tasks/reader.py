"""Answers that stand in a text, by a model that was trained to find them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from transformer_jax.data.encoder_tokenizer import EncoderTokenizer
from transformer_jax.data.squad import Question
from transformer_jax.models.bert_tasks import BertReader
from transformer_jax.tasks.answer_search import Answer, best_answers
from transformer_jax.tasks.encoder_inputs import encoder_inputs
from transformer_jax.tasks.example_engine import ExampleEngine
from transformer_jax.tasks.reading_data import question_windows, window_examples
from transformer_jax.typing import Array, Batch, Params

LONGEST = 384  # tokens of a window if nothing else is said, as of Google's run_squad.py


class Reader:
    """Calls on questions: the best answers to each, the best first.

    A context that is too long is read in windows that overlap, with the question before each.

    Attributes:
      max_question_tokens: a longer question is cut.
    """

    def __init__(
        self,
        model: BertReader,
        params: Params,
        tokenizer: EncoderTokenizer,
        *,
        mesh: Mesh,
        max_tokens: int | None = None,
        stride: int = 128,
        max_question_tokens: int | None = None,
    ) -> None:
        """Compiles when it is called.

        Args:
          model: scores the tokens.
          params: its parameters.
          tokenizer: of the model.
          mesh: the devices.
          max_tokens: of a window, with its question; None: `LONGEST`, or all that a smaller model
            has places for.
          stride: from the beginning of a window to that of the next one, in tokens.
          max_question_tokens: None: 64, or a quarter of a shorter window.
        """
        self._max_tokens = max_tokens or min(LONGEST, model.config.max_positions)
        self.max_question_tokens = max_question_tokens or min(64, self._max_tokens // 4)
        self._tokenizer, self._stride = tokenizer, stride

        def judge(params: Params, batch: Batch) -> Array:
            logits: Any = model.apply(
                {"params": params},
                **encoder_inputs(batch, model.config),
            )
            return jnp.stack(logits, axis=-1)

        self._run = ExampleEngine(judge, params, mesh=mesh, max_tokens=self._max_tokens)

    def __call__(
        self,
        questions: Sequence[Question],
        *,
        null: bool,
        n_best: int = 20,
        max_answer_tokens: int = 30,
    ) -> list[list[Answer]]:
        """The answers to each question; see `best_answers`, also for the arguments."""
        if not questions:
            return []
        of_questions = question_windows(
            self._tokenizer,
            questions,
            max_tokens=self._max_tokens,
            stride=self._stride,
            max_question_tokens=self.max_question_tokens,
        )
        flat = [window for windows in of_questions for window in windows]
        logits = iter(self._run.of_tokens(window_examples(self._tokenizer, flat)))
        answers = []
        for question, windows in zip(questions, of_questions, strict=True):
            sides = [self._of_window(next(logits), len(w.question_ids)) for w in windows]
            answers.append(
                best_answers(
                    windows,
                    [side[:, 0] for side in sides],
                    [side[:, 1] for side in sides],
                    question.context,
                    null=null,
                    n_best=n_best,
                    max_answer_tokens=max_answer_tokens,
                )
            )
        return answers

    def cut(self, question: str) -> int:
        """How many tokens of a question are left out."""
        [encoded] = self._tokenizer.encode([question.strip()])
        return max(0, len(encoded.ids) - self.max_question_tokens)

    def _of_window(self, logits: np.ndarray, question_tokens: int) -> np.ndarray:
        """The logits [T,2] without those of the second [SEP] between, if there are two."""
        if not self._tokenizer.separates_twice:
            return logits
        return np.delete(logits, question_tokens + 2, axis=0)

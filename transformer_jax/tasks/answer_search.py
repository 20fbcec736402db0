"""From the logits of a question's windows to its best answers, as Google's run_squad.py does."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from transformer_jax.data.squad import SPECIAL_TOKENS, Window


class Answer(NamedTuple):
    """An answer: characters start_char..end_char-1 of the context.

    That there is no answer is the text "", from 0 to 0.
    """

    text: str
    probability: float  # among the answers that were found
    start_char: int
    end_char: int
    score: float  # start logit + end logit


def best_answers(
    windows: Sequence[Window],
    start_logits: Sequence[np.ndarray],
    end_logits: Sequence[np.ndarray],
    context: str,
    *,
    null: bool,
    n_best: int = 20,
    max_answer_tokens: int = 30,
) -> list[Answer]:
    """The n best answers to a question, all different, the best first (arXiv:1810.04805, 4.2, 4.3).

    An answer is any of the n best starts of a window with any of its n best ends, if both are in
    the context, in this order and not too far apart, and no other window shows more around the
    start.

    Args:
      windows: of one question.
      start_logits: float [T] of each window, of all its tokens: [CLS] question [SEP] context [SEP].
      end_logits: likewise.
      context: of the question.
      null: whether there may be no answer (SQuAD 2.0). Its score is that of [CLS] in the window
        where this is lowest; it is always among the answers, if need be as one more.
      n_best: how many starts, ends, and answers.
      max_answer_tokens: the most tokens of an answer.

    Returns:
      n_best answers, or fewer if there are not so many.

    Raises:
      ValueError: the logits are not those of the windows' tokens.
    """
    found = [
        _spans(window, np.asarray(start, np.float64), np.asarray(end, np.float64), n_best)
        for window, start, end in zip(windows, start_logits, end_logits, strict=True)
    ]
    first, last, tokens, score = (np.concatenate(column) for column in zip(*found, strict=True))
    best: dict[str, Answer] = {}
    for i in np.argsort(-score, kind="stable"):
        if tokens[i] > max_answer_tokens:
            continue
        text = context[first[i] : last[i]]
        if text not in best:
            best[text] = Answer(text, 0.0, int(first[i]), int(last[i]), float(score[i]))
        if len(best) == n_best:
            break
    answers = list(best.values())
    if null:
        pairs = zip(start_logits, end_logits, strict=True)
        none = Answer("", 0.0, 0, 0, min(float(s[0]) + float(e[0]) for s, e in pairs))
        rank = sum(answer.score >= none.score for answer in answers)
        answers.insert(rank, none)
        answers = answers[: max(n_best, rank + 1)]
    return _with_probabilities(answers)


def null_odds(answers: Sequence[Answer]) -> float:
    """How far the score of no answer is above that of the best text; inf if there is no text.

    Args:
      answers: of `best_answers` with `null`.
    """
    [none] = (answer.score for answer in answers if not answer.text)
    return none - max((answer.score for answer in answers if answer.text), default=-math.inf)


def best_text(answers: Sequence[Answer]) -> str:
    """The best answer that is a text; "" if there is none."""
    return next((answer.text for answer in answers if answer.text), "")


def final_answer(answers: Sequence[Answer], threshold: float = 0.0) -> str:
    """The answer to give: "" if it is among the answers and its odds are above the threshold."""
    can_be_null = any(not answer.text for answer in answers)
    return "" if can_be_null and null_odds(answers) > threshold else best_text(answers)


def _spans(
    window: Window, start: np.ndarray, end: np.ndarray, n_best: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """A window's answers: their first and last characters, numbers of tokens, and scores; [m]."""
    offset, count = len(window.question_ids) + 2, len(window.context_ids)
    if start.shape != end.shape or len(start) != offset - 2 + count + SPECIAL_TOKENS:
        raise ValueError(
            f"the logits have the shapes {start.shape} and {end.shape}, but the window has "
            f"{offset - 2} + {count} + {SPECIAL_TOKENS} tokens"
        )
    starts, ends = (np.argsort(-x, kind="stable")[:n_best] - offset for x in (start, end))
    starts = starts[(starts >= 0) & (starts < count)]
    ends = ends[(ends >= 0) & (ends < count)]
    starts = starts[window.has_max_context[starts]]
    a, b = (x.reshape(-1) for x in np.meshgrid(starts, ends, indexing="ij"))
    a, b = a[a <= b], b[a <= b]
    return (
        window.spans[a, 0],
        window.spans[b, 1],
        b - a + 1,
        start[a + offset] + end[b + offset],
    )


def _with_probabilities(answers: list[Answer]) -> list[Answer]:
    """The softmax of the scores, as the answers' probabilities."""
    scores = np.array([answer.score for answer in answers])
    weights = np.exp(scores - scores.max(initial=-np.inf))
    shares = (weights / weights.sum()).tolist()
    return [a._replace(probability=share) for a, share in zip(answers, shares, strict=True)]

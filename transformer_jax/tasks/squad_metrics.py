"""Exact match and F1 of answers, as the official scripts of SQuAD 1.1 and 2.0 compute them."""

from __future__ import annotations

import re
import string
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from transformer_jax.data.squad import Question

_PUNCTUATION = str.maketrans("", "", string.punctuation)
_ARTICLES = re.compile(r"\b(a|an|the)\b")


def normalize_answer(text: str) -> str:
    """A text in lower case, without ASCII punctuation and articles, its words a space apart."""
    bare = text.lower().translate(_PUNCTUATION)
    return " ".join(_ARTICLES.sub(" ", bare).split())


def exact_match(prediction: str, answers: Sequence[str]) -> float:
    """1 if the prediction is one of the answers but for what `normalize_answer` drops, or else 0.

    Args:
      prediction: the answer that was given; "" for none.
      answers: the true ones; [""] if there is none.
    """
    found = normalize_answer(prediction)
    return float(any(normalize_answer(answer) == found for answer in answers))


def f1_score(prediction: str, answers: Sequence[str]) -> float:
    """The F1 of the prediction's words and those of the answer that it is closest to.

    Args:
      prediction: as for `exact_match`.
      answers: likewise.
    """
    words = normalize_answer(prediction).split()
    return max(_word_f1(words, answer) for answer in answers)


def squad_scores(questions: Sequence[Question], predictions: Mapping[str, str]) -> dict[str, float]:
    """The official figures, in percent.

    If there is a question that has no answer, the rules are those of SQuAD 2.0: an answer of which
    `normalize_answer` leaves nothing does not count.

    Args:
      questions: one or more.
      predictions: {id: answer} of all the questions; "" for none.

    Returns:
      exact, f1, total: over all questions; `total` is their number.
      HasAns_exact, ..., NoAns_exact, ...: over those that have an answer and those that have none,
        if there is a question of either kind.

    Raises:
      ValueError: a question has no prediction, or there are no questions.
    """
    exact, f1 = _scores(questions, predictions)
    impossible = np.array([question.impossible for question in questions])
    chosen = {"": np.ones(len(questions), bool)}
    if impossible.any():
        chosen |= {"HasAns_": ~impossible, "NoAns_": impossible}
    figures: dict[str, float] = {}
    for name, of in chosen.items():
        if of.any():
            figures[f"{name}exact"] = 100 * float(exact[of].mean())
            figures[f"{name}f1"] = 100 * float(f1[of].mean())
            figures[f"{name}total"] = int(of.sum())
    return figures


def best_threshold(
    questions: Sequence[Question],
    predictions: Mapping[str, str],
    null_odds: Mapping[str, float],
) -> dict[str, float]:
    """The thresholds above whose odds "" is the better answer, and what they give, in percent.

    Questions of equal odds are all answered or none, so that a threshold does give what is said of
    it. Of equally good thresholds it is the lowest. If it is best to answer none, it is 0, as in
    the official script, or what is just below the lowest odds if these are not above 0.

    Args:
      questions: as for `squad_scores`.
      predictions: {id: the best text}, whatever the odds.
      null_odds: {id: how far "" is above this text}, of all the questions.

    Returns:
      best_exact, best_f1: the figures of `squad_scores` with these thresholds.
      best_exact_thresh, best_f1_thresh: the thresholds.

    Raises:
      ValueError: a question has no prediction or no odds, or there are no questions.
    """
    odds = np.array(_of_all(questions, null_odds, "odds"), np.float64)
    given = _scores(questions, predictions)
    withheld = _scores(questions, {question.id: "" for question in questions})
    order = np.argsort(odds, kind="stable")
    rising = odds[order]
    lowest = float(rising[0])
    thresholds = [0.0 if lowest > 0 else float(np.nextafter(lowest, -np.inf)), *rising.tolist()]
    is_last = np.append(rising[1:] != rising[:-1], True)  # of equal odds
    figures: dict[str, float] = {}
    for name, score, without in zip(("exact", "f1"), given, withheld, strict=True):
        totals = without.sum() + np.cumsum((score - without)[order])
        totals = np.append(without.sum(), np.where(is_last, totals, -np.inf))
        best = int(totals.argmax())
        figures[f"best_{name}"] = 100 * float(totals[best]) / len(questions)
        figures[f"best_{name}_thresh"] = thresholds[best]
    return figures


def _scores(
    questions: Sequence[Question], predictions: Mapping[str, str]
) -> tuple[np.ndarray, np.ndarray]:
    """Exact match and F1 of each question, from 0 to 1: float64 [n]."""
    given = _of_all(questions, predictions, "prediction")
    if any(question.impossible for question in questions):
        truths = [
            [text for text, _ in question.answers if normalize_answer(text)] or [""]
            for question in questions
        ]
    else:
        truths = [[text for text, _ in question.answers] for question in questions]
    pairs = list(zip(given, truths, strict=True))
    return (
        np.array([exact_match(*pair) for pair in pairs]),
        np.array([f1_score(*pair) for pair in pairs]),
    )


def _of_all(questions: Sequence[Question], found: Mapping[str, Any], what: str) -> list[Any]:
    if not questions:
        raise ValueError("there are no questions")
    if missing := [question.id for question in questions if question.id not in found]:
        raise ValueError(f"{len(missing)} questions have no {what}, the first is {missing[0]}")
    return [found[question.id] for question in questions]


def _word_f1(words: Sequence[str], answer: str) -> float:
    if not answer:  # there is none
        return float(not words)
    true = normalize_answer(answer).split()
    common = sum((Counter(words) & Counter(true)).values())
    return 2 * common / (len(words) + len(true)) if common else 0.0

"""What classification and regression of texts are judged by; the metrics of GLUE."""

from __future__ import annotations

import math

import numpy as np

from transformer_jax.data.glue import glue_task


def glue_metrics(name: str, predictions: np.ndarray, labels: np.ndarray) -> dict[str, float]:
    """The official metrics of a GLUE task (arXiv:1804.07461, table 1; of its diagnostic set R_3).

    Args:
      name: a task, as `data.glue` calls it.
      predictions: class numbers; for regression the scores: [examples].
      labels: what they should be: [examples].

    Raises:
      UserError: GLUE has no such task.
    """
    return {metric: _METRICS[metric](predictions, labels) for metric in glue_task(name).metrics}


def accuracy(predictions: np.ndarray, labels: np.ndarray) -> float:
    """The share of predictions that are right: [examples], [examples]."""
    predictions, labels = _checked(predictions, labels)
    return float(np.mean(predictions == labels))


def f1(predictions: np.ndarray, labels: np.ndarray) -> float:
    """Harmonic mean of precision and recall of class 1: [examples], [examples].

    0 where class 1 is neither predicted nor there.
    """
    predictions, labels = _checked(predictions, labels)
    found, there = predictions == 1, labels == 1
    total = np.sum(found) + np.sum(there)
    return float(2 * np.sum(found & there) / total) if total else 0.0


def matthews(predictions: np.ndarray, labels: np.ndarray) -> float:
    """Matthews' correlation of two assignments to any number of classes: [examples], [examples].

    For more than two classes it is R_K (Gorodkin 2004, Comput. Biol. Chem. 28). 0
    where the predictions or the labels are all the same.
    """
    predictions, labels = _checked(predictions, labels)
    _, numbers = np.unique(np.concatenate([predictions, labels]), return_inverse=True)
    numbers = numbers.reshape(2, -1)
    # In Python's integers, whose products of counts do not overflow.
    found, there = (np.bincount(side, minlength=numbers.max() + 1).tolist() for side in numbers)
    count, right = len(labels), int(np.sum(predictions == labels))

    def spread(a: list[int], b: list[int]) -> int:
        return sum(x * y for x, y in zip(a, b, strict=True))

    variances = (count**2 - spread(found, found)) * (count**2 - spread(there, there))
    return (right * count - spread(found, there)) / math.sqrt(variances) if variances else 0.0


def pearson(predictions: np.ndarray, labels: np.ndarray) -> float:
    """Pearson's correlation: [examples], [examples].

    0 where the predictions or the labels are all the same, NaN where one is not finite.
    """
    predictions, labels = _checked(predictions, labels)
    if not (np.all(np.isfinite(predictions)) and np.all(np.isfinite(labels))):
        return math.nan
    correlation = float(_standardized(predictions) @ _standardized(labels))
    return min(1.0, max(-1.0, correlation))  # rounding may lead out of the range


def spearman(predictions: np.ndarray, labels: np.ndarray) -> float:
    """Spearman's correlation, that of the ranks, with ties at their mean: [examples], [examples].

    0 where the predictions or the labels are all the same, NaN where one is not finite.
    """
    predictions, labels = _checked(predictions, labels)
    if not (np.all(np.isfinite(predictions)) and np.all(np.isfinite(labels))):
        return math.nan  # ranks would hide it
    return pearson(_ranks(predictions), _ranks(labels))


_METRICS = {
    "accuracy": accuracy,
    "f1": f1,
    "matthews": matthews,
    "pearson": pearson,
    "spearman": spearman,
}


def _checked(predictions: np.ndarray, labels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    predictions, labels = np.asarray(predictions), np.asarray(labels)
    if predictions.shape != labels.shape or labels.ndim != 1 or not labels.size:
        raise ValueError(
            f"Predictions of shape {predictions.shape} for labels of shape {labels.shape}: both "
            f"have to be [examples], with at least one."
        )
    return predictions, labels


def _standardized(values: np.ndarray) -> np.ndarray:
    """Centred and of length 1, in float64; zeros where all values are the same."""
    values = values.astype(np.float64)
    # Values that are the same become exactly 1 or -1, of which the mean is exact too.
    values = values / (np.max(np.abs(values)) or 1.0)
    values = values - np.mean(values)
    return values / (np.linalg.norm(values) or 1.0)


def _ranks(values: np.ndarray) -> np.ndarray:
    """Ranks from 1; values that are the same share the mean of their ranks."""
    _, places, counts = np.unique(values, return_inverse=True, return_counts=True)
    return (np.cumsum(counts) - (counts - 1) / 2)[places]

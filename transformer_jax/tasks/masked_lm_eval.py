"""How good a pretrained encoder is: beside guessing by frequency, and on pairs of text."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from transformer_jax.tasks.task import Evaluation

_Z = 1.959964  # of the normal distribution, for 95 % between both sides


def unigram_baseline(unigrams: np.ndarray, targets: np.ndarray) -> tuple[float, float]:
    """Loss in nats and accuracy of predicting each token by its frequency in the training text.

    Each token is counted once more than it stands there, so that none is impossible.

    Args:
      unigrams: int [V], how often each token stands in the training text.
      targets: int [n], the tokens to predict.
    """
    smoothed = unigrams + 1.0
    loss = math.log(smoothed.sum()) - np.log(smoothed[targets]).mean()
    return float(loss), float((targets == unigrams.argmax()).mean())


def wilson_interval(right: float, total: float) -> tuple[float, float]:
    """The 95 % confidence interval of a share (E. B. Wilson, 1927, JASA 22)."""
    share, z = right / total, _Z
    middle = share + z * z / (2 * total)
    half = z * math.sqrt(share * (1 - share) / total + z * z / (4 * total * total))
    return (middle - half) / (1 + z * z / total), (middle + half) / (1 + z * z / total)


def report_pretraining(
    totals: Mapping[str, Any],
    unigrams: np.ndarray,
    targets: np.ndarray,
    sentences: Sequence[str],
) -> Evaluation:
    """Puts an evaluation together.

    Args:
      totals: the sum and the weight of each of the task's terms over the split.
      unigrams: int [V], of the training text.
      targets: int [n], the tokens that were predicted.
      sentences: some that were filled, to read.
    """
    means = {name: total / max(weight, 1e-9) for name, (total, weight) in totals.items()}
    loss, accuracy = unigram_baseline(unigrams, targets)
    metrics: dict[str, Any] = {
        "masked_tokens": len(targets),
        "unigram_loss": round(loss, 4),
        "unigram_accuracy": round(accuracy, 4),
    }
    lines = [
        f"masked tokens: loss {means['mlm']:.3f} nats, accuracy {means['mlm_accuracy']:.1%} of "
        f"{len(targets):,}",
        f"by frequency:  loss {loss:.3f} nats, accuracy {accuracy:.1%}",
    ]
    if "pair_accuracy" in totals:
        right, count = totals["pair_accuracy"]
        low, high = wilson_interval(right, count)
        metrics |= {"pairs": int(count), "pair_interval": [round(low, 4), round(high, 4)]}
        lines.append(
            f"pairs: accuracy {means['pair_accuracy']:.1%} of {int(count):,}, 95 % interval "
            f"{low:.1%} to {high:.1%}"
        )
    return Evaluation(metrics, "\n".join([*lines, "", *sentences]).rstrip())

"""Scoring translations with sacreBLEU."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import sacrebleu

from transformer_jax.tasks.task import Evaluation


def score_translations(pairs: Sequence[tuple[str, str]], hypotheses: Sequence[str]) -> Evaluation:
    """BLEU and chrF of sacreBLEU (arXiv:1804.08771), and ten sentences to read."""
    references = [[target for _, target in pairs]]
    bleu, chrf = sacrebleu.BLEU(), sacrebleu.CHRF()
    bleu_score = bleu.corpus_score(list(hypotheses), references)
    chrf_score = chrf.corpus_score(list(hypotheses), references)
    lines = [f"{bleu_score}  {bleu.get_signature()}", f"{chrf_score}  {chrf.get_signature()}", ""]
    count = min(10, len(pairs))
    for i in np.linspace(0, len(pairs) - 1, count).astype(int):
        source, reference = pairs[i]
        lines += [f"source       {source}", f"reference    {reference}"]
        lines += [f"translation  {hypotheses[i]}", ""]
    metrics = {
        "bleu": round(bleu_score.score, 2),
        "chrf": round(chrf_score.score, 2),
        "sentences": len(pairs),
        "bleu_signature": str(bleu.get_signature()),
    }
    return Evaluation(metrics, "\n".join(lines).rstrip())

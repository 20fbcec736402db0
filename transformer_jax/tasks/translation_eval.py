"""Translating a list of sentences, and scoring the translations."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import Any

import jax
import numpy as np
import sacrebleu
from jax.sharding import Mesh

from transformer_jax.data.tokenizers import SentencePieceTokenizer
from transformer_jax.decoding.beam import beam_search, gnmt_length_penalty, repeat_for_beams
from transformer_jax.models.transformer import Transformer
from transformer_jax.parallel.mesh import batch_shards
from transformer_jax.parallel.sharding import put_batch
from transformer_jax.tasks.task import Evaluation
from transformer_jax.typing import Array, Params

BATCH_SENTENCES = 64
LENGTH_STEP = 16  # sources are padded to multiples of it, so that few shapes are compiled
EXTRA_LENGTH = 50  # a translation may be this much longer than its source (section 6.1)


def make_beam_fn(
    model: Transformer, tokenizer: SentencePieceTokenizer, *, beam_size: int, length_penalty: float
) -> Callable[[Params, Array], Array]:
    """Makes `search(params, source [B,S]) -> tokens [B,S+50]`, jitted; source 0 is padding."""

    @jax.jit
    def search(params: Params, source: Array) -> Array:
        apply: Any = functools.partial(model.apply, {"params": params})
        batch_size, length = source.shape
        encoded = apply(source, segments=(source != 0).astype(np.int32), method="encode")
        memory = repeat_for_beams(apply(encoded, method="memory"), beam_size, axis=1)
        valid = repeat_for_beams(source != 0, beam_size, axis=0)

        def step(tokens: Array, cache: Array, index: Array) -> tuple[Array, Array]:
            return apply(tokens, memory, cache, index, source_valid=valid, method="decode_step")

        max_length = length + EXTRA_LENGTH
        cache = apply(batch_size * beam_size, max_length, method="empty_cache")
        found = beam_search(
            step,
            cache,
            batch_size=batch_size,
            beam_size=beam_size,
            bos_id=tokenizer.bos_id,
            eos_id=tokenizer.eos_id,
            pad_id=tokenizer.pad_id,
            max_length=max_length,
            score=gnmt_length_penalty(length_penalty),
            cache_batch_axis=1,
        )
        return found.tokens[:, 0]

    return search


def translate(
    model: Transformer,
    params: Params,
    tokenizer: SentencePieceTokenizer,
    sentences: Sequence[str],
    *,
    mesh: Mesh,
    beam_size: int,
    length_penalty: float,
) -> list[str]:
    """Translates sentences of any lengths; the order is kept."""
    search = make_beam_fn(model, tokenizer, beam_size=beam_size, length_penalty=length_penalty)
    sources = [[*ids, tokenizer.eos_id] for ids in tokenizer.encode(sentences)]
    by_length = sorted(range(len(sources)), key=lambda i: len(sources[i]))
    shards = batch_shards(mesh)
    rows = -(-BATCH_SENTENCES // shards) * shards
    translations = [""] * len(sources)
    for first in range(0, len(by_length), rows):
        chosen = by_length[first : first + rows]
        longest = len(sources[chosen[-1]])
        padded = np.zeros((rows, -(-longest // LENGTH_STEP) * LENGTH_STEP), np.int32)
        padded[:, 0] = tokenizer.eos_id  # rows without a sentence still need something to see
        for row, i in enumerate(chosen):
            padded[row, : len(sources[i])] = sources[i]
        with jax.set_mesh(mesh):
            tokens = np.asarray(search(params, put_batch({"source": padded}, mesh)["source"]))
        texts = tokenizer.decode(tokens[: len(chosen)].tolist())
        for i, text in zip(chosen, texts, strict=True):
            translations[i] = text
    return translations


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

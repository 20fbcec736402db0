"""Translating sentences of any lengths with beam search."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np
from jax.sharding import Mesh

from transformer_jax.data.tokenizers import SentencePieceTokenizer
from transformer_jax.decoding.beam import (
    BeamResult,
    beam_search,
    gnmt_length_penalty,
    repeat_for_beams,
)
from transformer_jax.models.transformer import Transformer
from transformer_jax.parallel.mesh import batch_shards
from transformer_jax.parallel.sharding import put_batch
from transformer_jax.typing import Array, Params

BATCH_SENTENCES = 64
LENGTH_STEP = 16  # sources are padded to multiples of it, so that few shapes are compiled
EXTRA_LENGTH = 50  # a translation may be this much longer than its source (section 6.1)


class Hypothesis(NamedTuple):
    """A translation, and its score by the search's rule: a log-probability over a penalty."""

    text: str
    score: float


class Translator:
    """Translates with one compiled search for each padded length.

    Args:
      model: the Transformer.
      params: its parameters, on the mesh.
      tokenizer: for both languages.
      mesh: sentences are split over its slices of the batch.
      beam_size: hypotheses K of the search.
      length_penalty: alpha of ((5 + length) / 6)^alpha (arXiv:1609.08144, section 7).
    """

    def __init__(
        self,
        model: Transformer,
        params: Params,
        tokenizer: SentencePieceTokenizer,
        *,
        mesh: Mesh,
        beam_size: int,
        length_penalty: float,
    ) -> None:
        self.tokenizer = tokenizer
        self._params, self._mesh = params, mesh
        self._search = make_search(
            model, tokenizer, beam_size=beam_size, length_penalty=length_penalty
        )

    def encode(self, sentences: Sequence[str]) -> list[list[int]]:
        """The sources that the model reads, each with its end token."""
        return [[*ids, self.tokenizer.eos_id] for ids in self.tokenizer.encode(sentences)]

    def __call__(self, sources: Sequence[Sequence[int]]) -> list[list[Hypothesis]]:
        """For each source up to K hypotheses, best first; in the order of the sources."""
        by_length = sorted(range(len(sources)), key=lambda i: len(sources[i]))
        shards = batch_shards(self._mesh)
        rows = -(-BATCH_SENTENCES // shards) * shards
        found: list[list[Hypothesis]] = [[] for _ in sources]
        for first in range(0, len(by_length), rows):
            chosen = by_length[first : first + rows]
            result = self._run([sources[i] for i in chosen], rows)
            for row, i in enumerate(chosen):
                texts = self.tokenizer.decode(result.tokens[row].tolist())
                scored = zip(texts, result.scores[row].tolist(), strict=True)
                found[i] = [Hypothesis(*pair) for pair in scored if pair[1] > -np.inf]
        return found

    def _run(self, sources: Sequence[Sequence[int]], rows: int) -> BeamResult:
        longest = max(len(source) for source in sources)
        padded = np.zeros((rows, -(-longest // LENGTH_STEP) * LENGTH_STEP), np.int32)
        padded[:, 0] = self.tokenizer.eos_id  # rows without a sentence still need something to see
        for row, source in enumerate(sources):
            padded[row, : len(source)] = source
        with jax.set_mesh(self._mesh):
            batch = put_batch({"source": padded}, self._mesh)
            return jax.device_get(self._search(self._params, batch["source"]))


def make_search(
    model: Transformer, tokenizer: SentencePieceTokenizer, *, beam_size: int, length_penalty: float
) -> Callable[[Params, Array], BeamResult]:
    """Makes `search(params, source [B,S]) -> BeamResult`, jitted; 0 in the source is padding."""

    @jax.jit
    def search(params: Params, source: Array) -> BeamResult:
        apply: Any = functools.partial(model.apply, {"params": params})
        batch_size, length = source.shape
        encoded = apply(source, segments=(source != 0).astype(np.int32), method="encode")
        memory = repeat_for_beams(apply(encoded, method="memory"), beam_size, axis=1)
        valid = repeat_for_beams(source != 0, beam_size, axis=0)

        def step(tokens: Array, cache: Array, index: Array) -> tuple[Array, Array]:
            return apply(tokens, memory, cache, index, source_valid=valid, method="decode_step")

        max_length = length + EXTRA_LENGTH
        return beam_search(
            step,
            apply(batch_size * beam_size, max_length, method="empty_cache"),
            batch_size=batch_size,
            beam_size=beam_size,
            bos_id=tokenizer.bos_id,
            eos_id=tokenizer.eos_id,
            pad_id=tokenizer.pad_id,
            max_length=max_length,
            score=gnmt_length_penalty(length_penalty),
            cache_batch_axis=1,
        )

    return search

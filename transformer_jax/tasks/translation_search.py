"""Translating sentences of any lengths: sorted into batches, one compiled search for each shape."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from transformer_jax.data.tokenizers import Tokenizer
from transformer_jax.decoding.beam import beam_search
from transformer_jax.decoding.beam_cache import BeamCache
from transformer_jax.decoding.coverage import coverage_penalty
from transformer_jax.decoding.greedy import greedy_search
from transformer_jax.decoding.sampling import sample
from transformer_jax.decoding.search_config import SearchConfig
from transformer_jax.models.transformer import Transformer
from transformer_jax.parallel.mesh import MeshConfig, batch_shards, make_mesh
from transformer_jax.parallel.sharding import TRANSFORMER_RULES, put_batch, shardings
from transformer_jax.tasks.translation_alignment import align_words, cross_attention, make_aligner
from transformer_jax.typing import Array, Params

BATCH_SENTENCES = 64
LENGTH_STEP = 16  # lengths are padded to multiples of it, so that few shapes are compiled
EXTRA_LENGTH = 50  # a translation may be this much longer than its source (section 6.1)


class Hypothesis(NamedTuple):
    """A translation, its score by the search's rule, and its tokens, the end symbol included."""

    text: str
    score: float
    ids: tuple[int, ...]


class Found(NamedTuple):
    """What a search found, best first: K hypotheses of at most T tokens for each row."""

    tokens: Array  # [B,K,T] int32
    scores: Array  # [B,K] float32, -inf where there is no hypothesis
    lengths: Array  # [B,K] int32
    done: Array  # [B] bool: more steps would find nothing else


class Translator:
    """Translates with one compiled search for each padded length.

    Args:
      model: the Transformer.
      params: its parameters; on the mesh if there is one.
      tokenizer: for both languages.
      search: what to search for.
      mesh: sentences are split over its slices of the batch; None: over all devices.
      seed: of sampling.
    """

    def __init__(
        self,
        model: Transformer,
        params: Params,
        tokenizer: Tokenizer,
        *,
        search: SearchConfig,
        mesh: Mesh | None = None,
        seed: int = 0,
    ) -> None:
        if mesh is None:
            mesh = make_mesh(MeshConfig())
            params = jax.device_put(params, shardings(params, mesh, TRANSFORMER_RULES))
        self.tokenizer = tokenizer
        self.config = search
        self._params, self._mesh = params, mesh
        self._search = make_search(model, tokenizer, search)
        self._attention = make_aligner(model, tokenizer.pad_id)
        self._key = jax.random.key(seed)

    def texts(self, sentences: Sequence[str]) -> list[str]:
        """The best translation of each sentence."""
        return [hypotheses[0].text for hypotheses in self(self.encode(sentences))]

    def encode(self, sentences: Sequence[str]) -> list[list[int]]:
        """The sources that the model reads, each with its end token."""
        return [[*ids, self.tokenizer.eos_id] for ids in self.tokenizer.encode(sentences)]

    def __call__(self, sources: Sequence[Sequence[int]]) -> list[list[Hypothesis]]:
        """For each source up to K hypotheses, best first; in the order of the sources."""
        found: list[list[Hypothesis]] = [[] for _ in sources]
        waiting = sorted(range(len(sources)), key=lambda i: len(sources[i]))
        attempt = 0
        while waiting:  # few sentences need a second attempt, with room for longer translations
            unfinished = []
            for first in range(0, len(waiting), BATCH_SENTENCES):
                chosen = waiting[first : first + BATCH_SENTENCES]
                result, is_last = self._run([sources[i] for i in chosen], attempt)
                for row, i in enumerate(chosen):
                    if result.done[row] or is_last:
                        found[i] = self._hypotheses(result, row)
                    else:
                        unfinished.append(i)
            waiting, attempt = unfinished, attempt + 1
        return found

    def align(
        self, sources: Sequence[Sequence[int]], hypotheses: Sequence[Hypothesis]
    ) -> list[list[tuple[int, int]]]:
        """For each translation of a source the pairs (source word, target word), from 0."""
        found: list[list[tuple[int, int]]] = [[] for _ in sources]
        by_length = sorted(range(len(sources)), key=lambda i: len(sources[i]))
        for first in range(0, len(by_length), BATCH_SENTENCES):
            chosen = by_length[first : first + BATCH_SENTENCES]
            read = [(self.tokenizer.bos_id, *hypotheses[i].ids[:-1]) for i in chosen]
            padded = self._padded([sources[i] for i in chosen]), self._padded(read)
            with jax.set_mesh(self._mesh):
                batch = put_batch(dict(zip(("source", "target"), padded, strict=True)), self._mesh)
                weights = self._attention(self._params, batch["source"], batch["target"])
            for row, i in zip(jax.device_get(weights), chosen, strict=False):
                source, target = sources[i][:-1], hypotheses[i].ids  # without the source's end
                target = target[:-1] if target[-1] == self.tokenizer.eos_id else target
                tokenizer = self.tokenizer
                pieces = tokenizer.source_pieces(source), tokenizer.target_pieces(target)
                found[i] = align_words(row, *pieces)
        return found

    def _padded(self, sequences: Sequence[Sequence[int]]) -> np.ndarray:
        """Sequences as rows; few shapes, and rows without a sequence still have a token to see."""
        shards = batch_shards(self._mesh)
        rows = -(-min(BATCH_SENTENCES, _next_power(len(sequences))) // shards) * shards
        length = _rounded(max(len(sequence) for sequence in sequences))
        padded = np.full((rows, length), self.tokenizer.pad_id, np.int32)
        padded[:, 0] = self.tokenizer.eos_id
        for row, sequence in enumerate(sequences):
            padded[row, : len(sequence)] = sequence
        return padded

    def _run(self, sources: Sequence[Sequence[int]], attempt: int) -> tuple[Found, bool]:
        """A search, and whether it took all the steps that it may."""
        padded = self._padded(sources)
        length = padded.shape[1]
        max_length = self.config.max_length or length + EXTRA_LENGTH
        steps = min(max_length, _rounded(length + length // 4) * 4**attempt)
        self._key, key = jax.random.split(self._key)
        with jax.set_mesh(self._mesh):
            batch = put_batch({"source": padded}, self._mesh)
            found = self._search(self._params, batch["source"], key, max_length, steps)
            return jax.device_get(found), steps == max_length

    def _hypotheses(self, found: Found, row: int) -> list[Hypothesis]:
        ids = [
            tuple(tokens[:length].tolist())
            for tokens, length in zip(found.tokens[row], found.lengths[row], strict=True)
        ]
        scored = zip(self.tokenizer.decode(ids), found.scores[row].tolist(), ids, strict=True)
        return [Hypothesis(*parts) for parts in scored if parts[1] > -np.inf]


def make_search(
    model: Transformer, tokenizer: Tokenizer, config: SearchConfig
) -> Callable[[Params, Array, Array, int, int], Found]:
    """Makes `search(params, source [B,S], key, max_length, steps) -> Found`, jitted.

    The pad token in the source is padding; `key` is for sampling; `max_length` and `steps`, see
    `beam_search`, are static.
    """
    beams = config.beam_size

    @functools.partial(jax.jit, static_argnums=(3, 4))
    def search(params: Params, source: Array, key: Array, max_length: int, steps: int) -> Found:
        apply: Any = functools.partial(model.apply, {"params": params})
        batch_size = len(source)
        valid = source != tokenizer.pad_id
        encoded = apply(source, segments=valid.astype(jnp.int32), method="encode")
        memory = apply(encoded, method="memory")
        is_covering = config.coverage_penalty > 0.0 and config.is_beam

        def step(tokens: Array, cache: _Cache, index: Array) -> tuple[Array, _Cache]:
            read = cache.read.reading(index)
            (logits, entries), state = apply(
                tokens.reshape(batch_size, beams),
                memory,
                read.entries,
                index,
                mask=read.mask(),
                source_valid=valid,
                method="decode_step",
                mutable=["intermediates"] if is_covering else [],
            )
            coverage = cache.coverage
            if is_covering:
                coverage += cross_attention(state["intermediates"])
            cache = _Cache(BeamCache(entries, read.writers), coverage)
            return logits.reshape(batch_size * beams, -1), cache

        entries = apply(batch_size, steps * beams, method="empty_cache")
        cache = _Cache(
            BeamCache.empty(entries, batch_size, beams, steps),
            jnp.zeros((batch_size, beams, source.shape[1] if is_covering else 0)),
        )
        common: dict[str, Any] = dict(
            bos_id=tokenizer.bos_id,
            eos_id=tokenizer.eos_id,
            pad_id=tokenizer.pad_id,
            rule=config.rule(tokenizer.eos_id, max_length),
        )
        if config.is_beam:
            beta = config.coverage_penalty
            found = beam_search(
                step,
                cache,
                batch_size=batch_size,
                beam_size=beams,
                max_length=max_length,
                steps=steps,
                score=config.score(),
                early_stopping=config.early_stopping,
                bonus=(lambda c: coverage_penalty(c.coverage, valid, beta)) if beta else None,
                reorder=_Cache.reorder,
                **common,
            )
            return Found(*found)
        common |= dict(batch_size=batch_size * beams, max_length=steps)
        if config.sampling is None:
            path = greedy_search(step, cache, **common)
        else:
            path = sample(step, cache, key, sampling=config.sampling, **common)
        tokens, scores, lengths, done = (x.reshape(batch_size, beams, -1) for x in path)
        return Found(tokens, scores[..., 0], lengths[..., 0], jnp.all(done[..., 0], axis=1))

    return search


class _Cache(NamedTuple):
    read: BeamCache
    coverage: Array  # [B,K,S] attention that each source token has got; S = 0 if no one asks

    def reorder(self, parents: Array) -> _Cache:
        coverage = jax.vmap(lambda c, p: c[p])(self.coverage, parents)
        return _Cache(self.read.reorder(parents), coverage)


def _rounded(length: int) -> int:
    return -(-length // LENGTH_STEP) * LENGTH_STEP


def _next_power(count: int) -> int:
    return 1 << (count - 1).bit_length()

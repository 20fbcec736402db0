"""Translating sentences of any lengths."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple

import jax
import numpy as np
from jax.sharding import Mesh

from transformer_jax.data.token_ids import check_ids
from transformer_jax.data.tokenizers import Tokenizer
from transformer_jax.decoding.search_config import SearchConfig
from transformer_jax.layers.stacks import unstacked
from transformer_jax.models.transformer import Transformer
from transformer_jax.parallel.mesh import MeshConfig, make_mesh
from transformer_jax.parallel.sharding import (
    TRANSFORMER_RULES,
    put_batch,
    shardings,
)
from transformer_jax.tasks.translation_alignment import (
    align_words,
    make_aligner,
    word_of_pieces,
    word_of_tokens,
)
from transformer_jax.tasks.translation_engine import Engine, Found
from transformer_jax.tasks.translation_rows import (
    FEW,
    pad_rows,
    power_of_two,
    row_count,
    search_rows,
)
from transformer_jax.typing import Array, Params

BATCH_HYPOTHESES = 256  # under way at once, unless one says otherwise; enough to keep a CPU busy
SHORTEST = 16  # tokens of a source, of which fewer would save little time
EXTRA_LENGTH = 50  # a translation may be this much longer than its source (section 6.1)


class Hypothesis(NamedTuple):
    """A translation, its score by the search's rule, and its tokens, the end symbol included."""

    text: str
    score: float
    ids: tuple[int, ...]


class Translator:
    """Translates sentences of any lengths.

    Args:
      model: the Transformer.
      params: its parameters; on the mesh if there is one.
      tokenizer: for both languages.
      search: what to search for.
      mesh: sentences are split over its slices of the batch; None: over all devices.
      batch_size: sentences that are searched at once; more are faster on an accelerator.
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
        batch_size: int | None = None,
        seed: int = 0,
    ) -> None:
        if mesh is None:
            mesh = make_mesh(MeshConfig())
            params = jax.device_put(params, shardings(params, mesh, TRANSFORMER_RULES))
        self.tokenizer = tokenizer
        self.config = search
        self._params, self._mesh = params, mesh
        # A step of decoding is short: to take each layer's part out of the stack is part of it.
        self._decoding = params | jax.jit(unstacked)({"decoder": params["decoder"]})
        self._batch_size = batch_size or max(1, BATCH_HYPOTHESES // search.beam_size)
        self._model = model
        self._engines: dict[tuple[int, int], Engine] = {}
        self._attention = make_aligner(model, tokenizer.pad_id)
        self._key = jax.random.key(seed)

    def texts(self, sentences: Sequence[str]) -> list[str]:
        """The best translation of each sentence."""
        return [hypotheses[0].text for hypotheses in self(self.encode(sentences))]

    def encode(self, sentences: Sequence[str]) -> list[list[int]]:
        """The sources that the model reads, each with its end token."""
        return [[*ids, self.tokenizer.eos_id] for ids in self.tokenizer.encode(sentences)]

    def __call__(self, sources: Sequence[Sequence[int]]) -> list[list[Hypothesis]]:
        """For each source up to K hypotheses, best first; in the order of the sources.

        What is found for one source depends on no other, unless it is sampled.

        Raises:
          ValueError: an id lies outside of the vocabulary of the source.
        """
        config = self._model.config
        for source in sources:
            check_ids(source, config.source_vocab_size or config.vocab_size)
        found: list[list[Hypothesis]] = [[] for _ in sources]
        self._key, key = jax.random.split(self._key)

        def search(group: tuple[int, list[int]]) -> None:
            length, indices = group
            for i, hypotheses in self._search(sources, indices, length, key):
                found[i] = hypotheses

        # What a short step leaves idle another group uses, and what the host does costs no time.
        # With several devices each program has all of them to itself: they wait for each other.
        groups = [*self._by_length([len(source) for source in sources])]
        with ThreadPoolExecutor(2 if self._mesh.size == 1 else 1) as pool:
            for _ in pool.map(search, reversed(groups)):
                pass  # an error in one is raised here
        return found

    def _search(
        self, sources: Sequence[Sequence[int]], indices: Sequence[int], length: int, key: Array
    ) -> Iterator[tuple[int, list[Hypothesis]]]:
        """Index and hypotheses of each of some sources that are padded to one length."""
        max_length = self.config.max_length or length + EXTRA_LENGTH
        room = length + length // 4 + 8  # enough for most; the others are searched for again
        if self.config.sampling is not None:
            room = max_length  # to draw once more what was too long would favour the short
        attempt = 0
        while indices:
            engine = self._engine(max_length, min(max_length, room * 4**attempt))
            rows = row_count(min(self._batch_size, len(indices)), self._mesh)
            if rows > max(FEW, len(indices)):
                rows //= 2  # a row that gets a second sentence is better than one without any
            unfinished = []
            with jax.set_mesh(self._mesh):
                for i, row, rows_found in search_rows(
                    engine,
                    self._decoding,
                    [sources[i] for i in indices],
                    length=length,
                    rows=rows,
                    key=jax.random.fold_in(key, length),
                    mesh=self._mesh,
                ):
                    if rows_found.done[row] or engine.steps == max_length:
                        yield indices[i], self._hypotheses(rows_found, row)
                    else:
                        unfinished.append(indices[i])
            indices, attempt = unfinished, attempt + 1

    def _engine(self, max_length: int, steps: int) -> Engine:
        if (max_length, steps) not in self._engines:
            parts = self._model, self.tokenizer, self.config
            self._engines[max_length, steps] = Engine(*parts, max_length, steps)
        return self._engines[max_length, steps]

    def align(
        self, sources: Sequence[Sequence[int]], hypotheses: Sequence[Hypothesis]
    ) -> list[list[tuple[int, int]]]:
        """For each translation of a source the pairs (source word, target word), from 0."""
        found: list[list[tuple[int, int]]] = [[] for _ in sources]
        batches = (
            (length, chosen[first : first + self._batch_size])
            for length, chosen in self._by_length([len(source) for source in sources])
            for first in range(0, len(chosen), self._batch_size)
        )
        for length, chosen in batches:
            read = [(self.tokenizer.bos_id, *hypotheses[i].ids[:-1]) for i in chosen]
            rows, pad_id = row_count(len(chosen), self._mesh), self.tokenizer.pad_id
            padded = (
                pad_rows([sources[i] for i in chosen], rows, length, pad_id),
                pad_rows(read, rows, _rounded(max(map(len, read))), pad_id),
            )
            with jax.set_mesh(self._mesh):
                batch = put_batch(dict(zip(("source", "target"), padded, strict=True)), self._mesh)
                weights = self._attention(self._params, batch["source"], batch["target"])
            for row, i in zip(jax.device_get(weights), chosen, strict=False):
                source, target = sources[i][:-1], hypotheses[i].ids  # without the source's end
                if hypotheses[i].text.strip():
                    words = word_of_pieces(self.tokenizer.source_pieces(source))
                    found[i] = align_words(row, words, word_of_tokens(self.tokenizer, target))
        return found

    def _by_length(self, lengths: Sequence[int]) -> Iterator[tuple[int, list[int]]]:
        """Padded lengths, and the indices of the sequences that have them."""
        by_length = sorted(range(len(lengths)), key=lambda i: lengths[i])
        for length, same in itertools.groupby(by_length, key=lambda i: _rounded(lengths[i])):
            yield length, list(same)

    def _hypotheses(self, found: Found, row: int) -> list[Hypothesis]:
        ids = [
            tuple(tokens[:length].tolist())
            for tokens, length in zip(found.tokens[row], found.lengths[row], strict=True)
        ]
        scored = zip(self.tokenizer.decode(ids), found.scores[row].tolist(), ids, strict=True)
        there = [Hypothesis(*parts) for parts in scored if parts[1] > -np.inf]
        return sorted(there, key=lambda hypothesis: -hypothesis.score)  # samples come in no order


def _rounded(length: int) -> int:
    """Lengths are padded to powers of two, so that few shapes are compiled."""
    return max(SHORTEST, power_of_two(length))

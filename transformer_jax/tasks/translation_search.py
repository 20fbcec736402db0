"""Translating sentences of any lengths: which sentence is searched for when, and in which row."""

from __future__ import annotations

import collections
import itertools
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import jax
import numpy as np
from jax.sharding import Mesh

from transformer_jax.data.tokenizers import Tokenizer
from transformer_jax.decoding.search_config import SearchConfig
from transformer_jax.models.transformer import Transformer
from transformer_jax.parallel.mesh import MeshConfig, batch_shards, make_mesh
from transformer_jax.parallel.sharding import (
    TRANSFORMER_RULES,
    put_batch,
    put_rows,
    shardings,
)
from transformer_jax.tasks.translation_alignment import (
    align_words,
    make_aligner,
    word_of_pieces,
    word_of_tokens,
)
from transformer_jax.tasks.translation_engine import Engine, Found
from transformer_jax.typing import Params

BATCH_HYPOTHESES = 256  # under way at once, unless one says otherwise; enough to keep a CPU busy
SHORTEST, FEW = 16, 8  # tokens of a source, and rows, of which fewer would save little time
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
        """
        found: list[list[Hypothesis]] = [[] for _ in sources]
        waiting: Sequence[int] = range(len(sources))
        attempt = 0
        while waiting:  # few sentences need a second attempt, with room for longer translations
            unfinished = []
            for length, chosen in self._by_length([len(sources[i]) for i in waiting]):
                indices = [waiting[i] for i in chosen]
                for i, hypotheses in self._translate(sources, indices, length, attempt):
                    if hypotheses is None:
                        unfinished.append(i)
                    else:
                        found[i] = hypotheses
            waiting, attempt = unfinished, attempt + 1
        return found

    def _translate(
        self, sources: Sequence[Sequence[int]], indices: Sequence[int], length: int, attempt: int
    ) -> Iterator[tuple[int, list[Hypothesis] | None]]:
        """Index and hypotheses, or None if there was too little room, as they are found."""
        max_length = self.config.max_length or length + EXTRA_LENGTH
        room = (length + length // 4 + 8) * 4**attempt  # enough for most
        if self.config.sampling is not None:
            room = max_length  # to draw once more what was too long would favour the short
        engine = self._engine(max_length, min(max_length, room))
        rows = self._rows(min(self._batch_size, len(indices)))
        if rows > max(FEW, len(indices)):
            rows //= 2  # a row that gets a second sentence is better than one without any
        group = self._rows(-(-rows // 4))  # rows that get new sentences at once
        queue = collections.deque(sorted(indices, key=lambda i: -len(sources[i])))
        taken: dict[int, int] = {}  # row -> index of its source
        with jax.set_mesh(self._mesh):
            state = put_rows(engine.empty(rows, length), self._mesh)
            while queue or taken:
                free = [row for row in range(rows) if row not in taken]
                while queue and free:
                    count = min(group, len(queue), len(free))
                    given = [(free.pop(), queue.popleft()) for _ in range(count)]
                    taken |= dict(given)
                    padded = self._padded([sources[i] for _, i in given], group, length)
                    slots = np.full(group, rows, np.int32)
                    slots[: len(given)] = [row for row, _ in given]
                    batch = put_batch({"source": padded}, self._mesh)
                    state = engine.refill(self._params, state, batch["source"], slots)
                while not queue and rows > FEW and self._rows(len(taken)) <= rows // 4:
                    rows //= 4  # the last ones are left
                    kept = sorted(taken)
                    spare = [row for row in range(4 * rows) if row not in taken]
                    state = engine.keep(state, np.array((kept + spare)[:rows], np.int32))
                    taken = {row: taken[old] for row, old in enumerate(kept)}
                enough = rows - len(taken) + (min(group, len(taken)) if queue else len(taken))
                self._key, key = jax.random.split(self._key)
                state, found = engine.run(self._params, state, np.int32(enough), key)
                found = jax.device_get(found)
                for row in [row for row in taken if found.stopped[row]]:
                    is_last = found.done[row] or engine.steps == max_length
                    yield taken.pop(row), self._hypotheses(found, row) if is_last else None

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
            rows = self._rows(len(chosen))
            padded = (
                self._padded([sources[i] for i in chosen], rows, length),
                self._padded(read, rows, _rounded(max(map(len, read)))),
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

    def _rows(self, count: int) -> int:
        """A power of two of rows for each slice of the batch, so that there are few shapes."""
        shards = batch_shards(self._mesh)
        return _power_of_two(-(-count // shards)) * shards

    def _padded(self, sequences: Sequence[Sequence[int]], rows: int, length: int) -> np.ndarray:
        """Sequences as rows, and copies of the last."""
        padded = np.full((rows, length), self.tokenizer.pad_id, np.int32)
        for row in range(rows):
            sequence = sequences[min(row, len(sequences) - 1)]
            padded[row, : len(sequence)] = sequence
        return padded

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
    return max(SHORTEST, _power_of_two(length))


def _power_of_two(count: int) -> int:
    return 1 << (count - 1).bit_length()

"""The host's part of translating: which sentence is searched for in which row, and until when."""

from __future__ import annotations

import collections
from collections.abc import Iterator, Sequence

import jax
import numpy as np
from jax.sharding import Mesh

from transformer_jax.parallel.mesh import batch_shards
from transformer_jax.parallel.sharding import put_batch, put_rows
from transformer_jax.tasks.translation_engine import Engine, Found
from transformer_jax.typing import Array, Params

FEW = 8  # rows of which fewer would save little time
SHRINK = 4  # rows become so many times fewer at once: more often would compile more programs


def search_rows(
    engine: Engine,
    params: Params,
    sources: Sequence[Sequence[int]],
    *,
    length: int,
    rows: int,
    key: Array,
    mesh: Mesh,
) -> Iterator[tuple[int, int, Found]]:
    """Searches for each source; a row whose search has stopped gets the next one, longest first.

    Args:
      engine: searches.
      params: of its model, on the mesh.
      sources: at most `length` tokens each.
      length: that they are padded to.
      rows: that search at once, a number that `row_count` gave.
      key: of sampling.
      mesh: of the parameters.

    Yields:
      The index of a source, as soon as its search has stopped, with its row of what was found.
    """
    pad_id = engine.tokenizer.pad_id
    group = row_count(-(-rows // 4), mesh)  # rows that get new sources at once
    queue = collections.deque(sorted(range(len(sources)), key=lambda i: -len(sources[i])))
    taken: dict[int, int] = {}  # row -> index of its source
    state = put_rows(engine.empty(rows, length), mesh)
    while queue or taken:
        free = [row for row in range(rows) if row not in taken]
        while queue and free:
            count = min(group, len(queue), len(free))
            given = [(free.pop(), queue.popleft()) for _ in range(count)]
            taken |= dict(given)
            padded = pad_rows([sources[i] for _, i in given], group, length, pad_id)
            slots = np.full(group, rows, np.int32)
            slots[:count] = [row for row, _ in given]
            batch = put_batch({"source": padded}, mesh)
            state = engine.refill(params, state, batch["source"], slots)
        while (fewer := _fewer(rows, mesh)) and not queue and len(taken) <= fewer:
            kept = [*taken, *(row for row in range(rows) if row not in taken)]
            state = engine.keep(state, np.array(kept[:fewer], np.int32))
            taken, rows = {row: taken[kept[row]] for row in range(len(taken))}, fewer
        enough = rows - len(taken) + min(group, len(taken)) if queue else rows - fewer
        key, now = jax.random.split(key)
        state, found = engine.run(params, state, np.int32(enough), now)
        found = jax.device_get(found)
        for row in [row for row in taken if found.stopped[row]]:
            yield taken.pop(row), row, found


def _fewer(rows: int, mesh: Mesh) -> int:
    """That the last sources go on in when no more are left; 0: they stay where they are."""
    fewer = rows // SHRINK if rows > FEW else 0
    return fewer if fewer % batch_shards(mesh) == 0 else 0


def row_count(count: int, mesh: Mesh) -> int:
    """A power of two of rows for each slice of the batch, so that there are few shapes."""
    shards = batch_shards(mesh)
    return power_of_two(-(-count // shards)) * shards


def pad_rows(sequences: Sequence[Sequence[int]], rows: int, length: int, pad_id: int) -> np.ndarray:
    """Sequences as rows, and copies of the last."""
    padded = np.full((rows, length), pad_id, np.int32)
    for row in range(rows):
        sequence = sequences[min(row, len(sequences) - 1)]
        padded[row, : len(sequence)] = sequence
    return padded


def power_of_two(count: int) -> int:
    """The least that is not below."""
    return 1 << (count - 1).bit_length()

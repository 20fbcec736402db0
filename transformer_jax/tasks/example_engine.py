"""Runs an encoder over many examples of all lengths: packed in rows, on all devices."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from transformer_jax.data.text_examples import TextExamples, example_rows, pack_examples
from transformer_jax.parallel.mesh import batch_shards
from transformer_jax.parallel.sharding import put_rows
from transformer_jax.typing import Array, Batch, Params

_SHORTEST = 64  # a row's length is this times a power of two, so that few are compiled
_TOKENS = 2048  # of a batch, for each slice of the mesh; more are no faster on a CPU


class ExampleEngine:
    """Calls on examples: what a function of packed rows finds for each of them, or of its tokens.

    Examples of like lengths share rows, so that attention is over little more than an example.
    """

    def __init__(
        self,
        function: Callable[[Params, Batch], Array],
        params: Params,
        *,
        mesh: Mesh,
        max_tokens: int,
    ) -> None:
        """Compiles when it is called.

        Args:
          function: of parameters and the arrays of `text_examples.example_rows`, to [B,E,...] for
            a call, or to [B,T,...] for `of_tokens`.
          params: its parameters.
          mesh: the devices.
          max_tokens: the most of an example.
        """
        self._function, self._params = jax.jit(function), params
        self._mesh, self._max_tokens = mesh, max_tokens

    def __call__(self, examples: TextExamples) -> np.ndarray:
        """What is found for each example, in order: [N,...].

        Raises:
          ValueError: there are no examples, or one has more than max_tokens.
        """
        found: np.ndarray | None = None
        for numbers, _, values in self._run(examples):
            if found is None:
                found = np.zeros((len(examples), *values.shape[2:]), values.dtype)
            found[numbers[numbers >= 0]] = values[numbers >= 0]
        assert found is not None
        return found

    def of_tokens(self, examples: TextExamples) -> list[np.ndarray]:
        """What is found for each token of each example, special ones included: [T,...] each.

        Raises:
          ValueError: there are no examples, or one has more than max_tokens.
        """
        found: dict[int, np.ndarray] = {}
        for numbers, segments, values in self._run(examples):
            for row, place in np.argwhere(numbers >= 0).tolist():
                found[int(numbers[row, place])] = values[row, segments[row] == place + 1]
        return [found[i] for i in range(len(examples))]

    def _run(self, examples: TextExamples) -> Iterator[tuple[np.ndarray, np.ndarray, np.ndarray]]:
        """Numbers of examples [B,E], -1 where there is none; segments [B,T]; what was found."""
        if not len(examples):
            raise ValueError("There are no examples.")
        lengths = examples.tokens.lengths
        if lengths.max() > self._max_tokens:
            raise ValueError(
                f"An example has {lengths.max()} tokens, more than {self._max_tokens}."
            )
        row_length = _SHORTEST
        while (lengths > row_length // 2).any() or row_length == _SHORTEST:
            low = row_length // 2 if row_length > _SHORTEST else 0
            ids = np.flatnonzero((lengths > low) & (lengths <= row_length))
            if len(ids):
                yield from self._run_class(examples, ids, row_length)
            row_length *= 2

    def _run_class(
        self, examples: TextExamples, ids: np.ndarray, row_length: int
    ) -> Iterator[tuple[np.ndarray, np.ndarray, np.ndarray]]:
        """The same for examples that share rows of one length."""
        part = TextExamples(
            examples.tokens.select(ids), examples.first_sizes[ids], examples.cut[ids]
        )
        shape = {"row_length": row_length, "row_examples": row_length // 4}
        rows = pack_examples(part, **shape, seed=0, epoch=0)
        shards = batch_shards(self._mesh)
        most = shards * max(1, _TOKENS // row_length)
        for start in range(0, len(rows), most):
            chunk = rows[start : start + most]
            size = shards
            while size < len(chunk):
                size *= 2
            batch = example_rows(part, chunk + [ids[:0]] * (size - len(chunk)), **shape)
            places = batch.pop("examples")
            with jax.set_mesh(self._mesh):
                values = np.asarray(self._function(self._params, put_rows(batch, self._mesh)))
            yield np.where(places >= 0, ids[places], -1), batch["segments"], values


def pool_mean(hidden: Array, segments: Array, examples: int) -> Array:
    """The mean of the states of each packed example's tokens.

    Args:
      hidden: [B,T,D].
      segments: int [B,T], the number of the example in its row, from 1.
      examples: E, the most of a row.

    Returns:
      [B,E,D], float32; 0 where there is no example.
    """
    inside = (segments[:, None] == jnp.arange(1, examples + 1)[:, None]).astype(jnp.float32)
    counts = jnp.maximum(inside.sum(-1, keepdims=True), 1.0)
    return jnp.einsum("BET,BTD->BED", inside, hidden.astype(jnp.float32)) / counts

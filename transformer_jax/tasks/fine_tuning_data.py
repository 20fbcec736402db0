"""Examples for fine-tuning: what the data of all its tasks have in common."""

from __future__ import annotations

import dataclasses
import functools
import hashlib
from collections.abc import Iterator
from pathlib import Path
from typing import ClassVar

import numpy as np

from transformer_jax.data.pipeline import DataState, Rows, batches
from transformer_jax.data.text_examples import TextExamples, example_rows, pack_examples
from transformer_jax.typing import Batch


@dataclasses.dataclass(frozen=True)
class FineTuningData:
    """Where the examples are, and how they are laid out.

    Attributes:
      path: a folder; each task says which files it has.
      tokenizer: a tokenizer's file, or a folder that has one; "" is that of train.init_from.
      lowercase: says of a vocab.txt that it is of an uncased model.
      row_length: tokens of a packed row.
      example_length: most tokens of an example, which is cut; None: a row.
      row_examples: most examples of a row; None: what is ample for usual texts.
    """

    path: str = ""
    tokenizer: str = ""
    lowercase: bool = True
    row_length: int = 128
    example_length: int | None = None
    row_examples: int | None = None

    # A row has a place for an example for each so many tokens, if row_examples does not say.
    tokens_a_place: ClassVar[int] = 8

    def __post_init__(self) -> None:
        if not 8 <= self.longest <= self.row_length:
            raise ValueError(
                f"data.example_length={self.longest} must be in 8..{self.row_length}, the row."
            )
        if self.row_examples is not None and self.row_examples < 1:
            raise ValueError(f"data.row_examples={self.row_examples} must be at least 1.")
        # The run must find its data and its tokenizer from any folder.
        scheme, colon, folder = self.path.rpartition(":")
        if folder and Path(folder).is_dir():
            object.__setattr__(self, "path", f"{scheme}{colon}{Path(folder).resolve()}")
        if self.tokenizer and Path(self.tokenizer).exists():
            object.__setattr__(self, "tokenizer", str(Path(self.tokenizer).resolve()))

    @property
    def longest(self) -> int:
        """The most tokens of an example."""
        return self.example_length or self.row_length

    @property
    def places(self) -> int:
        """The most examples E of a row."""
        return self.row_examples or max(1, self.row_length // self.tokens_a_place)


@dataclasses.dataclass(frozen=True, eq=False)
class ExampleRows:
    """A split as N examples, and as packed rows of them; a task's own has what is learnt too.

    Attributes:
      examples: their tokens.
      data: how rows are laid out.
    """

    examples: TextExamples
    data: FineTuningData

    def __len__(self) -> int:
        """How many are judged, each by itself."""
        return len(self.examples)

    @property
    def labelled(self) -> bool:
        """Whether it is known what is right."""
        return True

    @property
    def targets(self) -> tuple[np.ndarray, ...]:
        """What is learnt of the examples."""
        return ()

    @functools.cached_property
    def fingerprint(self) -> str:
        """A hash of tokens and targets."""
        digest = hashlib.sha256()
        tokens = self.examples.tokens
        for array in (tokens.tokens, tokens.offsets, self.examples.first_sizes, *self.targets):
            digest.update(np.ascontiguousarray(array).data)
        return digest.hexdigest()[:16]

    def plan(self, epoch: int, *, seed: int) -> list[np.ndarray]:
        """The rows of an epoch, as numbers of examples."""
        return pack_examples(self.examples, **self._shape, seed=seed, epoch=epoch)

    def build(self, rows: Rows) -> dict[str, np.ndarray]:
        """The arrays of `example_rows`; a task's own adds what is learnt."""
        return example_rows(self.examples, rows, **self._shape)

    def batches(
        self, seed: int, start: DataState, batch_size: int, process_index: int, process_count: int
    ) -> Iterator[tuple[Batch, DataState]]:
        """Endless batches of this host; see `pipeline.batches`."""
        return batches(
            functools.partial(self.plan, seed=seed),
            self.build,
            batch_size=batch_size,
            start=start,
            process_index=process_index,
            process_count=process_count,
        )

    @property
    def _shape(self) -> dict[str, int]:
        return {"row_length": self.data.row_length, "row_examples": self.data.places}

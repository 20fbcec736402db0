"""Questions of SWAG for fine-tuning; in packed rows, the choices of a question stand together."""

from __future__ import annotations

import dataclasses

import numpy as np

from transformer_jax.data.choices import NUM_CHOICES, read_swag
from transformer_jax.data.encoder_tokenizer import EncoderTokenizer
from transformer_jax.data.packing import pack
from transformer_jax.data.pipeline import Rows
from transformer_jax.data.text_examples import text_examples
from transformer_jax.tasks.fine_tuning_data import ExampleRows, FineTuningData


@dataclasses.dataclass(frozen=True)
class ChoosingData(FineTuningData):
    """Questions with four choices each; an example is a question with one of them.

    `path` is a folder with the files of SWAG: train.csv, val.csv and test.csv. A row holds whole
    questions, so that row_length is at least four times example_length.
    """

    row_length: int = 320
    example_length: int | None = 80

    def __post_init__(self) -> None:
        super().__post_init__()
        if NUM_CHOICES * self.longest > self.row_length:
            raise ValueError(
                f"data.row_length={self.row_length} must be at least {NUM_CHOICES * self.longest}, "
                f"for the {NUM_CHOICES} choices of a question, of {self.longest} tokens each."
            )
        if self.places % NUM_CHOICES:
            raise ValueError(
                f"data.row_examples={self.places} must be a multiple of {NUM_CHOICES}, the choices "
                f"of a question."
            )

    @property
    def places(self) -> int:
        """The most choices E of a row, of whole questions."""
        return self.row_examples or super().places // NUM_CHOICES * NUM_CHOICES


@dataclasses.dataclass(frozen=True, eq=False)
class ChoiceRows(ExampleRows):
    """A split as N questions; the choices of question i are the examples from 4 i on.

    Attributes:
      labels: int32 [N], the number of the right choice; None if the split has none.
    """

    labels: np.ndarray | None

    def __len__(self) -> int:
        return len(self.examples) // NUM_CHOICES

    @property
    def labelled(self) -> bool:
        """Whether it has labels."""
        return self.labels is not None

    @property
    def targets(self) -> tuple[np.ndarray, ...]:
        """The labels."""
        return (np.zeros(0, np.int32) if self.labels is None else self.labels,)

    def plan(self, epoch: int, *, seed: int) -> list[np.ndarray]:
        """The rows of an epoch, as numbers of examples; a question's choices stand together."""
        tokens = self.examples.tokens.lengths.reshape(-1, NUM_CHOICES).sum(axis=1)
        sides = np.stack([tokens, np.full_like(tokens, NUM_CHOICES)], axis=1)
        capacity = (self.data.row_length, self.data.places)
        rows = pack(sides, capacity, seed=seed, epoch=epoch)
        return [(NUM_CHOICES * row[:, None] + np.arange(NUM_CHOICES)).ravel() for row in rows]

    def build(self, rows: Rows) -> dict[str, np.ndarray]:
        """The arrays of `example_rows`, and what is learnt of each question.

        examples: int32 [B,E/4], the number of the question, -1 where there is none; labels: int32
        [B,E/4]; weights: float32 [B,E/4], 1 for a question.
        """
        batch = super().build(rows)
        # Examples fill a row from its first place on, so that four places are a question's.
        questions = batch["examples"][:, ::NUM_CHOICES] // NUM_CHOICES
        there = questions >= 0
        labels = np.zeros(len(self), np.int32) if self.labels is None else self.labels
        batch["examples"] = questions
        batch["labels"] = np.where(there, labels[questions], 0).astype(np.int32)
        batch["weights"] = there.astype(np.float32)
        return batch


def read_split(data: ChoosingData, split: str, tokenizer: EncoderTokenizer) -> ChoiceRows:
    """Reads a split as tokens: [CLS] context [SEP] start of the ending, ending [SEP].

    Raises:
      UserError: it is missing or malformed.
    """
    found = read_swag(data.path, split)
    pairs = [
        (context, f"{start} {ending}".strip())
        for context, start, endings in zip(found.contexts, found.starts, found.endings, strict=True)
        for ending in endings
    ]
    first, second = zip(*pairs, strict=True)
    examples = text_examples(tokenizer, first, second, max_tokens=data.longest)
    return ChoiceRows(examples, data, found.labels)

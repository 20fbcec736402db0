"""Fills masked tokens: what an encoder that predicts tokens is used for as it is."""

from __future__ import annotations

import dataclasses
import functools
import re
from collections import defaultdict
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import numpy as np
from jax.sharding import Mesh

from transformer_jax.data.encoder_tokenizer import EncoderTokenizer
from transformer_jax.data.token_ids import check_ids
from transformer_jax.models.bert_pretraining import BertPretraining
from transformer_jax.parallel.mesh import batch_shards
from transformer_jax.parallel.sharding import put_rows
from transformer_jax.typing import Array, Params

_MASK = re.compile(r"\[MASK\]|<mask>")  # as BERT and as RoBERTa write it
_ROWS = 8  # sequences that a device takes at a time
_SHORTEST = 16  # lengths are rounded up to this times a power of two, so that few are compiled


class Guess(NamedTuple):
    """A token that may stand in a mask's place."""

    token: str
    probability: float


@dataclasses.dataclass(frozen=True)
class Filled:
    """What was found for a text.

    Attributes:
      text: the text with the best guess in place of each mask.
      masks: the guesses for each mask, best first.
    """

    text: str
    masks: list[list[Guess]]


class MaskFiller:
    """Calls on texts with [MASK] (or <mask>) in them, where every text has one and is not too long.

    Sequences of like lengths are scored together; each is alone in its row.
    """

    def __init__(
        self,
        model: BertPretraining,
        params: Params,
        tokenizer: EncoderTokenizer,
        *,
        mesh: Mesh,
        top: int = 5,
    ) -> None:
        if not 1 <= top <= tokenizer.vocab_size:
            raise ValueError(f"top={top} must be in 1..{tokenizer.vocab_size}.")
        self.tokenizer, self.max_length = tokenizer, model.config.max_positions
        self._params, self._mesh = params, mesh
        self._score = jax.jit(functools.partial(_score, model, tokenizer.vocab_size, top))

    def __call__(self, texts: Sequence[str]) -> list[Filled]:
        """Fills the masks of each text.

        Raises:
          ValueError: a text has no mask, or more tokens than the model has positions.
        """
        for text in texts:
            if (problem := self.problem(text)) is not None:
                raise ValueError(f"{text!r} {problem}")
        sequences = [self.encode(text) for text in texts]
        found = self.guess(sequences)
        return [Filled(_fill(t, masks), masks) for t, masks in zip(texts, found, strict=True)]

    def problem(self, text: str) -> str | None:
        """Why a text cannot be filled, None if it can."""
        if not _MASK.search(text):
            return "has no [MASK]"
        if len(self.encode(text)) > self.max_length:
            return f"has more than {self.max_length} tokens, the positions of the model"
        return None

    def encode(self, text: str) -> np.ndarray:
        """[CLS] text [SEP], with the mask's id where the text has a mask: int32 [T]."""
        # The mask stands for a word with the space before it, where spaces belong to words.
        parts = [part.rstrip() for part in _MASK.split(text)[:-1]] + _MASK.split(text)[-1:]
        t = self.tokenizer
        ids: list[int] = [t.cls_id]
        for number, part in enumerate(t.encode(parts)):
            ids += [t.mask_id] * (number > 0) + part.ids.tolist()
        return np.array([*ids, t.sep_id], np.int32)

    def guess(self, sequences: Sequence[np.ndarray]) -> list[list[list[Guess]]]:
        """The guesses for each mask of each sequence of ids, with its [CLS] and [SEP].

        Raises:
          ValueError: an id lies outside of the vocabulary.
        """
        for ids in sequences:
            check_ids(ids, self.tokenizer.vocab_size)
        groups: dict[tuple[int, int], list[int]] = defaultdict(list)
        for i, ids in enumerate(sequences):
            groups[self._bucket(ids)].append(i)
        rows = _ROWS * batch_shards(self._mesh)
        found: dict[int, list[list[Guess]]] = {}
        for shape, members in groups.items():
            for first in range(0, len(members), rows):
                chunk = members[first : first + rows]
                guesses = self._guess([sequences[i] for i in chunk], rows, *shape)
                found |= dict(zip(chunk, guesses, strict=True))
        return [found[i] for i in range(len(sequences))]

    def _bucket(self, ids: np.ndarray) -> tuple[int, int]:
        """The length and the number of masks that a sequence is padded to."""
        length, masks = _SHORTEST, 1
        while length < len(ids):
            length *= 2
        while masks < (ids == self.tokenizer.mask_id).sum():
            masks *= 2
        return min(length, self.max_length), min(masks, self.max_length)

    def _guess(
        self, sequences: Sequence[np.ndarray], rows: int, length: int, masks: int
    ) -> list[list[list[Guess]]]:
        tokens, places = np.zeros((rows, length), np.int32), np.zeros((rows, masks), np.int32)
        real = np.zeros((rows, length), np.int32)
        counts = []
        for row, ids in enumerate(sequences):
            where = np.flatnonzero(ids == self.tokenizer.mask_id)
            tokens[row, : len(ids)], real[row, : len(ids)] = ids, 1
            places[row, : len(where)] = where
            counts.append(len(where))
        with jax.set_mesh(self._mesh):
            batch = put_rows((tokens, real, places), self._mesh)
            values, best = (np.asarray(x) for x in self._score(self._params, *batch))
        return [
            [self._named(values[row, i], best[row, i]) for i in range(count)]
            for row, count in enumerate(counts)
        ]

    def _named(self, values: np.ndarray, ids: np.ndarray) -> list[Guess]:
        names = [self.tokenizer.decode([i]).strip() for i in ids.tolist()]
        return [Guess(name, float(p)) for name, p in zip(names, values, strict=True)]


def _score(
    model: BertPretraining,
    vocab_size: int,
    top: int,
    params: Params,
    tokens: Array,
    segments: Array,
    places: Array,
) -> tuple[Array, Array]:
    """The likeliest tokens [B,P,top] at some places [B,P] of each row, and their probabilities."""
    logits: Any = model.apply(
        {"params": params}, tokens, segments=segments, masked_positions=places
    )
    # A model may have more rows than the vocabulary, to divide among devices.
    probabilities = jax.nn.softmax(logits[0][..., :vocab_size])
    return jax.lax.top_k(probabilities, top)


def _fill(text: str, masks: Sequence[Sequence[Guess]]) -> str:
    best = iter([guesses[0].token for guesses in masks])
    return _MASK.sub(lambda _: next(best), text)

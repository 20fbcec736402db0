"""Tags of words by a model that was trained for it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import jax.numpy as jnp
from jax.sharding import Mesh

from transformer_jax.data.conll import OUTSIDE
from transformer_jax.data.encoder_tokenizer import EncoderTokenizer
from transformer_jax.errors import UserError
from transformer_jax.models.bert_tasks import BertTagger
from transformer_jax.tasks.encoder_inputs import encoder_inputs
from transformer_jax.tasks.entity_metrics import entities
from transformer_jax.tasks.example_engine import ExampleEngine
from transformer_jax.tasks.tagging_data import word_examples
from transformer_jax.typing import Array, Batch, Params


class Tagger:
    """Calls on sentences of words: the tag of each word.

    A sentence that is too long is cut, and the words that it loses are tagged "O".

    Attributes:
      max_tokens: the most of a sentence, special tokens included.
    """

    def __init__(
        self,
        model: BertTagger,
        params: Params,
        tokenizer: EncoderTokenizer,
        labels: Sequence[str],
        *,
        mesh: Mesh,
        max_tokens: int | None = None,
    ) -> None:
        """Compiles when it is called.

        Args:
          model: scores the tags of the tokens.
          params: its parameters.
          tokenizer: of the model.
          labels: the names of the tags, in the order of the scores.
          mesh: the devices.
          max_tokens: of a sentence; None: all that the model has places for.
        """
        self.max_tokens = max_tokens or model.config.max_positions
        self._tokenizer, self._labels = tokenizer, labels

        def judge(params: Params, batch: Batch) -> Array:
            logits: Any = model.apply(
                {"params": params},
                **encoder_inputs(batch, model.config),
            )
            return jnp.argmax(logits, axis=-1)

        self._run = ExampleEngine(judge, params, mesh=mesh, max_tokens=self.max_tokens)

    def __call__(self, sentences: Sequence[Sequence[str]]) -> list[list[str]]:
        """As many tags as each sentence has words."""
        if not sentences:
            return []
        words = word_examples(self._tokenizer, sentences, max_tokens=self.max_tokens)
        tags = []
        for i, best in enumerate(self._run.of_tokens(words.examples)):
            found = [self._labels[tag] for tag in best[words.first_pieces[i]]]
            tags.append(found + [OUTSIDE] * int(words.lost[i]))
        return tags

    def lost(self, sentence: Sequence[str]) -> int:
        """How many words of a sentence are lost where it is cut."""
        return int(word_examples(self._tokenizer, [sentence], max_tokens=self.max_tokens).lost[0])


def marks_entities(labels: Sequence[str]) -> bool:
    """Whether such tags mark entities, as B-PER does and a part of speech does not."""
    try:
        entities(labels)
    except UserError:
        return False
    return True


def odd_tags(labels: Sequence[str]) -> list[str]:
    """Labels such as L-PER of BILOU, which keep others, such as B-PER, from marking entities."""
    if not any(label.startswith("B-") for label in labels):
        return []
    return [label for label in labels if not marks_entities([label])]

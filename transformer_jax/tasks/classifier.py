"""Classes or scores of texts by a model that was trained for it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from transformer_jax.data.text_examples import TextExamples, text_examples
from transformer_jax.errors import UserError
from transformer_jax.interop.bert import PretrainedBert
from transformer_jax.tasks.encoder_inputs import encoder_inputs
from transformer_jax.tasks.example_engine import ExampleEngine
from transformer_jax.typing import Array, Batch, Params


class Classifier:
    """Calls on examples: the probabilities of the classes, or a score; `examples` makes them.

    Those of a model of several labels are each of its own, and sum to anything.

    Attributes:
      labels: the names of the classes; () where it gives a score.
      multi_label: whether a text may be of several of them.
      max_tokens: the most of an example.
    """

    def __init__(self, pretrained: PretrainedBert, *, mesh: Mesh) -> None:
        """Compiles when it is called; `pretrained` is of the kind "classification"."""
        if pretrained.tokenizer is None:
            raise UserError("The classifier has no tokenizer, which texts need.")
        model = pretrained.model
        self.labels, self.max_tokens = pretrained.labels, pretrained.config.max_positions
        self.multi_label = pretrained.multi_label
        self._tokenizer = pretrained.tokenizer

        def judge(params: Params, batch: Batch) -> Array:
            logits: Any = model.apply(
                {"params": params},
                **encoder_inputs(batch, pretrained.config),
                first_tokens=batch["first_tokens"],
            )
            if not pretrained.labels:
                return jnp.squeeze(logits, -1)
            return jax.nn.sigmoid(logits) if pretrained.multi_label else jax.nn.softmax(logits)

        self._run = ExampleEngine(judge, pretrained.params, mesh=mesh, max_tokens=self.max_tokens)

    def __call__(self, examples: TextExamples) -> np.ndarray:
        """Probabilities, float32 [N,C]; scores, float32 [N]."""
        return self._run(examples)

    def examples(self, first: Sequence[str], second: Sequence[str] | None = None) -> TextExamples:
        """Texts, or pairs of them, as tokens; one that is too long is cut."""
        return text_examples(self._tokenizer, first, second, max_tokens=self.max_tokens)

"""Vectors of texts, from an encoder's last hidden states."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from transformer_jax.data.text_examples import TextExamples, text_examples
from transformer_jax.errors import UserError
from transformer_jax.interop.bert import PretrainedBert
from transformer_jax.models.heads import gather_tokens
from transformer_jax.tasks.encoder_inputs import encoder_inputs
from transformer_jax.tasks.example_engine import ExampleEngine, pool_mean
from transformer_jax.typing import Array, Batch, Params

# The mean of the states of all tokens, special ones included; or the state of [CLS].
Pooling = Literal["mean", "cls"]


class Embedder:
    """Calls on examples: float32 [N,D], a vector for each; `examples` makes them of texts."""

    def __init__(self, encoder: PretrainedBert, *, mesh: Mesh, pooling: Pooling = "mean") -> None:
        """Compiles when it is called; `encoder` is of the kind "encoder" and has a tokenizer."""
        model = encoder.model

        def embed(params: Params, batch: Batch) -> Array:
            hidden: Any = model.apply(
                {"params": params},
                **encoder_inputs(batch, encoder.config),
            )
            if pooling == "cls":
                return gather_tokens(hidden, batch["first_tokens"]).astype(jnp.float32)
            return pool_mean(hidden, batch["segments"], batch["first_tokens"].shape[1])

        if encoder.tokenizer is None:
            raise UserError("The encoder has no tokenizer, which texts need.")
        self._tokenizer, self.max_tokens = encoder.tokenizer, encoder.config.max_positions
        self._run = ExampleEngine(embed, encoder.params, mesh=mesh, max_tokens=self.max_tokens)

    def __call__(self, examples: TextExamples) -> np.ndarray:
        """The vector of each example."""
        return self._run(examples)

    def examples(self, texts: Sequence[str]) -> TextExamples:
        """Texts as tokens; one that is too long loses its end."""
        return text_examples(self._tokenizer, texts, max_tokens=self.max_tokens)

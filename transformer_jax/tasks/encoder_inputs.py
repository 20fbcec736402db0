"""What an encoder reads of a batch of packed rows."""

from __future__ import annotations

from typing import Any

from transformer_jax.models.bert import BertConfig
from transformer_jax.typing import Batch


def encoder_inputs(batch: Batch, config: BertConfig) -> dict[str, Any]:
    """The arguments of `Bert` and of models on it, among the arrays of packed rows.

    Args:
      batch: tokens, segments, positions, token_types, [B,T] each, as `example_rows` lays them out.
      config: of the encoder; one with a single type, or with none, gets no token_types.
    """
    names = ["tokens", "segments", "positions"]
    if config.type_vocab_size > 1:
        names.append("token_types")
    return {name: batch[name] for name in names}

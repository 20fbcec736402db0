"""All attention of an encoder over a text, or a pair of texts."""

from __future__ import annotations

from typing import Any

import jax
import numpy as np
from flax.traverse_util import flatten_dict

from transformer_jax.data.text_examples import text_examples
from transformer_jax.errors import UserError
from transformer_jax.interop.bert import PretrainedBert
from transformer_jax.visualize.maps import AttentionMaps, AttentionPart


def encoder_maps(encoder: PretrainedBert, first: str, second: str | None = None) -> AttentionMaps:
    """Reads a text, or a pair, and keeps every attention weight.

    The weights are computed on the dense path, whichever kernel the model runs with.

    Args:
      encoder: of the kind "encoder", with a tokenizer.
      first: the text; what is more than the model's positions is cut.
      second: the second text of a pair.

    Returns:
      The part "encoder" [L,N,T,T].

    Raises:
      UserError: the encoder has no tokenizer.
    """
    tokenizer, config = encoder.tokenizer, encoder.config
    if tokenizer is None:
        raise UserError("The encoder has no tokenizer, which a text needs.")
    seconds = None if second is None else [second]
    examples = text_examples(tokenizer, [first], seconds, max_tokens=config.max_positions)
    ids = examples.tokens[0]
    types = (np.arange(len(ids)) >= examples.first_sizes[0]).astype(np.int32)

    def run(params: Any) -> Any:
        return encoder.model.apply(
            {"params": params},
            ids[None],
            token_types=types[None] if config.type_vocab_size > 1 else None,
            mutable=["intermediates"],
        )[1]["intermediates"]

    # One row: a model that lays its rows out over devices could not split it.
    sown = jax.device_get(jax.jit(run)(jax.device_get(encoder.params)))
    (found,) = flatten_dict(sown).values()  # of all layers, whether their parameters are shared
    (weights,) = found  # [L,1,N,T,T]
    pieces = tuple(tokenizer.pieces(ids.tolist()))
    title = first if second is None else f"{first} / {second}"
    part = AttentionPart("encoder", np.asarray(weights[:, 0], np.float32), pieces, pieces)
    return AttentionMaps(title, (part,))

"""All attention of a translation: what the encoder, the decoder, and between them, looked at."""

from __future__ import annotations

import functools
from collections.abc import Sequence

import jax
import numpy as np

from transformer_jax.data.tokenizers import Tokenizer
from transformer_jax.models.transformer import Transformer
from transformer_jax.tasks.translation_alignment import teacher_forced
from transformer_jax.typing import Params
from transformer_jax.visualize.maps import AttentionMaps, AttentionPart


def translation_maps(
    model: Transformer,
    params: Params,
    tokenizer: Tokenizer,
    source: Sequence[int],
    target: Sequence[int],
    *,
    title: str = "",
) -> AttentionMaps:
    """Reads a sentence and its translation and keeps every attention weight.

    The weights are computed on the dense path, whichever kernel the model runs with.

    Args:
      model, params: the Transformer.
      tokenizer: for the tokens' texts.
      source: ids of the sentence with its end token, S of them.
      target: ids of the translation with its end token, T of them.
      title: of the page.

    Returns:
      Parts "encoder" [L,N,S,S], "decoder" [L,N,T,T] and "cross" [L,N,T,S]. The decoder's rows
      and columns are the tokens that it read, from the start token on; a row of "cross" is the
      token that was then predicted.

    Raises:
      ValueError: the source or the target is empty.
    """
    if not len(source) or not len(target):
        raise ValueError("there is no attention without a source token and a target token")
    read = [tokenizer.bos_id, *target[:-1]]
    run = jax.jit(functools.partial(teacher_forced, model, pad_id=-1))  # nothing is padding
    sown = jax.device_get(run(params, np.array([source]), np.array([read])))
    source_pieces = tuple(tokenizer.source_pieces(source))
    read_pieces, predicted = (tuple(tokenizer.target_pieces(ids)) for ids in (read, target))

    def weights(stack: str, attention: str) -> np.ndarray:
        (found,) = sown[stack]["layer"][attention]["attention_weights"]  # [L,1,N,T,S]
        return np.asarray(found[:, 0], np.float32)

    encoder, decoder = weights("encoder", "self_attention"), weights("decoder", "self_attention")
    return AttentionMaps(
        title,
        (
            AttentionPart("cross", weights("decoder", "cross_attention"), predicted, source_pieces),
            AttentionPart("encoder", encoder, source_pieces, source_pieces),
            AttentionPart("decoder", decoder, read_pieces, read_pieces),
        ),
    )

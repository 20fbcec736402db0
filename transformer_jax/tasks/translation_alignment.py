"""Which source words a translation's words come from, read off the attention to the source."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from transformer_jax.data.tokenizers import Tokenizer
from transformer_jax.models.transformer import Transformer
from transformer_jax.typing import Array, Params


def teacher_forced(
    model: Transformer, params: Params, source: Array, target_inputs: Array, pad_id: int
) -> Any:
    """All attention weights while the model reads a given translation, whichever kernel runs.

    Args:
      model, params: the Transformer.
      source: int [B,S], padded with `pad_id`.
      target_inputs: int [B,T], the start token and then the translation without its last token.
      pad_id: padding of the source. What follows the end of a translation changes nothing before.

    Returns:
      The tree of the sown weights, such as ["decoder"]["layer"]["cross_attention"]
      ["attention_weights"], each a tuple of one array [L,B,N,T,S], float32.
    """
    segments = (source != pad_id).astype(jnp.int32)
    _, state = model.apply(
        {"params": params},
        source,
        target_inputs,
        source_segments=segments,
        target_segments=jnp.ones_like(target_inputs),
        mutable=["intermediates"],
    )
    return state["intermediates"]


def cross_attention(intermediates: Any) -> Array:
    """Attention to the source, the mean of all layers and heads: -> [B,T,S].

    A pass over a whole translation sows one array [L,B,N,T,S], a step of decoding [B,N,T,S] for
    each layer.
    """
    sown = intermediates["decoder"]["layer"]["cross_attention"]["attention_weights"]
    weights = jnp.concatenate([x.reshape(-1, *x.shape[-4:]) for x in sown])  # [L,B,N,T,S]
    return jnp.mean(weights, axis=(0, 2))


def word_of_pieces(pieces: Sequence[str]) -> np.ndarray:
    """The number of the word that each SentencePiece belongs to; words are what spaces part.

    A space without letters belongs to the word before, or to the first.
    """
    return _last_words(text.replace("▁", " ") for text in itertools.accumulate(pieces))


def word_of_tokens(tokenizer: Tokenizer, ids: Sequence[int]) -> np.ndarray:
    """The number of the word of the translation that each token belongs to.

    The pieces do not tell: special tokens have no text, and unknown ones may be a word of their
    own.
    """
    return _last_words(tokenizer.decode([ids[: end + 1] for end in range(len(ids))]))


def _last_words(texts: Iterable[str]) -> np.ndarray:
    return np.array([max(0, len(text.split()) - 1) for text in texts], int)


def align_words(
    weights: np.ndarray, source_words: np.ndarray, target_words: np.ndarray
) -> list[tuple[int, int]]:
    """For each word of the translation the source word that got most attention for its pieces.

    Args:
      weights: float [T,S]; row t is the attention when target piece t was predicted. Further rows
        and columns (end symbols, padding) are left out.
      source_words: int [S'], S' <= S, the number of the word that each piece belongs to.
      target_words: int [T'], T' <= T.

    Returns:
      (source word, target word) pairs, from 0, in the order of the target.
    """
    if not len(source_words) or not len(target_words):
        return []
    words = np.zeros((target_words[-1] + 1, source_words[-1] + 1))
    at = np.ix_(target_words, source_words)
    np.add.at(words, at, weights[: len(target_words), : len(source_words)])
    return [(int(np.argmax(row)), word) for word, row in enumerate(words)]


def make_aligner(model: Transformer, pad_id: int) -> Any:
    """Makes `attention(params, source [B,S], target_inputs [B,T]) -> [B,T,S]`, jitted."""

    @jax.jit
    def attention(params: Params, source: Array, target_inputs: Array) -> Array:
        return cross_attention(teacher_forced(model, params, source, target_inputs, pad_id))

    return attention

"""BERT with the heads that it is pretrained with (arXiv:1810.04805, section 3.1)."""

from __future__ import annotations

from typing import Any, NamedTuple

import flax.linen as nn
import jax.numpy as jnp

from transformer_jax.layers.attention import AttentionFn
from transformer_jax.models.bert import Bert, BertConfig
from transformer_jax.models.heads import MlmHead, PairHead, SpanBoundaryHead, gather_tokens
from transformer_jax.typing import Array, Constrain, identity


class Boundaries(NamedTuple):
    """Where the masked span of each predicted token lies in its row."""

    left: Array  # int [B,P], the place before it
    right: Array  # int [B,P], the place after it
    offsets: Array  # int [B,P], the token's place in it, from 0


class PretrainingStates(NamedTuple):
    """What the heads make of a batch, before the products with the embedding table."""

    hidden: Array  # [B,T,D], of the encoder
    masked: Array  # [B,P,D'], D' the width of the embeddings
    pairs: Array | None  # logits, float32 [B,E,2]; None without a pooler
    boundary: Array | None  # [B,P,D']; None without the span-boundary head


class BertPretraining(nn.Module):
    """Bert, the head that scores masked tokens, and with a pooler the head that judges pairs.

    Attributes:
      config: the sizes.
      span_boundary: has the head that scores masked tokens by the ends of their span, too
        (SpanBERT, arXiv:1907.10529, section 3.2).
      attention_fn, constrain: see `Bert`.
    """

    config: BertConfig
    span_boundary: bool = False
    attention_fn: AttentionFn | None = None
    constrain: Constrain = identity

    def setup(self) -> None:
        """Makes the parts."""
        c = self.config
        self.bert = Bert(c, attention_fn=self.attention_fn, constrain=self.constrain)
        head: dict[str, Any] = dict(
            vocab_size=c.vocab_size,
            width=c.embedding_width or c.width,
            activation=c.activation,
            norm_epsilon=c.norm_epsilon,
            init_std=c.init_std,
            dtype=jnp.dtype(c.dtype),
        )
        self.mlm_head = MlmHead(**head)
        if c.pooler:
            self.pair_head = PairHead(init_std=c.init_std)
        if self.span_boundary:
            self.span_boundary_head = SpanBoundaryHead(**head)

    def __call__(
        self,
        tokens: Array,
        *,
        segments: Array | None = None,
        positions: Array | None = None,
        token_types: Array | None = None,
        masked_positions: Array | None = None,
        first_tokens: Array | None = None,
        deterministic: bool = True,
    ) -> tuple[Array, Array | None]:
        """Scores every token of the vocabulary at the masked places, and judges the pairs.

        Args:
          tokens, segments, positions, token_types: int [B,T], see `Bert`.
          masked_positions: int [B,P], the places in the row that are predicted; None: all T.
          first_tokens: int [B,E], where each packed example's [CLS] stands in its row; None: one
            example a row, whose [CLS] comes first.
          deterministic: False turns dropout on and needs the rng "dropout".

        Returns:
          Logits of the tokens, float32 [B,P,V], and of the pairs, float32 [B,E,2]; None in place
          of these if the config has no pooler.
        """
        states = self.states(
            tokens,
            segments=segments,
            positions=positions,
            token_types=token_types,
            masked_positions=masked_positions,
            first_tokens=first_tokens,
            deterministic=deterministic,
        )
        table = self.bert.token_embedding.embedding
        return self.mlm_head.logits(states.masked, table), states.pairs

    def states(
        self,
        tokens: Array,
        *,
        segments: Array | None = None,
        positions: Array | None = None,
        token_types: Array | None = None,
        masked_positions: Array | None = None,
        first_tokens: Array | None = None,
        boundaries: Boundaries | None = None,
        deterministic: bool = True,
    ) -> PretrainingStates:
        """The same without the product with the table, so that [B,P,V] need not be held.

        Takes what the call takes, and with the span-boundary head the boundaries of the spans. The
        logits are states table^T + bias, of `tables`.
        """
        hidden = self.bert(
            tokens,
            segments=segments,
            positions=positions,
            token_types=token_types,
            deterministic=deterministic,
        )
        chosen = hidden if masked_positions is None else gather_tokens(hidden, masked_positions)
        boundary = pairs = None
        if self.span_boundary and self.is_initializing():  # its parameters belong to the model
            place = jnp.zeros(chosen.shape[:2], jnp.int32)
            boundaries = Boundaries(place, place, place)
        if self.span_boundary and boundaries is not None:
            left, right = (gather_tokens(hidden, places) for places in boundaries[:2])
            boundary = self.span_boundary_head.states(left, right, boundaries.offsets)
        if self.config.pooler:
            if first_tokens is None:
                first_tokens = jnp.zeros((tokens.shape[0], 1), jnp.int32)
            pairs = self.pair_head(self.bert.pool(hidden, first_tokens))
        return PretrainingStates(hidden, self.mlm_head.states(chosen), pairs, boundary)

    def tables(self) -> tuple[Array, Array, Array | None]:
        """What tokens are scored by, float32.

        Returns:
          The embedding table [V,D']; the bias [V] of masked tokens; that of the span-boundary head
          [V], None without it.
        """
        boundary_bias = self.span_boundary_head.bias if self.span_boundary else None
        return self.bert.token_embedding.embedding, self.mlm_head.bias, boundary_bias

"""BERT with the two heads that it is pretrained with (arXiv:1810.04805, section 3.1)."""

from __future__ import annotations

import flax.linen as nn
import jax.numpy as jnp

from transformer_jax.layers.attention import AttentionFn
from transformer_jax.models.bert import Bert, BertConfig
from transformer_jax.models.heads import MlmHead, PairHead, gather_tokens
from transformer_jax.typing import Array, Constrain, identity


class BertPretraining(nn.Module):
    """Bert, the head that scores masked tokens, and with a pooler the head that judges pairs.

    Attributes:
      config: the sizes.
      attention_fn, constrain: see `Bert`.
    """

    config: BertConfig
    attention_fn: AttentionFn | None = None
    constrain: Constrain = identity

    def setup(self) -> None:
        """Makes the parts."""
        c = self.config
        self.bert = Bert(c, attention_fn=self.attention_fn, constrain=self.constrain)
        self.mlm_head = MlmHead(
            c.vocab_size,
            c.embedding_width or c.width,
            activation=c.activation,
            norm_epsilon=c.norm_epsilon,
            init_std=c.init_std,
            dtype=jnp.dtype(c.dtype),
        )
        if c.pooler:
            self.pair_head = PairHead(init_std=c.init_std)

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
        states, pairs = self.masked_states(
            tokens,
            segments=segments,
            positions=positions,
            token_types=token_types,
            masked_positions=masked_positions,
            first_tokens=first_tokens,
            deterministic=deterministic,
        )
        return self.mlm_head.logits(states, self.bert.token_embedding.embedding), pairs

    def masked_states(
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
        """The same without the product with the table, so that [B,P,V] is never held.

        Takes what the call takes. Returns the states [B,P,D'], where D' is the width of the
        embeddings, and the pairs' logits. The tokens' logits are states table^T + bias, of
        `output_table`.
        """
        hidden = self.bert(
            tokens,
            segments=segments,
            positions=positions,
            token_types=token_types,
            deterministic=deterministic,
        )
        chosen = hidden if masked_positions is None else gather_tokens(hidden, masked_positions)
        states = self.mlm_head.states(chosen)
        if not self.config.pooler:
            return states, None
        if first_tokens is None:
            first_tokens = jnp.zeros((tokens.shape[0], 1), jnp.int32)
        return states, self.pair_head(self.bert.pool(hidden, first_tokens))

    def output_table(self) -> tuple[Array, Array]:
        """What tokens are scored by: the embedding table [V,D'] and the bias [V], float32."""
        return self.bert.token_embedding.embedding, self.mlm_head.bias

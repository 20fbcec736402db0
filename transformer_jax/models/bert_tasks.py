"""BERT with the head of a task (arXiv:1810.04805, section 4): what fine-tuning trains.

All take rows of packed examples as `Bert` does. Their parameters are those of the encoder, "bert",
and those of the head, "head".
"""

from __future__ import annotations

from typing import Any

import flax.linen as nn
import jax.numpy as jnp

from transformer_jax.layers.attention import AttentionFn
from transformer_jax.models.bert import Bert, BertConfig
from transformer_jax.models.heads import ChoiceHead, SequenceHead, SpanHead, TokenHead
from transformer_jax.typing import Array, Constrain, identity


class BertWithHead(nn.Module):
    """What the models of this file share.

    Attributes:
      config: the sizes.
      head_dropout_rate: dropout of what enters the head.
      attention_fn, constrain: see `Bert`.
    """

    config: BertConfig
    head_dropout_rate: float = 0.1
    attention_fn: AttentionFn | None = None
    constrain: Constrain = identity

    def setup(self) -> None:
        """Makes the parts."""
        self.bert = Bert(self.config, attention_fn=self.attention_fn, constrain=self.constrain)
        self.head = self._make_head()

    def __call__(
        self,
        tokens: Array,
        *,
        segments: Array | None = None,
        positions: Array | None = None,
        token_types: Array | None = None,
        first_tokens: Array | None = None,
        deterministic: bool = True,
    ) -> Any:
        """Encodes rows of packed examples and judges them; each model says what it gives.

        Args:
          tokens, segments, positions, token_types: int [B,T], see `Bert`.
          first_tokens: int [B,E], where each packed example's [CLS] stands in its row; None: one
            example a row, whose [CLS] comes first.
          deterministic: False turns dropout on and needs the rng "dropout".
        """
        hidden = self.bert(
            tokens,
            segments=segments,
            positions=positions,
            token_types=token_types,
            deterministic=deterministic,
        )
        if first_tokens is None:
            first_tokens = jnp.zeros((tokens.shape[0], 1), jnp.int32)
        return self._judge(hidden, first_tokens, deterministic)

    def _make_head(self) -> nn.Module:
        raise NotImplementedError

    def _judge(self, hidden: Array, first_tokens: Array, deterministic: bool) -> Any:
        raise NotImplementedError


class BertClassifier(BertWithHead):
    """Sorts examples into classes (section 4.1) -> logits, float32 [B,E,C].

    Attributes:
      num_classes: number of classes C; the logit of a single one is a score.
    """

    num_classes: int = 2

    def _make_head(self) -> nn.Module:
        return SequenceHead(self.num_classes, self.head_dropout_rate, self.config.init_std)

    def _judge(self, hidden: Array, first_tokens: Array, deterministic: bool) -> Array:
        return self.head(self.bert.pool(hidden, first_tokens), deterministic=deterministic)


class BertChooser(BertWithHead):
    """Scores the C choices of each question (section 4.4) -> float32 [B,E/C,C].

    An example is a question with one of its choices; those of a question stand in one row, one
    after the other.

    Attributes:
      num_choices: choices C of a question.
    """

    num_choices: int = 4

    def _make_head(self) -> nn.Module:
        return ChoiceHead(self.num_choices, self.head_dropout_rate, self.config.init_std)

    def _judge(self, hidden: Array, first_tokens: Array, deterministic: bool) -> Array:
        return self.head(self.bert.pool(hidden, first_tokens), deterministic=deterministic)


class BertTagger(BertWithHead):
    """Sorts tokens into classes (section 5.3) -> logits, float32 [B,T,C].

    Attributes:
      num_classes: number of classes C.
    """

    num_classes: int = 2

    def _make_head(self) -> nn.Module:
        return TokenHead(self.num_classes, self.head_dropout_rate, self.config.init_std)

    def _judge(self, hidden: Array, first_tokens: Array, deterministic: bool) -> Array:
        return self.head(hidden, deterministic=deterministic)


class BertReader(BertWithHead):
    """Finds where an answer starts and ends (section 4.2) -> two logits, float32 [B,T] each.

    Nothing is dropped before the head, as in the paper's code.
    """

    def _make_head(self) -> nn.Module:
        return SpanHead(self.config.init_std)

    def _judge(self, hidden: Array, first_tokens: Array, deterministic: bool) -> Any:
        return self.head(hidden)

"""Heads: what stands on an encoder's states [B,T,D], for pretraining and for each kind of task."""

import flax.linen as nn
import jax.numpy as jnp

from transformer_jax.layers.dropout import Dropout
from transformer_jax.layers.feed_forward import ACTIVATIONS, Activation
from transformer_jax.layers.norms import LayerNorm
from transformer_jax.layers.positions import LearnedPositions
from transformer_jax.typing import Array


def gather_tokens(x: Array, places: Array) -> Array:
    """Takes the states at some places of each row: [B,T,D], int [B,P] -> [B,P,D]."""
    return jnp.take_along_axis(x, places[..., None], axis=1)


def tied_logits(states: Array, table: Array, bias: Array) -> Array:
    """Scores tokens by their embeddings: [B,P,D'], [V,D'], [V] -> float32 [B,P,V]."""
    table = table.astype(states.dtype)
    return jnp.einsum("BPD,VD->BPV", states, table, preferred_element_type=jnp.float32) + bias


class Transform(nn.Module):
    """norm(activation(x W + b)).

    Attributes:
      width: width of the result.
      activation: the activation.
      norm_epsilon: added to the variance by the layer norm.
      init_std: standard deviation that the matrix starts with.
      dtype: dtype of the product; parameters are float32.
    """

    width: int
    activation: Activation = "gelu"
    norm_epsilon: float = 1e-12
    init_std: float = 0.02
    dtype: jnp.dtype = jnp.float32

    @nn.compact
    def __call__(self, x: Array) -> Array:
        """[...,D] -> [...,width]."""
        init = nn.initializers.normal(self.init_std)
        x = nn.Dense(self.width, kernel_init=init, dtype=self.dtype, name="dense")(x)
        x = ACTIVATIONS[self.activation](x)
        return LayerNorm(epsilon=self.norm_epsilon, dtype=self.dtype, name="norm")(x)


class TiedHead(nn.Module):
    """What both heads share that score tokens by the embedding table, which they do not own.

    Attributes:
      vocab_size: number of tokens V.
      width: width D' of the embedding table.
      activation, norm_epsilon, init_std, dtype: see `Transform`.
    """

    vocab_size: int
    width: int
    activation: Activation = "gelu"
    norm_epsilon: float = 1e-12
    init_std: float = 0.02
    dtype: jnp.dtype = jnp.float32

    def setup(self) -> None:
        """Makes the parts."""
        self.bias = self.param("bias", nn.initializers.zeros, (self.vocab_size,))

    def _transform(self) -> Transform:
        return Transform(
            self.width,
            activation=self.activation,
            norm_epsilon=self.norm_epsilon,
            init_std=self.init_std,
            dtype=self.dtype,
        )

    def logits(self, states: Array, table: Array) -> Array:
        """[B,P,D'], the embedding table [V,D'] -> float32 [B,P,V]."""
        return tied_logits(states.astype(self.dtype), table, self.bias)


class MlmHead(TiedHead):
    """Scores the masked tokens (arXiv:1810.04805, section 3.1, Task #1).

    Attributes: see `TiedHead`.
    """

    def setup(self) -> None:
        """Makes the parts."""
        super().setup()
        self.transform = self._transform()

    def states(self, x: Array) -> Array:
        """What is multiplied with the table: [B,P,D] -> [B,P,D']."""
        return self.transform(x)

    def __call__(self, x: Array, table: Array) -> Array:
        """[B,P,D], the embedding table [V,D'] -> logits, float32 [B,P,V]."""
        return self.logits(self.states(x), table)


class SpanBoundaryHead(TiedHead):
    """Scores the tokens of a masked span by its two neighbours (arXiv:1907.10529, section 3.2).

    Its bias is its own, as in the paper's code; the table is the embedding's.

    Attributes:
      vocab_size, width, activation, norm_epsilon, init_std, dtype: see `TiedHead`.
      max_span: tokens that a span can have.
      position_width: width of the embedding of the place in the span.
    """

    max_span: int = 20
    position_width: int = 200

    def setup(self) -> None:
        """Makes the parts."""
        super().setup()
        self.position_embedding = LearnedPositions(
            self.max_span, self.position_width, init_std=self.init_std
        )
        self.transform_1 = self._transform()
        self.transform_2 = self._transform()

    def states(self, left: Array, right: Array, offsets: Array) -> Array:
        """What is multiplied with the table: [B,P,D], [B,P,D], int [B,P] -> [B,P,D'].

        Args:
          left: the states of the last token before each masked token's span.
          right: the states of the first token after it.
          offsets: the masked token's place in its span, from 0; beyond max_span it gives NaN.
        """
        places = self.position_embedding(offsets).astype(left.dtype)
        x = jnp.concatenate([left, right, places], axis=-1)
        return self.transform_2(self.transform_1(x))

    def __call__(self, left: Array, right: Array, offsets: Array, table: Array) -> Array:
        """[B,P,D], [B,P,D], int [B,P], the table [V,D'] -> logits, float32 [B,P,V]."""
        return self.logits(self.states(left, right, offsets), table)


class PairHead(nn.Module):
    """Judges a pair: does the second sentence follow, or are both in order?

    Next sentence prediction (arXiv:1810.04805, section 3.1, Task #2) and sentence order prediction
    (arXiv:1909.11942, section 3.1).

    Attributes:
      init_std: standard deviation that the matrix starts with.
    """

    init_std: float = 0.02

    @nn.compact
    def __call__(self, pooled: Array) -> Array:
        """[B,E,D] -> logits, float32 [B,E,2]."""
        return _dense(2, self.init_std)(pooled)


class SequenceHead(nn.Module):
    """Sorts whole examples into classes (arXiv:1810.04805, section 4.1).

    Attributes:
      num_classes: number of classes C.
      dropout_rate: probability of dropping one pooled value.
      init_std: standard deviation that the matrix starts with.
    """

    num_classes: int
    dropout_rate: float = 0.1
    init_std: float = 0.02

    @nn.compact
    def __call__(self, pooled: Array, *, deterministic: bool = True) -> Array:
        """[B,D] or [B,E,D] -> logits, float32 [B,C] or [B,E,C]."""
        pooled = Dropout(self.dropout_rate)(pooled, deterministic=deterministic)
        return _dense(self.num_classes, self.init_std)(pooled)


class TokenHead(SequenceHead):
    """Sorts tokens into classes (arXiv:1810.04805, section 5.3).

    Attributes: see `SequenceHead`; what is dropped are states.
    """

    def __call__(self, hidden: Array, *, deterministic: bool = True) -> Array:
        """[B,T,D] -> logits, float32 [B,T,C]."""
        return super().__call__(hidden, deterministic=deterministic)


class SpanHead(nn.Module):
    """Scores where an answer starts and where it ends (arXiv:1810.04805, section 4.2).

    Attributes:
      init_std: standard deviation that the matrix starts with.
    """

    init_std: float = 0.02

    @nn.compact
    def __call__(self, hidden: Array) -> tuple[Array, Array]:
        """[B,T,D] -> logits of the start and of the end, float32 [B,T] each."""
        logits = _dense(2, self.init_std)(hidden)
        return logits[..., 0], logits[..., 1]


class ChoiceHead(nn.Module):
    """Scores the choices of each question (arXiv:1810.04805, section 4.4).

    Attributes:
      num_choices: choices C of a question.
      dropout_rate: probability of dropping one pooled value.
      init_std: standard deviation that the matrix starts with.
    """

    num_choices: int
    dropout_rate: float = 0.1
    init_std: float = 0.02

    @nn.compact
    def __call__(self, pooled: Array, *, deterministic: bool = True) -> Array:
        """[B,E,D], a question's choices one after the other -> scores, float32 [B,E/C,C]."""
        pooled = Dropout(self.dropout_rate)(pooled, deterministic=deterministic)
        scores = _dense(1, self.init_std)(pooled)
        return scores.reshape(pooled.shape[0], -1, self.num_choices)


def _dense(features: int, init_std: float) -> nn.Dense:
    # In float32 whatever the encoder's dtype: the product is small, and losses start here.
    init = nn.initializers.normal(init_std)
    return nn.Dense(features, kernel_init=init, dtype=jnp.float32, name="dense")

"""Token embeddings, which also score the next token where they are shared."""

import flax.linen as nn
import jax.numpy as jnp

from transformer_jax.typing import Array


class TokenEmbedding(nn.Module):
    """A vector for each token (arXiv:1706.03762, section 3.4).

    Vectors start with variance 1/D, if not told otherwise, and the look-up multiplies them by
    sqrt(D) if `scaled`, so that what enters the first layer has unit variance beside the
    sinusoids, while the shared output projection starts with logits of unit variance.

    Attributes:
      vocab_size: number of tokens V.
      width: width D.
      scaled: multiplies what is looked up by sqrt(D).
      use_bias: adds a bias to the logits.
      init_std: standard deviation that vectors start with; None: 1/sqrt(D).
      dtype: dtype of what the look-up gives and of the products in `logits`.
    """

    vocab_size: int
    width: int
    scaled: bool = True
    use_bias: bool = False
    init_std: float | None = None
    dtype: jnp.dtype = jnp.float32

    def setup(self) -> None:
        """Makes the parts."""
        std = self.width**-0.5 if self.init_std is None else self.init_std
        init = nn.initializers.normal(std)
        self.embedding = self.param("embedding", init, (self.vocab_size, self.width))
        if self.use_bias:
            self.bias = self.param("bias", nn.initializers.zeros, (self.vocab_size,))

    def __call__(self, tokens: Array) -> Array:
        """int [B,T] -> [B,T,D]; a token outside the vocabulary gives NaN, never another's vector.

        Token ids are checked where data is loaded; here nothing can raise.
        """
        # A negative index would count from the end, so it is sent beyond the end first.
        tokens = jnp.where(tokens < 0, self.vocab_size, tokens)
        vectors = jnp.take(self.embedding, tokens, axis=0, mode="fill", fill_value=jnp.nan)
        scale = self.width**0.5 if self.scaled else 1.0
        return vectors.astype(self.dtype) * jnp.asarray(scale, self.dtype)

    def logits(self, x: Array) -> Array:
        """Scores every token by its own vector: [B,T,D] -> float32 [B,T,V]."""
        table = self.embedding.astype(self.dtype)
        logits = jnp.einsum("BTD,VD->BTV", x, table, preferred_element_type=jnp.float32)
        return logits + self.bias if self.use_bias else logits

"""The position-wise feed-forward network."""

from typing import Literal

import flax.linen as nn
import jax.numpy as jnp

from transformer_jax.layers.dropout import Dropout
from transformer_jax.typing import Array

Activation = Literal["relu", "gelu", "gelu_tanh", "swish"]

ACTIVATIONS = {
    "relu": nn.relu,
    "gelu": lambda x: nn.gelu(x, approximate=False),  # the exact one, as BERT has it
    "gelu_tanh": lambda x: nn.gelu(x, approximate=True),
    "swish": nn.swish,
}


class FeedForward(nn.Module):
    """activation(x W1 + b1) W2 + b2 (arXiv:1706.03762, section 3.3), gated on request.

    Attributes:
      hidden_dim: width F between the two products.
      dropout_rate: probability of dropping one hidden value.
      activation: relu (the paper), gelu, gelu_tanh, or swish.
      gated: multiplies the activation by a second product x V (arXiv:2002.05202).
      use_bias: gives the products a bias.
      kernel_init: how the matrices start.
      dtype: dtype of the products; parameters are float32.
    """

    hidden_dim: int
    dropout_rate: float = 0.0
    activation: Activation = "relu"
    gated: bool = False
    use_bias: bool = True
    kernel_init: nn.initializers.Initializer = nn.initializers.xavier_uniform()
    dtype: jnp.dtype = jnp.float32

    @nn.compact
    def __call__(self, x: Array, *, deterministic: bool = True) -> Array:
        """[B,T,D] -> [B,T,D]."""

        def dense(features: int, name: str) -> nn.Dense:
            return nn.Dense(
                features,
                use_bias=self.use_bias,
                kernel_init=self.kernel_init,
                dtype=self.dtype,
                name=name,
            )

        hidden = ACTIVATIONS[self.activation](dense(self.hidden_dim, "up")(x))
        if self.gated:
            hidden = hidden * dense(self.hidden_dim, "gate")(x)
        hidden = Dropout(self.dropout_rate)(hidden, deterministic=deterministic)
        return dense(x.shape[-1], "down")(hidden)

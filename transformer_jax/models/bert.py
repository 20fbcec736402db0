"""BERT (arXiv:1810.04805), and by its config ALBERT, RoBERTa and DistilBERT."""

from __future__ import annotations

import dataclasses
from typing import Any, Literal

import flax.linen as nn
import jax.numpy as jnp

from transformer_jax.layers.attention import AttentionFn
from transformer_jax.layers.blocks import EncoderLayer
from transformer_jax.layers.dropout import Dropout
from transformer_jax.layers.embeddings import TokenEmbedding
from transformer_jax.layers.feed_forward import Activation
from transformer_jax.layers.kernels import BLOCK, Kernel, check_kernel, make_kernel
from transformer_jax.layers.masks import Mask
from transformer_jax.layers.norms import LayerNorm
from transformer_jax.layers.positions import LearnedPositions, default_positions
from transformer_jax.layers.stacks import Encoder, Remat
from transformer_jax.models.heads import gather_tokens
from transformer_jax.typing import Array, Constrain, identity


@dataclasses.dataclass(frozen=True)
class BertConfig:
    """Sizes of a BERT; the defaults are the base model (section 3 of the paper), uncased.

    Attributes:
      vocab_size: size V of the vocabulary.
      width: width D.
      num_heads: heads N of each attention; must divide the width.
      feed_forward_dim: width F of the feed-forward networks.
      num_layers: layers L.
      max_positions: places that an example can have.
      type_vocab_size: token types, such as 2 for the sentences of a pair; 0: no such embedding.
      embedding_width: width of the embeddings, where a product with a bias brings them to the
        width D (ALBERT, arXiv:1909.11942, section 3.1); None: they have the width D.
      shared_layers: gives all layers the same parameters (ALBERT, the same section).
      first_position: number of the first place in the table, whose rows before it are never read;
        RoBERTa's checkpoints begin at 2.
      pooler: has a product and an activation on the state of [CLS].
      pooler_activation: tanh; relu in DistilBERT's classifiers.
      dropout_rate: dropout of the embeddings and of each sublayer's output.
      attention_dropout_rate: dropout of the attention weights.
      activation: activation of the feed-forward networks and of the head that scores tokens.
      norm_epsilon: added to the variance by the layer norms.
      init_std: standard deviation that all matrices and embeddings start with, normally
        distributed.
      attention: the attention kernel: dense and chunked run everywhere, splash on TPUs, cudnn on
        GPUs; the latter two need attention_dropout_rate 0.
      attention_block: queries, and for splash keys, that chunked and splash work on at a time.
      dtype: dtype of the products; parameters and statistics are float32.
      remat: what the backward pass computes again; see `Encoder`.
      unroll: compiles the layers one after the other; faster on a CPU.
    """

    vocab_size: int = 30522
    width: int = 768
    num_heads: int = 12
    feed_forward_dim: int = 3072
    num_layers: int = 12
    max_positions: int = 512
    type_vocab_size: int = 2
    embedding_width: int | None = None
    shared_layers: bool = False
    first_position: int = 0
    pooler: bool = True
    pooler_activation: Literal["tanh", "relu"] = "tanh"
    dropout_rate: float = 0.1
    attention_dropout_rate: float = 0.1
    activation: Activation = "gelu"
    norm_epsilon: float = 1e-12
    init_std: float = 0.02
    attention: Kernel = "dense"
    attention_block: int = BLOCK
    dtype: Literal["float32", "bfloat16"] = "float32"
    remat: Remat = "none"
    unroll: bool = False

    def __post_init__(self) -> None:
        sizes = ("vocab_size", "width", "num_heads", "feed_forward_dim", "num_layers")
        for name in (*sizes, "max_positions", "embedding_width"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise ValueError(f"model.{name}={value} must be at least 1.")
        for name in ("type_vocab_size", "first_position"):
            if getattr(self, name) < 0:
                raise ValueError(f"model.{name}={getattr(self, name)} must be at least 0.")
        if self.width % self.num_heads:
            raise ValueError(
                f"model.width={self.width} must be a multiple of model.num_heads={self.num_heads}."
            )
        for name in ("dropout_rate", "attention_dropout_rate"):
            if not 0.0 <= getattr(self, name) < 1.0:
                raise ValueError(f"model.{name}={getattr(self, name)} must be in [0, 1).")
        check_kernel(
            self.attention,
            block=self.attention_block,
            dropout_rate=self.attention_dropout_rate,
            dtype=self.dtype,
        )
        for name in ("norm_epsilon", "init_std"):
            if getattr(self, name) <= 0.0:
                raise ValueError(f"model.{name}={getattr(self, name)} must be positive.")

    @classmethod
    def tiny(cls, **changes: Any) -> BertConfig:
        """The smallest model of arXiv:1908.08962, BERT-Tiny."""
        sizes: dict[str, Any] = dict(width=128, num_heads=2, feed_forward_dim=512, num_layers=2)
        return cls(**(sizes | changes))

    @classmethod
    def base(cls, **changes: Any) -> BertConfig:
        """The base model of section 3."""
        return cls(**changes)

    @classmethod
    def large(cls, **changes: Any) -> BertConfig:
        """The large model of section 3."""
        sizes: dict[str, Any] = dict(width=1024, num_heads=16, feed_forward_dim=4096, num_layers=24)
        return cls(**(sizes | changes))


class Bert(nn.Module):
    """Embeddings and a stack of post-norm encoder layers (arXiv:1810.04805, section 3).

    Rows may hold several packed examples: `segments` [B,T] tells them apart (1, 2, ...; 0 is
    padding), and `positions` restart in each. Without segments every token is real; without
    positions they count from 0 in each row; without token types all are of type 0.

    Attributes:
      config: the sizes.
      attention_fn: an attention kernel in place of the config's.
      constrain: fixes the layout of the activations [B,T,D] after each layer.
    """

    config: BertConfig
    attention_fn: AttentionFn | None = None
    constrain: Constrain = identity

    def setup(self) -> None:
        """Makes the parts."""
        c = self.config
        dtype = jnp.dtype(c.dtype)
        init = nn.initializers.normal(c.init_std)
        width = c.embedding_width or c.width
        table: dict[str, Any] = dict(width=width, init_std=c.init_std)
        self.token_embedding = TokenEmbedding(c.vocab_size, scaled=False, dtype=dtype, **table)
        self.position_embedding = LearnedPositions(c.first_position + c.max_positions, **table)
        if c.type_vocab_size:
            types = c.type_vocab_size
            self.type_embedding = TokenEmbedding(types, scaled=False, dtype=dtype, **table)
        self.embedding_norm = LayerNorm(epsilon=c.norm_epsilon, dtype=dtype)
        if c.embedding_width is not None:
            self.embedding_projection = nn.Dense(c.width, kernel_init=init, dtype=dtype)
        layer = EncoderLayer(
            c.width,
            c.num_heads,
            c.feed_forward_dim,
            dropout_rate=c.dropout_rate,
            attention_dropout_rate=c.attention_dropout_rate,
            activation=c.activation,
            norm_epsilon=c.norm_epsilon,
            kernel_init=init,
            attention_fn=self.attention_fn or make_kernel(c.attention, c.attention_block),
            dtype=dtype,
            parent=None,
        )
        self.encoder = Encoder(
            layer,
            c.num_layers,
            shared=c.shared_layers,
            unroll=c.unroll,
            remat=c.remat,
            constrain=self.constrain,
        )
        if c.pooler:
            self.pooler = nn.Dense(c.width, kernel_init=init, dtype=dtype)
        self.dropout = Dropout(c.dropout_rate)

    def __call__(
        self,
        tokens: Array,
        *,
        segments: Array | None = None,
        positions: Array | None = None,
        token_types: Array | None = None,
        deterministic: bool = True,
    ) -> Array:
        """Encodes each token in the sight of its whole example.

        Args:
          tokens: int [B,T].
          segments: int [B,T].
          positions: int [B,T], below max_positions; what is beyond gives NaN.
          token_types: int [B,T], below type_vocab_size; what is beyond gives NaN.
          deterministic: False turns dropout on and needs the rng "dropout".

        Returns:
          [B,T,D]

        Raises:
          ValueError: there are token types but no embedding of them, or more tokens than places.
        """
        x = self._embed(tokens, positions, token_types, deterministic)
        mask = None if segments is None else Mask.segments(segments)
        x = self.encoder(x, mask=mask, deterministic=deterministic)
        if self.config.pooler and self.is_initializing():
            self.pooler(x)  # so that the parameters are all there, whatever is called first
        return x

    def pool(self, hidden: Array, first_tokens: Array) -> Array:
        """Sums up each example by its [CLS]: [B,T,D], int [B,E] -> [B,E,D].

        Args:
          hidden: what the call gave.
          first_tokens: where each packed example's [CLS] stands in its row.

        Raises:
          ValueError: the config has no pooler.
        """
        if not self.config.pooler:
            raise ValueError("This Bert has no pooler; its config says pooler=False.")
        activation = nn.relu if self.config.pooler_activation == "relu" else nn.tanh
        return activation(self.pooler(gather_tokens(hidden, first_tokens)))

    def _embed(
        self,
        tokens: Array,
        positions: Array | None,
        token_types: Array | None,
        deterministic: bool,
    ) -> Array:
        c = self.config
        if positions is None:
            if tokens.shape[1] > c.max_positions:
                raise ValueError(
                    f"{tokens.shape[1]} tokens, but the model has {c.max_positions} positions."
                )
            positions = default_positions(tokens)
        x = self.token_embedding(tokens)
        x = x + self.position_embedding(positions + c.first_position).astype(x.dtype)
        if c.type_vocab_size:
            x = x + self.type_embedding(
                jnp.zeros_like(tokens) if token_types is None else token_types
            )
        elif token_types is not None:
            raise ValueError("Token types were given, but the config has type_vocab_size=0.")
        x = self.dropout(self.embedding_norm(x), deterministic=deterministic)
        return x if c.embedding_width is None else self.embedding_projection(x)

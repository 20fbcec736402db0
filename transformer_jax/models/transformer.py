"""The encoder-decoder Transformer of "Attention Is All You Need" (arXiv:1706.03762)."""

from __future__ import annotations

import dataclasses
from typing import Any, Literal

import flax.linen as nn
import jax.numpy as jnp

from transformer_jax.layers.attention import AttentionFn, KeyValues
from transformer_jax.layers.blocks import DecoderLayer, EncoderLayer
from transformer_jax.layers.dropout import Dropout
from transformer_jax.layers.embeddings import TokenEmbedding
from transformer_jax.layers.feed_forward import Activation
from transformer_jax.layers.kernels import BLOCK, Kernel, check_kernel, make_kernel
from transformer_jax.layers.masks import Mask
from transformer_jax.layers.positions import (
    SinusoidLayout,
    default_positions,
    sinusoidal_positions,
)
from transformer_jax.layers.stacks import Decoder, Encoder, Remat
from transformer_jax.typing import Array, Constrain, identity


@dataclasses.dataclass(frozen=True)
class TransformerConfig:
    """Sizes of a Transformer; the defaults are the base model (table 3 of the paper).

    Attributes:
      vocab_size: size V of the vocabulary, which source and target share.
      source_vocab_size: size of a source vocabulary with an embedding of its own; None: shared.
      tied_output: scores tokens by the target's embedding (section 3.4), not by another table.
      logits_bias: adds a bias to the logits.
      scaled_embedding: multiplies embeddings by sqrt(D) (section 3.4).
      width: width D.
      num_heads: heads N of each attention; must divide the width.
      feed_forward_dim: width F of the feed-forward networks.
      decoder_num_heads: heads in the decoder, where they differ.
      decoder_feed_forward_dim: width F in the decoder, where it differs.
      encoder_layers: layers of the encoder.
      decoder_layers: layers of the decoder.
      dropout_rate: dropout of the embeddings' sums and of each sublayer's output.
      attention_dropout_rate: dropout of the attention weights.
      feed_forward_dropout_rate: dropout inside the feed-forward networks.
      activation: activation of the feed-forward networks.
      norm_first: pre-norm layers (arXiv:2002.04745) in place of the paper's post-norm.
      attention_bias: gives the attention's projections a bias; the paper has none.
      norm_epsilon: added to the variance by the layer norms.
      sinusoids: order of the channels of the position signal; the paper's is interleaved.
      attention: the attention kernel: dense and chunked run everywhere, splash on TPUs, cudnn on
        GPUs; the latter two need attention_dropout_rate 0.
      attention_block: queries, and for splash keys, that chunked and splash work on at a time.
      dtype: dtype of the products; parameters and statistics are float32.
      remat: what the backward pass computes again; see `Encoder`.
      unroll: compiles the layers one after the other; faster on a CPU.
    """

    vocab_size: int = 37000
    width: int = 512
    num_heads: int = 8
    feed_forward_dim: int = 2048
    encoder_layers: int = 6
    decoder_layers: int = 6
    dropout_rate: float = 0.1
    attention_dropout_rate: float = 0.0
    feed_forward_dropout_rate: float = 0.0
    activation: Activation = "relu"
    norm_first: bool = False
    attention_bias: bool = False
    sinusoids: SinusoidLayout = "interleaved"
    attention: Kernel = "dense"
    attention_block: int = BLOCK
    dtype: Literal["float32", "bfloat16"] = "float32"
    remat: Remat = "none"
    unroll: bool = False
    source_vocab_size: int | None = None
    tied_output: bool = True
    logits_bias: bool = False
    scaled_embedding: bool = True
    decoder_num_heads: int | None = None
    decoder_feed_forward_dim: int | None = None
    norm_epsilon: float = 1e-6

    def __post_init__(self) -> None:
        sizes = ("vocab_size", "width", "num_heads", "feed_forward_dim")
        own = ("source_vocab_size", "decoder_num_heads", "decoder_feed_forward_dim")
        for name in (*sizes, *own, "encoder_layers", "decoder_layers"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise ValueError(f"model.{name}={value} must be at least 1.")
        for name in ("num_heads", "decoder_num_heads"):
            if self.width % (getattr(self, name) or 1):
                raise ValueError(
                    f"model.width={self.width} must be a multiple of "
                    f"model.{name}={getattr(self, name)}."
                )
        if self.width % 2:
            raise ValueError(f"model.width={self.width} must be even.")
        for name in ("dropout_rate", "attention_dropout_rate", "feed_forward_dropout_rate"):
            if not 0.0 <= getattr(self, name) < 1.0:
                raise ValueError(f"model.{name}={getattr(self, name)} must be in [0, 1).")
        check_kernel(
            self.attention,
            block=self.attention_block,
            dropout_rate=self.attention_dropout_rate,
            dtype=self.dtype,
        )

    @classmethod
    def big(cls, **changes: Any) -> TransformerConfig:
        """The big model of table 3."""
        sizes: dict[str, Any] = dict(
            width=1024, feed_forward_dim=4096, num_heads=16, dropout_rate=0.3
        )
        return cls(**(sizes | changes))

    @classmethod
    def small(cls, **changes: Any) -> TransformerConfig:
        """3+3 layers of width 256, for some ten thousand sentence pairs."""
        sizes: dict[str, Any] = dict(vocab_size=8000, width=256, num_heads=4, feed_forward_dim=1024)
        layers = dict(encoder_layers=3, decoder_layers=3)
        return cls(**(sizes | layers | changes))


class Transformer(nn.Module):
    """Encoder and decoder over one shared embedding, or one each.

    Rows may hold several packed pairs: `source_segments` and `target_segments` [B,S], [B,T] tell
    them apart (1, 2, ...; 0 is padding), and the positions restart in each. Without segments every
    token is real; without positions they count from 0.

    Attributes:
      config: the sizes.
      attention_fn: an attention kernel in place of the config's.
      constrain: fixes the layout of the activations [B,T,D] after each layer.
    """

    config: TransformerConfig
    attention_fn: AttentionFn | None = None
    constrain: Constrain = identity

    def setup(self) -> None:
        """Makes the parts."""
        c = self.config
        dtype = jnp.dtype(c.dtype)
        sizes: dict[str, Any] = dict(
            width=c.width,
            num_heads=c.num_heads,
            feed_forward_dim=c.feed_forward_dim,
            dropout_rate=c.dropout_rate,
            attention_dropout_rate=c.attention_dropout_rate,
            feed_forward_dropout_rate=c.feed_forward_dropout_rate,
            activation=c.activation,
            norm_first=c.norm_first,
            norm_epsilon=c.norm_epsilon,
            attention_bias=c.attention_bias,
            attention_fn=self.attention_fn or make_kernel(c.attention, c.attention_block),
            dtype=dtype,
        )
        stack: dict[str, Any] = dict(unroll=c.unroll, remat=c.remat, constrain=self.constrain)
        table: dict[str, Any] = dict(width=c.width, scaled=c.scaled_embedding, dtype=dtype)
        has_bias = c.logits_bias and c.tied_output
        self.token_embedding = TokenEmbedding(c.vocab_size, use_bias=has_bias, **table)
        if c.source_vocab_size is not None:
            self.source_embedding = TokenEmbedding(c.source_vocab_size, **table)
        if not c.tied_output:
            self.output_embedding = TokenEmbedding(c.vocab_size, use_bias=c.logits_bias, **table)
        self.encoder = Encoder(EncoderLayer(**sizes, parent=None), c.encoder_layers, **stack)
        sizes |= dict(
            num_heads=c.decoder_num_heads or c.num_heads,
            feed_forward_dim=c.decoder_feed_forward_dim or c.feed_forward_dim,
        )
        self.decoder = Decoder(DecoderLayer(**sizes, parent=None), c.decoder_layers, **stack)
        self.dropout = Dropout(c.dropout_rate)

    def __call__(
        self,
        source: Array,
        target_inputs: Array,
        *,
        source_segments: Array | None = None,
        target_segments: Array | None = None,
        source_positions: Array | None = None,
        target_positions: Array | None = None,
        deterministic: bool = True,
    ) -> Array:
        """Scores each next target token.

        Args:
          source: int [B,S].
          target_inputs: int [B,T], the target shifted right, first a start token.
          source_segments, target_segments: int [B,S], [B,T]; give both or none.
          source_positions, target_positions: int [B,S], [B,T].
          deterministic: False turns dropout on and needs the rng "dropout".

        Returns:
          Logits, float32 [B,T,V].
        """
        if (source_segments is None) != (target_segments is None):
            raise ValueError("Give source_segments and target_segments together, or neither.")
        encoded = self.encode(
            source,
            segments=source_segments,
            positions=source_positions,
            deterministic=deterministic,
        )
        mask, cross_mask = Mask.causal(), None
        if source_segments is not None and target_segments is not None:
            mask = mask & Mask.segments(target_segments)
            cross_mask = Mask.segments(target_segments, source_segments)
        x = self._embed(self.token_embedding, target_inputs, target_positions, deterministic)
        x = self.decoder(x, encoded, mask=mask, cross_mask=cross_mask, deterministic=deterministic)
        return self._logits(x)

    def encode(
        self,
        source: Array,
        *,
        segments: Array | None = None,
        positions: Array | None = None,
        deterministic: bool = True,
    ) -> Array:
        """int [B,S] -> [B,S,D]."""
        mask = None if segments is None else Mask.segments(segments)
        own = self.config.source_vocab_size is not None
        table = self.source_embedding if own else self.token_embedding
        x = self._embed(table, source, positions, deterministic)
        return self.encoder(x, mask=mask, deterministic=deterministic)

    def memory(self, encoded: Array) -> tuple[KeyValues, ...]:
        """What all steps of decoding attend to, for each layer of the decoder, of [B,S,D]."""
        return self.decoder.memory(encoded)

    def empty_cache(self, batch_size: int, max_length: int) -> tuple[KeyValues, ...]:
        """The cache before the first step, for each layer of the decoder; reads no parameters."""
        return self.decoder.empty_cache(batch_size, max_length)

    def decode_step(
        self,
        tokens: Array,
        memory: tuple[KeyValues, ...],
        cache: tuple[KeyValues, ...],
        index: Array,
        *,
        positions: Array | None = None,
        mask: Mask | None = None,
        source_valid: Array | None = None,
    ) -> tuple[Array, tuple[KeyValues, ...]]:
        """One step of decoding for each row, of one hypothesis or of several.

        Args:
          tokens: int [B], the next token of each row, at first the start token; or [B,K] for K
            hypotheses of each source, which share a cache.
          memory: from `memory`.
          cache: from `empty_cache`, then what the step before returned.
          index: int [], the place in the cache that is written first; 0 in the first step.
          positions: int, of the tokens' shape; None: all stand at `index`.
          mask: which places of the cache each hypothesis sees; None: those up to its own. See
            `transformer_jax.decoding.beam_cache`.
          source_valid: bool or int [B,S], non-zero where the source is real.

        Returns:
          Logits of the next token, float32 [B,V] or [B,K,V], and the new cache.
        """
        several = tokens.reshape(tokens.shape[0], -1)
        positions = jnp.broadcast_to(index if positions is None else positions, tokens.shape)
        x = self._embed(self.token_embedding, several, positions.reshape(several.shape), True)
        cross_mask = None if source_valid is None else Mask.padding(source_valid)
        x, cache = self.decoder.decode(x, memory, cache, index, mask=mask, cross_mask=cross_mask)
        return self._logits(x).reshape(*tokens.shape, -1), cache

    def _embed(
        self, table: TokenEmbedding, tokens: Array, positions: Array | None, deterministic: bool
    ) -> Array:
        positions = default_positions(tokens) if positions is None else positions
        waves = sinusoidal_positions(positions, self.config.width, layout=self.config.sinusoids)
        x = table(tokens)
        return self.dropout(x + waves.astype(x.dtype), deterministic=deterministic)

    def _logits(self, x: Array) -> Array:
        table = self.token_embedding if self.config.tied_output else self.output_embedding
        return table.logits(x)

"""A saved tokenizer of an encoder, whichever kind it is."""

from __future__ import annotations

import codecs
import os

from transformer_jax.data.byte_bpe import ByteBpeTokenizer
from transformer_jax.data.encoder_tokenizer import EncoderTokenizer, read_tokenizer
from transformer_jax.data.sentencepiece_encoder import SentencePieceEncoder
from transformer_jax.data.tokenizer_json import parse
from transformer_jax.data.unigram import UnigramTokenizer
from transformer_jax.data.wordpiece import WordPieceTokenizer
from transformer_jax.errors import UserError


def load_tokenizer(path: str | os.PathLike[str]) -> EncoderTokenizer:
    """Loads a tokenizer.json (WordPiece, byte-level BPE, unigrams), or a SentencePiece model.

    Raises:
      UserError: the file is missing, damaged or of none of these kinds.
    """
    data = read_tokenizer(path)
    if not data.removeprefix(codecs.BOM_UTF8).lstrip().startswith(b"{"):
        return SentencePieceEncoder(path)
    kind = parse(data, path)["model"].get("type")
    if kind == "WordPiece":
        return WordPieceTokenizer(path)
    if kind == "BPE":
        return ByteBpeTokenizer(path)
    if kind == "Unigram":
        return UnigramTokenizer(path)
    raise UserError(
        f"The tokenizer {path} is of the kind {kind}; WordPiece, byte-level BPE and unigram pieces "
        f"can be read."
    )

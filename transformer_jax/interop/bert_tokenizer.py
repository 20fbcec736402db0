"""The tokenizer in the folder of a BERT, RoBERTa, DistilBERT or ALBERT."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from transformer_jax.data.byte_bpe import ByteBpeTokenizer
from transformer_jax.data.encoder_tokenizer import EncoderTokenizer
from transformer_jax.data.sentencepiece_encoder import SentencePieceEncoder
from transformer_jax.data.subword_tokenizers import load_tokenizer
from transformer_jax.data.unigram import UnigramTokenizer
from transformer_jax.data.wordpiece import WordPieceTokenizer
from transformer_jax.interop.folders import read_json, write_json

_CLASSES = {
    "bert": "BertTokenizer",
    "roberta": "RobertaTokenizer",
    "distilbert": "DistilBertTokenizer",
    "albert": "AlbertTokenizer",
}


def load_bert_tokenizer(folder: Path) -> EncoderTokenizer | None:
    """The tokenizer of a folder, from the first of its files that is there; None if there is none.

    Raises:
      UserError: it is damaged, or of a kind that cannot be read.
    """
    if (path := folder / "tokenizer.json").is_file():
        return load_tokenizer(path)
    settings = folder / "tokenizer_config.json"
    said = read_json(settings) if settings.is_file() else {}
    if (path := folder / "vocab.txt").is_file():
        return WordPieceTokenizer.from_vocab(path, lowercase=said.get("do_lower_case", True))
    if (path := folder / "vocab.json").is_file():
        return ByteBpeTokenizer.from_vocab(path, folder / "merges.txt")
    if (path := folder / "spiece.model").is_file():
        return UnigramTokenizer.from_sentencepiece(
            path,
            lowercase=said.get("do_lower_case", True),
            keep_accents=said.get("keep_accents", False),
        )
    return None


def save_bert_tokenizer(folder: Path, tokenizer: EncoderTokenizer, family: str) -> None:
    """Writes what `transformers` makes its tokenizer of.

    Raises:
      UserError: the folder cannot be written.
    """
    settings: dict[str, Any] = {"tokenizer_class": _CLASSES[family]}
    if isinstance(tokenizer, SentencePieceEncoder):
        # What is done to a text before, the model file says.
        settings |= {"do_lower_case": False, "keep_accents": True}
        tokenizer.save(folder / "spiece.model")
    else:
        tokenizer.save(folder / "tokenizer.json")
    write_json(folder / "tokenizer_config.json", settings)

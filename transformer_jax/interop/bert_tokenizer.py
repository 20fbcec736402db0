"""The tokenizer in the folder of a BERT, RoBERTa, DistilBERT or ALBERT."""

from __future__ import annotations

from pathlib import Path

from transformer_jax.data.byte_bpe import ByteBpeTokenizer
from transformer_jax.data.encoder_tokenizer import EncoderTokenizer
from transformer_jax.data.sentencepiece_encoder import SentencePieceEncoder
from transformer_jax.data.subword_tokenizers import load_tokenizer
from transformer_jax.data.wordpiece import WordPieceTokenizer
from transformer_jax.interop.folders import read_json, write_json


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
        return SentencePieceEncoder(path)
    return None


def save_bert_tokenizer(folder: Path, tokenizer: EncoderTokenizer, family: str) -> None:
    """Writes what `transformers` makes its tokenizer of.

    Raises:
      UserError: the folder cannot be written.
    """
    if isinstance(tokenizer, SentencePieceEncoder):
        tokenizer.save(folder / "spiece.model")
    else:
        tokenizer.save(folder / "tokenizer.json")
    classes = {
        "bert": "BertTokenizer",
        "roberta": "RobertaTokenizer",
        "distilbert": "DistilBertTokenizer",
        "albert": "AlbertTokenizer",
    }
    write_json(folder / "tokenizer_config.json", {"tokenizer_class": classes[family]})

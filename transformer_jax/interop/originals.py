"""BERTs in the files of those who trained them: fairseq's RoBERTa, Google's BERT and ALBERT."""

from __future__ import annotations

import dataclasses
import re
from pathlib import Path

from transformer_jax.data.byte_bpe import ByteBpeTokenizer
from transformer_jax.data.encoder_tokenizer import EncoderTokenizer
from transformer_jax.data.unigram import UnigramTokenizer
from transformer_jax.data.wordpiece import WordPieceTokenizer
from transformer_jax.errors import UserError
from transformer_jax.interop.bert import PretrainedBert, bert_from
from transformer_jax.interop.bert_names import Kind
from transformer_jax.interop.fairseq import fairseq_vocabulary, read_fairseq
from transformer_jax.interop.tensorflow_checkpoint import CONFIGS, read_tensorflow_checkpoint

_MERGES = ("vocab.bpe", "merges.txt")  # of GPT-2, beside its encoder.json


def is_original(path: Path) -> bool:
    """Whether there is a checkpoint of fairseq or of Google's TensorFlow code."""
    return _fairseq_file(path) is not None or _is_google(path)


def load_original(path: Path, kind: Kind | None = None) -> PretrainedBert:
    """Reads a fairseq .pt or its folder; or Google's folder, or the prefix of a checkpoint in it.

    A tokenizer comes along where its files lie beside: dict.txt, encoder.json and vocab.bpe (of
    GPT-2); vocab.txt, or ALBERT's SentencePiece model. As in Google's own code, a vocab.txt is of a
    cased model if the folder's name says so.

    Raises:
      UserError: see `fairseq.read_fairseq`, `tensorflow_checkpoint.read_tensorflow_checkpoint` and
        `bert.bert_from`.
    """
    file = _fairseq_file(path)
    if file is not None:
        settings, tensors = read_fairseq(file)
    else:
        settings, tensors = read_tensorflow_checkpoint(path)
    where = str(file or path)
    found = bert_from(tensors, settings, kind, where=where, weights=where)
    return dataclasses.replace(found, tokenizer=original_tokenizer(path)).checked(where)


def original_tokenizer(path: Path) -> EncoderTokenizer | None:
    """The tokenizer beside a checkpoint, see `load_original`; None if its files are not there.

    Raises:
      UserError: they are damaged.
    """
    if (file := _fairseq_file(path)) is not None:
        return _fairseq_tokenizer(file.parent)
    return _google_tokenizer(path if path.is_dir() else path.parent)


def _fairseq_file(path: Path) -> Path | None:
    if path.suffix == ".pt":
        return path
    files = sorted(path.glob("*.pt")) if (path / "dict.txt").is_file() else []
    if len(files) > 1:
        names = ", ".join(file.name for file in files)
        raise UserError(f"{path} has several checkpoints: {names}. Name one of the files.")
    return files[0] if files else None


def _fairseq_tokenizer(folder: Path) -> EncoderTokenizer | None:
    merges = [folder / name for name in _MERGES if (folder / name).is_file()]
    words, encoder = folder / "dict.txt", folder / "encoder.json"
    if not merges or not words.is_file() or not encoder.is_file():
        return None
    vocabulary = fairseq_vocabulary(words, encoder)
    return ByteBpeTokenizer.of_merges(vocabulary, merges[0], where=str(words))


def _is_google(path: Path) -> bool:
    folder = path if path.is_dir() else path.parent
    has_config = any((folder / name).is_file() for name in CONFIGS.values())
    return has_config and any(folder.glob("*.index"))


def _google_tokenizer(folder: Path) -> EncoderTokenizer | None:
    if (path := folder / "vocab.txt").is_file():
        cased = re.search(r"(?<!un)(cased|multi)_", folder.resolve().name)
        return WordPieceTokenizer.from_vocab(path, lowercase=cased is None)
    models = sorted(folder.glob("*.model"))
    if len(models) != 1:
        return None
    return UnigramTokenizer.from_sentencepiece(models[0], lowercase=True, keep_accents=False)

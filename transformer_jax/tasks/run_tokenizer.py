"""The tokenizer in the folder of a run of an encoder."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import jax

from transformer_jax.data.byte_bpe import ByteBpeTokenizer
from transformer_jax.data.encoder_tokenizer import EncoderTokenizer
from transformer_jax.data.sentencepiece_encoder import SentencePieceEncoder
from transformer_jax.data.subword_tokenizers import load_tokenizer
from transformer_jax.data.wordpiece import WordPieceTokenizer
from transformer_jax.errors import UserError
from transformer_jax.interop.huggingface import is_pretrained, pretrained_tokenizer

# The first of these that a folder has; with vocab.json goes a merges.txt.
_FILES = ("tokenizer.json", "tokenizer.model", "spiece.model", "vocab.txt", "vocab.json")
_MADE = _FILES[:2]  # what a run's folder gets


def tokenizer_of_run(
    workdir: Path, vocab_size: int, given: str | None, make: Callable[[Path], Path]
) -> EncoderTokenizer:
    """The tokenizer of the run in `workdir`, which is made there at its start.

    Of several processes number 0 makes it, and must be here first.

    Args:
      workdir: the run's folder.
      vocab_size: tokens of the model.
      given: the path that the user named, if one was named.
      make: writes the tokenizer into a folder.

    Raises:
      UserError: of `make`; or the tokenizer is missing, damaged, or has more tokens than the model.
    """
    # Before config.json is there, the folder is no run yet: a tokenizer that is left in it is of a
    # start that failed, maybe on other data.
    if not (workdir / "config.json").exists() and jax.process_index() == 0:
        if given is not None and Path(given).resolve().is_relative_to(workdir.resolve()):
            raise UserError(
                f"The tokenizer {given} lies in the folder of this run, which gets one of its own. "
                f"Move it, or take another --workdir."
            )
        for name in _MADE:
            (workdir / name).unlink(missing_ok=True)
        make(workdir)
    path = find_tokenizer(workdir)
    tokenizer = load_tokenizer(path)
    if tokenizer.vocab_size > vocab_size:
        raise UserError(
            f"{path} has {tokenizer.vocab_size} tokens, the model {vocab_size}. Set "
            f"--model.vocab_size {tokenizer.vocab_size}, or a larger number."
        )
    return tokenizer


def find_tokenizer(path: Path) -> Path:
    """The tokenizer's file in a folder, or the file itself.

    Raises:
      UserError: there is none.
    """
    if path.is_file():
        return path
    found = [path / name for name in _FILES if (path / name).is_file()]
    if not found:
        raise UserError(
            f"No tokenizer at {path}: it is no file, and no folder with {' or '.join(_FILES)}. "
            f"Name one that is there, or a kind to train: wordpiece, byte_bpe, sentencepiece."
        )
    return found[0]


def open_tokenizer(path: Path, lowercase: bool) -> EncoderTokenizer:
    """The tokenizer at a path, which may be a vocabulary alone.

    Args:
      path: a file, or a folder that has one.
      lowercase: says of a vocab.txt that it is of an uncased model; a published model's folder says
        it itself.

    Raises:
      UserError: it is missing or damaged.
    """
    if is_pretrained(path) and (tokenizer := pretrained_tokenizer(path)):
        return tokenizer
    found = find_tokenizer(path)
    if found.suffix == ".txt":
        return WordPieceTokenizer.from_vocab(found, lowercase=lowercase)
    if found.name == "vocab.json":
        return ByteBpeTokenizer.from_vocab(found, found.with_name("merges.txt"))
    return load_tokenizer(found)


def store_tokenizer(tokenizer: EncoderTokenizer, folder: Path) -> Path:
    """Writes a tokenizer into a folder, as a run has it.

    Raises:
      UserError: it cannot be written.
    """
    path = folder / _MADE[isinstance(tokenizer, SentencePieceEncoder)]
    tokenizer.save(path)
    return path

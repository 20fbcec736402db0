"""Byte-level BPE, the tokens of RoBERTa (arXiv:1907.11692, section 4.4) and GPT-2."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Self

from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, processors
from tokenizers.trainers import BpeTrainer

from transformer_jax.data.encoder_tokenizer import read_tokenizer, well_formed
from transformer_jax.data.tokenizer_json import JsonTokenizer, check_size, setting, to_json
from transformer_jax.data.tokenizers import MAX_TRAINING_SENTENCES, _sample, parts
from transformer_jax.errors import UserError
from transformer_jax.files import write_whole
from transformer_jax.parsing import parse_json

BOS, PAD, EOS, UNK, MASK = SPECIAL = ("<s>", "<pad>", "</s>", "<unk>", "<mask>")  # ids 0 to 4
_MAX_WORD = 1000  # bytes; training passes over what is longer
_FOREIGN = ("dropout", "continuing_subword_prefix", "end_of_word_suffix")
_SPACE = "Ġ"  # how the byte of a space is written
_ALPHABET = sorted(pre_tokenizers.ByteLevel.alphabet())  # a character for each of the 256 bytes


class ByteBpeTokenizer(JsonTokenizer):
    """Merged bytes: no text is unknown, and what is decoded is what was encoded.

    A token that begins with a space begins a word; without a space before it, punctuation belongs
    to the word before. CLS is "<s>" and SEP is "</s>".
    """

    kind = "BPE"
    special_names = (PAD, UNK, BOS, EOS, MASK)
    decoder = {"type": "ByteLevel", "add_prefix_space": True, "trim_offsets": True}
    separates_twice = True

    @classmethod
    def train(
        cls,
        texts: Iterable[str],
        path: str | os.PathLike[str],
        *,
        vocab_size: int,
        seed: int = 0,
    ) -> Self:
        """Trains on the texts, or on a million parts of them, and writes the tokenizer.json `path`.

        Equal texts, size and seed give equal bytes.

        Raises:
          UserError: the texts are too few, or the size is too small for all bytes.
        """
        smallest = len(SPECIAL) + len(_ALPHABET)
        if vocab_size < smallest:
            raise UserError(
                f"vocab_size={vocab_size} is too small: the 256 bytes and {len(SPECIAL)} special "
                f"tokens alone need {smallest}. Raise vocab_size."
            )
        sentences = _sample(parts(map(well_formed, texts)), MAX_TRAINING_SENTENCES, seed)
        bare = _bare(models.BPE())
        # The trainer's time grows with the square of a word's length.
        long_words = pre_tokenizers.Split(Regex(f".{{{_MAX_WORD + 1},}}"), behavior="removed")
        bare.pre_tokenizer = pre_tokenizers.Sequence([bare.pre_tokenizer, long_words])
        trainer = BpeTrainer(
            vocab_size=vocab_size,
            min_frequency=2,  # a piece that is seen once teaches nothing
            show_progress=False,
            initial_alphabet=_ALPHABET,  # all of it, so that its ids hang on no order of words
            special_tokens=list(SPECIAL),
        )
        bare.train_from_iterator(sentences, trainer, length=len(sentences))
        check_size(bare.get_vocab_size(with_added_tokens=False), vocab_size)
        write_whole(path, _file(_bare(bare.model)))
        return cls(path)

    @classmethod
    def from_vocab(
        cls,
        vocabulary: str | os.PathLike[str],
        merges: str | os.PathLike[str],
        *,
        add_prefix_space: bool = False,
    ) -> Self:
        """The tokenizer of a vocab.json and its merges.txt; see `of_merges`.

        Raises:
          UserError: a file is missing or damaged, they do not fit together, or a special token or a
            byte is not in the vocabulary.
        """
        return cls.of_merges(
            _read_vocabulary(vocabulary),
            merges,
            where=os.fspath(vocabulary),
            add_prefix_space=add_prefix_space,
        )

    @classmethod
    def of_merges(
        cls,
        ids: Mapping[str, int],
        merges: str | os.PathLike[str],
        *,
        where: str,
        add_prefix_space: bool = False,
    ) -> Self:
        """The tokenizer of a vocabulary and its merges.txt.

        Args:
          ids: token -> id.
          merges: the file.
          where: where the vocabulary is from, for messages.
          add_prefix_space: whether a text's first word is as if a space stood before it.

        Raises:
          UserError: as `from_vocab`.
        """
        pairs = _read_merges(merges)
        try:
            model = models.BPE(dict(ids), pairs)
        except Exception as error:  # the package raises no narrower one
            raise UserError(
                f"{merges} does not fit {where} ({error}). Take both from one model."
            ) from error
        return cls._of(_file(_bare(model, add_prefix_space)), where)

    def pieces(self, ids: Sequence[int]) -> list[str]:
        """The text of each token, with the space before a word; of special tokens their names."""
        names = super().pieces(ids)
        special = frozenset(self.special_ids)
        return [n if i in special else self.decode([i]) for i, n in zip(ids, names, strict=True)]

    @staticmethod
    def problem(file: Mapping[str, Any]) -> str | None:
        """What in a file of this kind cannot be honoured, None if there is nothing."""
        regular = setting(file, "pre_tokenizer", "use_regex")
        if setting(file, "pre_tokenizer", "type") != "ByteLevel" or regular is False:
            return "is not byte-level, or does not divide a text as GPT-2 does"
        if file.get("normalizer"):
            return "changes a text before it is encoded, which RoBERTa does not"
        if any(setting(file, "model", key) for key in _FOREIGN):
            return f"has one of {', '.join(_FOREIGN)}, which RoBERTa has not"
        if missing := set(_ALPHABET) - set(file["model"]["vocab"]):
            return f"lacks {len(missing)} of the 256 bytes, such as {min(missing)!r}"
        return None

    @staticmethod
    def begins_word(token: str) -> bool:
        """Whether this token of the vocabulary begins a word."""
        return token.startswith(_SPACE)


def _bare(model: models.BPE, add_prefix_space: bool = False) -> Tokenizer:
    tokenizer = Tokenizer(model)
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=add_prefix_space)
    return tokenizer


def _file(tokenizer: Tokenizer) -> bytes:
    """The tokenizer.json, for other programs with <s> and </s>."""
    tokenizer.decoder = decoders.ByteLevel()
    vocabulary = tokenizer.get_vocab()
    if BOS in vocabulary and EOS in vocabulary:
        tokenizer.post_processor = processors.RobertaProcessing(
            (EOS, vocabulary[EOS]), (BOS, vocabulary[BOS]), add_prefix_space=False
        )
    return to_json(tokenizer, [name for name in SPECIAL if name in vocabulary])


def _read_vocabulary(path: str | os.PathLike[str]) -> dict[str, int]:
    try:
        found = parse_json(read_tokenizer(path))
    except ValueError as error:
        raise UserError(f"{path} is damaged: {error}.") from error
    if not isinstance(found, dict) or any(
        type(i) is not int or not 0 <= i < len(found) for i in found.values()
    ):
        raise UserError(f"{path} must give each token an id of its own: 0, 1, ...")
    return found


def _read_merges(path: str | os.PathLike[str]) -> Sequence[tuple[str, str]]:
    try:
        text = read_tokenizer(path).decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise UserError(f"{path} is no merges.txt: it is not UTF-8 ({error}).") from error
    pairs = []
    for number, line in enumerate(text.replace("\r\n", "\n").split("\n"), start=1):
        if not line or (number == 1 and line.startswith("#version")):
            continue
        first, _, second = line.partition(" ")
        if not first or not second or " " in second:
            raise UserError(f"{path}:{number}: a merge is two tokens with a space between them.")
        pairs.append((first, second))
    return pairs

"""WordPiece, the tokens of BERT (arXiv:1810.04805, section 3; arXiv:1609.08144, section 4.1)."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Self

from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors
from tokenizers.trainers import WordPieceTrainer

from transformer_jax.data.encoder_tokenizer import read_tokenizer, well_formed
from transformer_jax.data.tokenizer_json import JsonTokenizer, check_size, setting, to_json
from transformer_jax.data.tokenizers import MAX_TRAINING_SENTENCES, _sample, parts
from transformer_jax.errors import UserError
from transformer_jax.files import write_whole

PAD, UNK, CLS, SEP, MASK = SPECIAL = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")
_MAX_WORD = 100  # characters; a longer word is unknown, as in BERT
_PIECES = {"unk_token": UNK, "continuing_subword_prefix": "##"}
_RARE = 10_000  # of so many characters of the training texts, one may stay out of the alphabet


class WordPieceTokenizer(JsonTokenizer):
    """Words as the longest pieces that the vocabulary has; a piece within a word begins with "##".

    A text is first made of words as BERT does: control characters are taken out, white space
    divides, a CJK character or a punctuation mark is a word. Lower-casing takes accents away, too.
    A word with a character that the vocabulary lacks is [UNK] as a whole, and so is a word of more
    than 100 characters.

    The words are those of `tokenizers`, which differ from Google's script for BERT in this:
    characters for private use are taken out, a final sigma becomes σ and not ς, the ideographs
    U+2B820 to U+2B91F are letters, and so is punctuation newer than Unicode 8.
    """

    kind = "WordPiece"
    special_names = SPECIAL
    decoder = {"type": "WordPiece", "prefix": "##", "cleanup": True}

    @classmethod
    def train(
        cls,
        texts: Iterable[str],
        path: str | os.PathLike[str],
        *,
        vocab_size: int,
        lowercase: bool,
        seed: int = 0,
    ) -> Self:
        """Trains on the texts, or on a million parts of them, and writes the tokenizer.json `path`.

        Equal texts, settings and seed give equal bytes. The alphabet is the texts' but for the
        rarest characters, which together are at most one of 10,000.

        Raises:
          UserError: the texts are empty, or too few or too many characters for this size.
        """
        sentences = _sample(parts(map(well_formed, texts)), MAX_TRAINING_SENTENCES, seed)
        bare = _bare(models.WordPiece(unk_token=UNK), lowercase)
        alphabet = _alphabet(sentences, bare.normalizer)
        tokens = _first_tokens(alphabet)
        if not alphabet:
            raise UserError("The training texts are empty. Check the data files.")
        if len(tokens) > vocab_size:
            raise UserError(
                f"vocab_size={vocab_size} is too small: the characters of the training texts alone "
                f"need {len(tokens)}. Raise vocab_size."
            )
        trainer = WordPieceTrainer(
            vocab_size=vocab_size,
            min_frequency=2,  # a piece that is seen once teaches nothing
            show_progress=False,
            initial_alphabet=alphabet,
            limit_alphabet=len(alphabet),
            # The trainer numbers the "##" characters as it meets them, in a hash map's order, and
            # breaks ties between merges by these numbers: runs would differ. Here they are given.
            special_tokens=tokens,
        )
        # The trainer's time grows with the square of a word's length, and these words are unknown.
        long_words = pre_tokenizers.Split(Regex(f".{{{_MAX_WORD + 1},}}"), behavior="removed")
        bare.pre_tokenizer = pre_tokenizers.Sequence([bare.pre_tokenizer, long_words])
        bare.train_from_iterator(sentences, trainer, length=len(sentences))
        vocabulary = bare.get_vocab(with_added_tokens=False)
        check_size(len(vocabulary), vocab_size)
        write_whole(path, _file(vocabulary, lowercase))
        return cls(path)

    @classmethod
    def from_vocab(
        cls,
        path: str | os.PathLike[str],
        *,
        lowercase: bool,
        strip_accents: bool | None = None,
        chinese_words: bool = True,
    ) -> Self:
        """The tokenizer of a vocab.txt, one token a line.

        Args:
          path: the file.
          lowercase: for an uncased model.
          strip_accents: whether accents are taken away; None: as `lowercase` says.
          chinese_words: whether each CJK character is a word.

        Raises:
          UserError: the file is missing or damaged, or lacks a special token.
        """
        vocabulary: dict[str, int] = {}
        for i, token in enumerate(_lines(path)):
            if not token or token in vocabulary:
                what = f"{token!r} stands there a second time" if token else "the line is empty"
                raise UserError(f"{path}:{i + 1}: {what}. A vocab.txt has one token in each line.")
            vocabulary[token] = i
        return cls._of(_file(vocabulary, lowercase, strip_accents, chinese_words), path)

    @staticmethod
    def problem(file: Mapping[str, Any]) -> str | None:
        """What in a file of this kind cannot be honoured, None if there is nothing."""
        parts = [setting(file, part, "type") for part in ("normalizer", "pre_tokenizer")]
        if parts != ["BertNormalizer", "BertPreTokenizer"]:
            return f"divides a text into words by {parts}, and not as BERT does"
        if [setting(file, "model", key) for key in _PIECES] != list(_PIECES.values()):
            return f"does not have {_PIECES}"
        if UNK not in file["model"]["vocab"]:
            return f"has {UNK} beside its vocabulary, and not in it"
        return None

    @staticmethod
    def begins_word(token: str) -> bool:
        """Whether this token of the vocabulary begins a word."""
        return not token.startswith("##")


def _bare(
    model: models.WordPiece,
    lowercase: bool,
    strip_accents: bool | None = None,
    chinese_words: bool = True,
) -> Tokenizer:
    """A tokenizer with the words of BERT."""
    tokenizer = Tokenizer(model)
    tokenizer.normalizer = normalizers.BertNormalizer(
        clean_text=True,
        handle_chinese_chars=chinese_words,
        strip_accents=lowercase if strip_accents is None else strip_accents,
        lowercase=lowercase,
    )
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    return tokenizer


def _file(
    vocabulary: Mapping[str, int],
    lowercase: bool,
    strip_accents: bool | None = None,
    chinese_words: bool = True,
) -> bytes:
    """The tokenizer.json of a vocabulary, for other programs with [CLS] and [SEP]."""
    model = models.WordPiece(dict(vocabulary), unk_token=UNK, max_input_chars_per_word=_MAX_WORD)
    tokenizer = _bare(model, lowercase, strip_accents, chinese_words)
    tokenizer.decoder = decoders.WordPiece(prefix="##", cleanup=True)
    if CLS in vocabulary and SEP in vocabulary:
        tokenizer.post_processor = processors.BertProcessing(
            (SEP, vocabulary[SEP]), (CLS, vocabulary[CLS])
        )
    return to_json(tokenizer, [name for name in SPECIAL if name in vocabulary])


def _alphabet(texts: Iterable[str], normalizer: normalizers.Normalizer) -> list[str]:
    """The characters of the texts' words, but for the rarest."""
    counts: Counter[str] = Counter()
    for text in texts:
        counts.update(normalizer.normalize_str(text))
    for space in filter(str.isspace, list(counts)):
        del counts[space]
    left_out = sum(counts.values()) // _RARE
    kept = []
    for character in sorted(counts, key=lambda c: (counts[c], c)):
        left_out -= counts[character]
        if left_out < 0:
            kept.append(character)
    return sorted(kept)


def _first_tokens(alphabet: Sequence[str]) -> list[str]:
    """The vocabulary before anything is merged: any word of these characters is known."""
    divide = pre_tokenizers.BertPreTokenizer().pre_tokenize_str
    inner = [f"##{c}" for c in alphabet if len(divide(f"a{c}a")) == 1]  # not if it is a word itself
    return [*SPECIAL, *alphabet, *inner]


def _lines(path: str | os.PathLike[str]) -> list[str]:
    try:
        text = read_tokenizer(path).decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise UserError(f"{path} is no vocab.txt: it is not UTF-8 ({error}).") from error
    # Not splitlines(): a token may be what Unicode, and not the file, takes for the end of a line.
    return text.replace("\r\n", "\n").removesuffix("\n").split("\n")

"""Sentences of tagged words, as in CoNLL-2003 (arXiv:cs/0306050), and the labels of pieces."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np

from transformer_jax.data.encoder_tokenizer import EncoderTokenizer
from transformer_jax.errors import UserError

OUTSIDE = "O"  # the tag of a word that belongs to nothing

_BETWEEN = re.compile("[ \t]+")  # and no other space, which may stand within a word
_COMMENT = re.compile(rb"(\xef\xbb\xbf)?# ([\w.:-]+ = |(newdoc|newpar|id)( |\r?\n))")
_DOCUMENT = "-DOCSTART-"


@dataclasses.dataclass(frozen=True)
class TaggedSentence:
    """The words of a sentence, and the tag of each."""

    words: list[str]
    tags: list[str]


def read_conll(file: Path, *, column: int = -1) -> list[TaggedSentence]:
    """The sentences of a UTF-8 file with a word a line; a BOM and CRLF are tolerated.

    Spaces or tabs divide a line into columns, of which the first is the word. Blank lines and
    -DOCSTART- lines divide sentences. Before a sentence there may be comments as of CoNLL-U:
    "# NAME = ...", "# newdoc", "# newpar", and "# id ...". Any other line is a word, "#" too.

    Args:
      file: the file.
      column: of the tags; -1 is the last one.

    Raises:
      UserError: no file, an empty one, or a line that is not UTF-8 or has too few columns, with its
        number.
    """
    sentences: list[TaggedSentence] = []
    words: list[str] = []
    tags: list[str] = []
    try:
        with open(file, "rb") as lines:  # in bytes, so that only \n ends a line
            for number, line in enumerate(lines, 1):
                if not words and _COMMENT.match(line):
                    continue
                found = _parse_line(line, column, f"{file}:{number}", first=number == 1)
                if found:
                    words.append(found[0])
                    tags.append(found[1])
                elif words:
                    sentences.append(TaggedSentence(words, tags))
                    words, tags = [], []
    except OSError as error:
        raise UserError(f"{file} cannot be read: {error}. Name a file of tagged words.") from error
    if words:
        sentences.append(TaggedSentence(words, tags))
    if not sentences:
        raise UserError(
            f"{file} has no sentences. Write a word and its tag in each line, and a blank line "
            f"between sentences."
        )
    return sentences


def tag_names(sentences: Iterable[TaggedSentence]) -> list[str]:
    """The tags of the sentences, sorted, with "O" first if it is among them."""
    found = {tag for sentence in sentences for tag in sentence.tags}
    return sorted(found, key=lambda tag: (tag != OUTSIDE, tag))


def tag_ids(sentences: Sequence[TaggedSentence], names: Sequence[str]) -> list[np.ndarray]:
    """The number of each word's tag among the names: int32 [words] of each sentence.

    Raises:
      UserError: a tag is none of the names.
    """
    ids = {name: i for i, name in enumerate(names)}
    found = []
    for number, sentence in enumerate(sentences, 1):
        for place, (word, tag) in enumerate(zip(sentence.words, sentence.tags, strict=True), 1):
            if tag not in ids:
                raise UserError(
                    f"Sentence {number}, word {place} ({word!r}) has the tag {tag!r}, which is "
                    f"none of {', '.join(names)}. Correct it, or train on data that has it."
                )
        found.append(np.array([ids[tag] for tag in sentence.tags], np.int32))
    return found


def encode_words(
    tokenizer: EncoderTokenizer, words: Sequence[str], max_tokens: int
) -> tuple[np.ndarray, np.ndarray]:
    """The pieces of each word, cut to max_tokens, without special tokens.

    A word is encoded with the space before it, which a byte-level tokenizer needs to see. A word
    that the tokenizer makes nothing of, such as a control character, is one unknown piece.

    Returns:
      ids: int32 [T].
      word: int32 [T], the number of the word that each piece belongs to, from 0.
    """
    texts = [f" {word}" if i else word for i, word in enumerate(words)]
    unknown = np.array([tokenizer.unk_id], np.int32)
    pieces = [e.ids if len(e.ids) else unknown for e in tokenizer.encode(texts)]
    ids = np.concatenate([np.zeros(0, np.int32), *pieces])
    word = np.repeat(np.arange(len(words), dtype=np.int32), [len(piece) for piece in pieces])
    return ids[:max_tokens], word[:max_tokens]


def label_pieces(word_starts: np.ndarray, tags: np.ndarray) -> np.ndarray:
    """Labels a word's first piece with its tag, and all else with -1 (arXiv:1810.04805, 5.3).

    Args:
      word_starts: bool [T], where each word of the sentence begins: with the second result of
        `encode_words`, `np.diff(word, prepend=-1) > 0`. Words may be missing at the end.
      tags: int [words].

    Returns:
      int32 [T].

    Raises:
      ValueError: more words begin than have tags.
    """
    places = np.flatnonzero(word_starts)
    if len(places) > len(tags):
        raise ValueError(f"{len(places)} words begin, but {len(tags)} have tags")
    labels = np.full(len(word_starts), -1, np.int32)
    labels[places] = tags[: len(places)]
    return labels


def _parse_line(line: bytes, column: int, where: str, *, first: bool) -> tuple[str, str] | None:
    """The word and the tag of a line, None if it ends a sentence."""
    try:
        text = line.decode("utf-8-sig" if first else "utf-8").strip(" \t\r\n")
    except UnicodeDecodeError as error:
        raise UserError(f"{where} is not UTF-8 ({error}). Save the file as UTF-8.") from error
    columns = _BETWEEN.split(text)
    if not text or columns[0] == _DOCUMENT:
        return None
    place = column if column >= 0 else len(columns) + column
    if not 0 < place < len(columns):
        raise UserError(
            f"{where} has {len(columns)} columns, too few for a word and a tag in column {column}. "
            f"Write the word first, then a space, then the tag."
        )
    return columns[0], columns[place]

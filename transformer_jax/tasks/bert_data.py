"""The text that an encoder is pretrained on: where it is, its tokenizer, its packed rows."""

from __future__ import annotations

import dataclasses
import functools
from pathlib import Path
from typing import Literal, get_args

from transformer_jax.data.byte_bpe import ByteBpeTokenizer
from transformer_jax.data.corpus_rows import CorpusRows, ExampleKind, PretrainingRows, tokenise
from transformer_jax.data.documents import read_documents
from transformer_jax.data.encoder_tokenizer import EncoderTokenizer
from transformer_jax.data.prepared_rows import PreparedRows
from transformer_jax.data.sentencepiece_encoder import SentencePieceEncoder
from transformer_jax.data.wordpiece import WordPieceTokenizer
from transformer_jax.errors import UserError
from transformer_jax.tasks.run_tokenizer import open_tokenizer, store_tokenizer, tokenizer_of_run

TokenizerKind = Literal["wordpiece", "byte_bpe", "sentencepiece"]

TRAINED: tuple[str, ...] = get_args(TokenizerKind)
PREPARED = "prepared"  # the scheme of paths to prepared rows


@dataclasses.dataclass(frozen=True)
class BertData:
    """Where the text is, and what examples it is cut into.

    Attributes:
      path: a folder of *.txt, a paragraph a line and a blank line between documents;
        `tfds:NAME/CONFIG` for a TensorFlow dataset of texts; `prose:installed` or `prose:FOLDER`
        for the documentation of Python packages; `prepared:FOLDER` for the rows that
        `transformer_jax.cli.prepare` wrote, which bring their tokenizer along.
      tokenizer: wordpiece, byte_bpe or sentencepiece to train one on the text, with
        model.vocab_size tokens; or the file of a tokenizer (tokenizer.json, vocab.txt, vocab.json
        beside merges.txt, a SentencePiece model), or the folder of a run or of a published model
        that has one.
      lowercase: trains the tokenizer on lower-case text without accents; says of a vocab.txt that
        it is such a model's. Byte-level BPE keeps the case.
      examples: pairs for next-sentence prediction (BERT) or sentence order (ALBERT), or full
        sentences across documents (RoBERTa).
      row_length: tokens of a packed row.
      example_length: most tokens of an example; None: a row.
      row_examples: most examples of a row; None: four times as many as its longest ones.
    """

    path: str = ""
    tokenizer: str = "wordpiece"
    lowercase: bool = True
    examples: ExampleKind = "next_sentence"
    row_length: int = 128
    example_length: int | None = None
    row_examples: int | None = None

    def __post_init__(self) -> None:
        if self.row_length < 8:
            raise ValueError(f"data.row_length={self.row_length} must be at least 8.")
        if not 8 <= self.longest <= self.row_length:
            raise ValueError(
                f"data.example_length={self.longest} must be in 8..{self.row_length}, the row."
            )
        if self.row_examples is not None and self.row_examples < 1:
            raise ValueError(f"data.row_examples={self.row_examples} must be at least 1.")
        # The run must find its data and its tokenizer from any folder.
        scheme, colon, folder = self.path.rpartition(":")
        names_folder = scheme in ("", "prose", PREPARED) and folder not in ("", "installed")
        if names_folder and Path(folder).is_dir():
            object.__setattr__(self, "path", f"{scheme}{colon}{Path(folder).resolve()}")
        if self.tokenizer not in TRAINED and Path(self.tokenizer).exists():
            object.__setattr__(self, "tokenizer", str(Path(self.tokenizer).resolve()))

    @property
    def longest(self) -> int:
        """The most tokens of an example."""
        return self.example_length or self.row_length

    @property
    def places(self) -> int:
        """The most examples E of a row."""
        return self.row_examples or 4 * (self.row_length // self.longest)


def read_rows(data: BertData, split: str, tokenizer: EncoderTokenizer) -> PretrainingRows:
    """Reads a split as tokens.

    Raises:
      UserError: the data is missing, malformed, or has no document in this split; prepared rows
        are of other settings, or of another tokenizer.
    """
    if (folder := prepared_folder(data)) is not None:
        rows = PreparedRows(folder, split)
        _check_prepared(data, rows, tokenizer)
        return rows
    return CorpusRows(
        tokenise(read_documents(data.path, split), tokenizer),
        tokenizer,
        examples=data.examples,
        row_length=data.row_length,
        example_length=data.longest,
        row_examples=data.places,
    )


def prepared_folder(data: BertData) -> Path | None:
    """The folder of the prepared rows; None if the data is text."""
    scheme, colon, folder = data.path.partition(":")
    return Path(folder) if colon and scheme == PREPARED else None


def _check_prepared(data: BertData, rows: PreparedRows, tokenizer: EncoderTokenizer) -> None:
    """Raises a UserError where the rows are not those that the config describes."""
    wanted: dict[str, object] = {
        "examples": data.examples,
        "row_length": data.row_length,
        "example_length": data.longest,
        "row_examples": data.places,
    }
    found = {name: rows.settings[name] for name in wanted}
    if data.tokenizer in TRAINED:  # a path is compared where the run gets its tokenizer
        wanted["tokenizer"], found["tokenizer"] = data.tokenizer, _kind(tokenizer)
        if "lowercase" in rows.settings and found["tokenizer"] != "byte_bpe":
            wanted["lowercase"], found["lowercase"] = data.lowercase, rows.settings["lowercase"]
    for name, value in wanted.items():
        if found[name] != value:
            flag = f"--data.{name} {found[name]}"
            if name == "lowercase":
                flag = "--data.lowercase" if found[name] else "--data.no-lowercase"
            raise UserError(
                f"{data.path} was prepared with {name}={found[name]}, and data.{name} is "
                f"{value}. Set {flag}, or prepare other rows."
            )
    said = rows.settings["tokenizer"]
    names = ("fingerprint", "vocab_size", "cls_id", "sep_id")
    if any(said[name] != getattr(tokenizer, name) for name in names):
        raise UserError(
            f"{data.path} was prepared with another tokenizer than that of the run. Take a new "
            f"--workdir, which gets the tokenizer of the rows."
        )


def _kind(tokenizer: EncoderTokenizer) -> TokenizerKind:
    if isinstance(tokenizer, ByteBpeTokenizer):
        return "byte_bpe"
    return "wordpiece" if isinstance(tokenizer, WordPieceTokenizer) else "sentencepiece"


def run_tokenizer(data: BertData, vocab_size: int, workdir: Path) -> EncoderTokenizer:
    """The tokenizer of the run in `workdir`, which is trained or copied there at its start.

    Raises:
      UserError: the text or the file is missing or damaged, or has more tokens than the model.
    """
    given = None if data.tokenizer in TRAINED else data.tokenizer
    make = functools.partial(make_tokenizer, data, vocab_size)
    return tokenizer_of_run(workdir, vocab_size, given, make)


def make_tokenizer(data: BertData, vocab_size: int, folder: Path) -> Path:
    """Trains the tokenizer into a folder, or copies it there; what it was read from as one file.

    Raises:
      UserError: the text or the file is missing or damaged; the data are prepared rows of another
        tokenizer.
    """
    given = (
        None if data.tokenizer in TRAINED else open_tokenizer(Path(data.tokenizer), data.lowercase)
    )
    if (prepared := prepared_folder(data)) is not None:
        of_rows = open_tokenizer(prepared, data.lowercase)
        if given is not None and given.fingerprint != of_rows.fingerprint:
            raise UserError(
                f"{data.path} was prepared with another tokenizer than {data.tokenizer}. Leave "
                f"--data.tokenizer out, or prepare the text with this one."
            )
        given = of_rows
    if given is not None:
        return store_tokenizer(given, folder)
    texts = (text for document in read_documents(data.path, "train") for text in document)
    if data.tokenizer == "sentencepiece":
        path, lowercase = folder / "tokenizer.model", data.lowercase
        SentencePieceEncoder.train(texts, path, vocab_size=vocab_size, lowercase=lowercase)
        return path
    path = folder / "tokenizer.json"
    if data.tokenizer == "byte_bpe":
        ByteBpeTokenizer.train(texts, path, vocab_size=vocab_size)
    else:
        lowercase = data.lowercase
        WordPieceTokenizer.train(texts, path, vocab_size=vocab_size, lowercase=lowercase)
    return path

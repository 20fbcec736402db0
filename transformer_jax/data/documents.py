"""Where documents come from: text files, TensorFlow datasets, the prose of installed packages."""

from __future__ import annotations

import hashlib
import importlib
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from transformer_jax.data.sources import SPLITS, _cache_dir, _quiet
from transformer_jax.errors import UserError

Document = list[str]  # its paragraphs (or sentences), none of them empty

_TFDS_SPLITS = {"train": "train", "valid": "validation", "test": "test"}
_TFDS_BATCH = 1000  # texts; one record at a time is a hundred times slower
_ACCEPTED = (
    "a folder with train.txt and valid.txt, a paragraph a line and a blank line between documents; "
    "a folder with such files of any other names that end in .txt; "
    "tfds:NAME/CONFIG for a TensorFlow dataset of texts, as tfds:wikipedia/20230601.en; "
    "prose:installed or prose:FOLDER for the documentation of Python packages"
)


def read_documents(path: str, split: str, *, data_dir: str | None = None) -> Iterator[Document]:
    """The documents of a split, one after another and always in the same order.

    A source that is not split itself is split by `split_of`: a folder without train.txt, valid.txt
    and test.txt, and a TFDS dataset that has nothing but a train split.

    Args:
      path: a folder of *.txt files, `tfds:NAME/CONFIG`, `prose:installed` or `prose:FOLDER`.
      split: train, valid or test.
      data_dir: where TFDS keeps prepared data. None means TFDS's own default for `tfds:`, and
        `$XDG_CACHE_HOME/transformer_jax` for `prose:`, which is prepared when needed.

    Raises:
      UserError: the data is missing or not prepared; while it is read, that it is malformed or
        has no document in this split.
    """
    if split not in SPLITS:
        raise UserError(f"Split {split!r} is none of {', '.join(SPLITS)}.")
    scheme, _, rest = path.partition(":")
    if scheme == "tfds" and rest:
        return _read_builder(_open_tfds(rest, data_dir), split)
    if scheme == "prose" and rest:
        with _quiet():
            from transformer_jax.data import prose

            config = prose.ProseConfig.find("" if rest == "installed" else rest)
            builder = prose.prepare(config, data_dir or _cache_dir())
        return _read_builder(builder, split)
    if not path or not Path(path).is_dir():
        raise UserError(f"Data path {path!r} is no existing folder. Accepted are: {_ACCEPTED}.")
    return _read_folder(Path(path), split)


def split_of(document: Document) -> str:
    """The split of a document by its hash: 98 % train, 1 % each of the others."""
    digest = hashlib.sha256("\n".join(document).encode()).digest()
    return {0: "test", 1: "valid"}.get(int.from_bytes(digest[:4], "big") % 100, "train")


def read_text(file: Path) -> Iterator[Document]:
    """The documents of a UTF-8 file: a paragraph a line, blank lines between documents.

    A BOM and CRLF are tolerated; space around a paragraph is dropped.

    Raises:
      UserError: the file cannot be read, is not UTF-8 (with the line's number), or is empty.
    """
    document: Document = []
    empty = True
    try:
        with file.open("rb") as lines:  # in bytes, so that only \n ends a line
            for number, line in enumerate(lines, 1):
                if paragraph := _decode(line, file, number):
                    document.append(paragraph)
                    empty = False
                elif document:
                    yield document
                    document = []
    except OSError as error:
        raise UserError(f"{file} cannot be read: {error}") from error
    if document:
        yield document
    if empty:
        raise UserError(
            f"{file} is empty. Write a paragraph a line, and a blank line between documents."
        )


def _decode(line: bytes, file: Path, number: int) -> str:
    try:
        return line.decode("utf-8-sig" if number == 1 else "utf-8").strip()
    except UnicodeDecodeError as error:
        raise UserError(
            f"{file}:{number} is not UTF-8 ({error}). Save the file as UTF-8."
        ) from error


def _read_folder(folder: Path, split: str) -> Iterator[Document]:
    files = sorted(file for file in folder.glob("*.txt") if file.is_file())
    if not files:
        raise UserError(f"{folder} has no *.txt files. Accepted are: {_ACCEPTED}.")
    if {file.stem for file in files}.isdisjoint(SPLITS):
        documents = (document for file in files for document in read_text(file))
        return _chosen(documents, split, str(folder))
    if not (folder / f"{split}.txt").is_file():
        raise UserError(
            f"{folder / split}.txt is missing, while there is "
            f"{' and '.join(f.name for f in files if f.stem in SPLITS)}. Write it too."
        )
    return read_text(folder / f"{split}.txt")


def _chosen(documents: Iterable[Document], split: str, source: str) -> Iterator[Document]:
    """Those documents that `split_of` puts into the split."""
    count = chosen = 0
    for document in documents:
        count += 1
        if split_of(document) == split:
            chosen += 1
            yield document
    if not chosen:
        raise UserError(
            f"{source}: none of {count} documents falls into the split {split!r} by its hash. Use "
            f"more documents, or a folder with train.txt and valid.txt."
        )


def _open_tfds(name: str, data_dir: str | None) -> Any:
    """The builder of a dataset of texts that is prepared as array_record."""
    with _quiet():
        import tensorflow_datasets as tfds

        module = _import_text(name)
        try:
            builder = tfds.builder(name, data_dir=data_dir)
        except (ValueError, RuntimeError, AssertionError) as error:  # unknown name, config, version
            # What follows is a list of all that there is.
            reason = str(error).strip().partition("\n")[0].partition(" Here are ")[0]
            raise UserError(
                f"TFDS knows no dataset tfds:{name} ({reason}) A dataset of your own "
                f"must be prepared in {data_dir or 'the data_dir of TFDS'} as array_record."
            ) from error
        formats = {f.value for f in builder.info.available_file_formats()}
        ready = builder.is_prepared()
    if not ready or "array_record" not in formats:
        data = f", data_dir={data_dir!r}" if data_dir else ""
        have = f"only as {', '.join(sorted(formats))}" if ready else "not at all"
        raise UserError(
            f"tfds:{name} must be prepared as array_record, and is {have} in {builder.data_dir}. "
            f'Prepare it once:\n  python -c "import tensorflow_datasets as tfds{module}; '
            f"tfds.builder('{name}'{data}, file_format='array_record').download_and_prepare()\""
        )
    return builder


def _import_text(name: str) -> str:
    """Registers a text dataset of TFDS; returns what a statement must import for it.

    Without TensorFlow TFDS stops at the first dataset that needs it, and registers none after it.
    """
    module = f"tensorflow_datasets.text.{name.partition('/')[0].partition(':')[0]}"
    try:
        importlib.import_module(module)
    except ImportError:  # not a text dataset, or one that is prepared elsewhere
        return ""
    return f", {module}"


def _read_builder(builder: Any, split: str) -> Iterator[Document]:
    """Reads a prepared dataset whose records have a text."""
    name, splits = builder.info.full_name, list(builder.info.splits)
    if "text" not in builder.info.features:
        raise UserError(
            f"tfds:{name} has no feature 'text', only {', '.join(builder.info.features)}. Use a "
            f"dataset of texts."
        )
    if splits == ["train"]:
        return _chosen(_read_records(builder, "train"), split, f"tfds:{name}")
    if _TFDS_SPLITS[split] not in splits:
        raise UserError(
            f"tfds:{name} has no split {_TFDS_SPLITS[split]!r}, only {', '.join(splits)}."
        )
    return _read_records(builder, _TFDS_SPLITS[split])


def _read_records(builder: Any, tfds_split: str) -> Iterator[Document]:
    """Each record as a document, its lines as the paragraphs; records without text are none."""
    name = f"tfds:{builder.info.full_name}, {tfds_split}"
    with _quiet():
        data = builder.as_data_source(tfds_split, file_format="array_record")
    empty = True
    for start in range(0, len(data), _TFDS_BATCH):
        ids = range(start, min(start + _TFDS_BATCH, len(data)))
        with _quiet():
            records = data.__getitems__(list(ids))
        for number, record in zip(ids, records, strict=True):
            try:
                lines = record["text"].decode().split("\n")
            except UnicodeDecodeError as error:
                raise UserError(f"{name}, record {number} is not UTF-8 ({error}).") from error
            if document := [line.strip() for line in lines if line.strip()]:
                empty = False
                yield document
    if empty:
        raise UserError(f"{name} has no text.")

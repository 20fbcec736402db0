"""Parts of a corpus that can be read by themselves, as many workers or machines do."""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from transformer_jax.data.documents import _ACCEPTED, _TFDS_SPLITS, Document, _open_tfds, split_of
from transformer_jax.data.sources import SPLITS, _cache_dir, _quiet
from transformer_jax.errors import UserError

_RECORDS = 1000  # that are read at a time; one by one they are a hundred times slower
_RARE = 100  # of so many documents, one falls into valid or test by its hash
_LONGEST = 1 << 28  # bytes of a document: what is longer has lost its blank lines


@dataclasses.dataclass(frozen=True)
class TextRange:
    """The documents of a text file before which a blank line begins in bytes start..end-1.

    A file from its first byte on has its first document too, before which there is none.
    """

    file: str
    start: int
    end: int

    def read(self) -> Iterator[Document]:
        """The documents of this range; the last one may end behind it.

        Raises:
          UserError: the file cannot be read, is not UTF-8, or has no blank lines.
        """
        try:
            yield from self._documents()
        except OSError as error:
            raise UserError(f"{self.file} cannot be read: {error}") from error

    def _documents(self) -> Iterator[Document]:
        document: Document = []
        ours = self.start == 0  # whether a document that begins here is of this range
        begin = 0
        with open(self.file, "rb") as lines:
            if not ours:
                lines.seek(self.start - 1)
                lines.readline(_LONGEST)  # the line before, or what is left of it
            while True:
                place = lines.tell()
                line = lines.readline(_LONGEST)
                paragraph = self._decode(line, place, "strict" if ours else "replace")
                if paragraph:
                    if not document:
                        begin = place
                    if ours:
                        document.append(paragraph)
                    if ours and place + len(line) - begin > _LONGEST:
                        raise UserError(
                            f"{self.file}: the document at byte {begin} has more than {_LONGEST:,} "
                            f"bytes. Put blank lines between documents."
                        )
                    continue
                if document:
                    yield document
                    document = []
                if not line or place >= self.end:
                    return
                ours = True

    def _decode(self, line: bytes, place: int, errors: str) -> str:
        try:
            return line.decode("utf-8" if place else "utf-8-sig", errors).strip()
        except UnicodeDecodeError as error:
            raise UserError(
                f"{self.file}: the line at byte {place} is not UTF-8 ({error.reason} at byte "
                f"{place + error.start}). Save the file as UTF-8."
            ) from error


@dataclasses.dataclass(frozen=True)
class RecordRange:
    """Records start..end-1 of a split of a prepared TFDS dataset of texts, as array_record."""

    folder: str
    split: str
    start: int
    end: int

    def read(self) -> Iterator[Document]:
        """Each record with text as a document, its lines as the paragraphs.

        Raises:
          UserError: a record is not UTF-8.
        """
        with _quiet():
            import tensorflow_datasets as tfds

            builder = tfds.builder_from_directory(self.folder)
            data = builder.as_data_source(self.split, file_format="array_record")
        for start in range(self.start, self.end, _RECORDS):
            numbers = range(start, min(start + _RECORDS, self.end))
            with _quiet():
                records = data.__getitems__(list(numbers))
            for number, record in zip(numbers, records, strict=True):
                try:
                    lines = record["text"].decode().split("\n")
                except UnicodeDecodeError as error:
                    where = f"{self.folder}, {self.split}, record {number}"
                    raise UserError(f"{where} is not UTF-8 ({error}).") from error
                if document := [line.strip() for line in lines if line.strip()]:
                    yield document


@dataclasses.dataclass(frozen=True)
class Unit:
    """A part `number` of `count` of a split: what one worker reads at a time.

    Attributes:
      ranges: where its documents are.
      by_hash: whether only those are meant that `documents.split_of` puts into the split.
    """

    split: str
    number: int
    count: int
    ranges: tuple[TextRange | RecordRange, ...]
    by_hash: bool

    def read(self) -> Iterator[Document]:
        """The documents of this part.

        Raises:
          UserError: they cannot be read.
        """
        for part in self.ranges:
            for document in part.read():
                if not self.by_hash or split_of(document) == self.split:
                    yield document


@dataclasses.dataclass(frozen=True)
class Source:
    """A corpus as `documents.read_documents` accepts it.

    Attributes:
      name: what it is and how much, to see that another run has the same.
      parts: of each split the whole of its files or of its dataset.
      sizes: of each split the bytes of text.
      by_hash: whether the parts of all splits are the same, and documents are chosen by hash.
    """

    name: str
    parts: Mapping[str, tuple[TextRange | RecordRange, ...]]
    sizes: Mapping[str, int]
    by_hash: bool

    def units(self, split: str, unit_bytes: int) -> list[Unit]:
        """A split as equal parts of about so many bytes of text.

        Raises:
          UserError: there is no such split.
        """
        if split not in self.parts:
            raise UserError(
                f"{self.name} has no split {split!r}, only {', '.join(self.parts)}. Choose with "
                f"--splits."
            )
        whole = unit_bytes * (_RARE if self.by_hash and split != "train" else 1)
        count = max(1, -(-self.sizes[split] // whole))
        total = sum(part.end - part.start for part in self.parts[split])
        cuts = [total * number // count for number in range(count + 1)]
        return [
            Unit(split, number, count, _between(self.parts[split], *ends), self.by_hash)
            for number, ends in enumerate(zip(cuts, cuts[1:], strict=False))
        ]


def open_source(path: str) -> Source:
    """Finds a corpus and its size; prose is prepared if need be.

    Args:
      path: as for `documents.read_documents`.

    Raises:
      UserError: the data is missing, malformed or not prepared.
    """
    scheme, _, rest = path.partition(":")
    if scheme == "tfds" and rest:
        return _of_builder(_open_tfds(rest, None))
    if scheme == "prose" and rest:
        with _quiet():
            from transformer_jax.data import prose

            config = prose.ProseConfig.find("" if rest == "installed" else rest)
            return _of_builder(prose.prepare(config, _cache_dir()))
    if not path or not Path(path).is_dir():
        raise UserError(f"Data path {path!r} is no existing folder. Accepted are: {_ACCEPTED}.")
    return _of_folder(Path(path).resolve())


def _of_folder(folder: Path) -> Source:
    files = sorted(file for file in folder.glob("*.txt") if file.is_file())
    by_hash = {file.stem for file in files}.isdisjoint(SPLITS)
    used = [file for file in files if by_hash or file.stem in SPLITS]
    if not used:
        raise UserError(f"{folder} has no *.txt files. Accepted are: {_ACCEPTED}.")
    sizes = {file: file.stat().st_size for file in used}
    for file, size in sizes.items():
        if not size:
            raise UserError(
                f"{file} is empty. Write a paragraph a line, and a blank line between documents."
            )
    ranges = {file: TextRange(str(file), 0, size) for file, size in sizes.items()}
    names = "\n".join(f"{file.name} {size}" for file, size in sizes.items())
    name = f"{folder.name}, {hashlib.sha256(names.encode()).hexdigest()[:12]}"
    if by_hash:
        total = sum(sizes.values())
        parts = {split: tuple(ranges.values()) for split in SPLITS}
        return Source(name, parts, dict.fromkeys(SPLITS, total), by_hash)
    split_files = {split: folder / f"{split}.txt" for split in SPLITS}
    split_files = {split: file for split, file in split_files.items() if file in sizes}
    return Source(
        name,
        {split: (ranges[file],) for split, file in split_files.items()},
        {split: sizes[file] for split, file in split_files.items()},
        by_hash,
    )


def _of_builder(builder: Any) -> Source:
    """A prepared dataset whose records have a text."""
    name, splits = f"tfds:{builder.info.full_name}", builder.info.splits
    if "text" not in builder.info.features:
        raise UserError(
            f"{name} has no feature 'text', only {', '.join(builder.info.features)}. Use a dataset "
            f"of texts."
        )
    by_hash = list(splits) == ["train"]
    found = {ours: "train" if by_hash else theirs for ours, theirs in _TFDS_SPLITS.items()}
    found = {ours: theirs for ours, theirs in found.items() if theirs in splits}
    records = {ours: splits[theirs].num_examples for ours, theirs in found.items()}
    return Source(
        f"{name}, {', '.join(f'{split} {count}' for split, count in records.items())}",
        {
            ours: (RecordRange(str(builder.data_dir), theirs, 0, records[ours]),)
            for ours, theirs in found.items()
        },
        {ours: splits[theirs].num_bytes for ours, theirs in found.items()},
        by_hash,
    )


def _between(
    parts: tuple[TextRange | RecordRange, ...], start: int, end: int
) -> tuple[TextRange | RecordRange, ...]:
    """What lies from start to end, counted through all the parts."""
    found, begin = [], 0
    for part in parts:
        low, high = max(start - begin, part.start), min(end - begin, part.end)
        if low < high:
            found.append(dataclasses.replace(part, start=low, end=high))
        begin += part.end
    return tuple(found)

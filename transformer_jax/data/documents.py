"""A corpus as documents: folders of text, TensorFlow datasets, prose; whole, or part by part."""

from __future__ import annotations

import dataclasses
import hashlib
import sys
import warnings
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from transformer_jax.data.document_ranges import Document, RecordRange, TextRange
from transformer_jax.data.sources import SPLITS
from transformer_jax.data.tfds_builders import TFDS_SPLITS, cache_dir, open_builder, quiet
from transformer_jax.errors import UserError
from transformer_jax.files import file_hash

_RARE = 100  # of so many documents, one falls into valid or test by its hash
_OF_TOKENIZERS = ("vocab.txt", "merges.txt")  # which may lie beside the text
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
      data_dir: as for `open_source`.

    Raises:
      UserError: the data is missing or not prepared; while it is read, that it is malformed or
        has no document in this split.
    """
    if split not in SPLITS:
        raise UserError(f"Split {split!r} is none of {', '.join(SPLITS)}.")
    source = open_source(path, data_dir=data_dir)
    [whole] = source.units(split, sys.maxsize)
    return _some(source, whole)


def split_of(document: Document) -> str:
    """The split of a document by its hash: 98 % train, 1 % each of the others."""
    digest = hashlib.sha256("\n".join(document).encode()).digest()
    return {0: "test", 1: "valid"}.get(int.from_bytes(digest[:4], "big") % 100, "train")


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
    """A corpus as `read_documents` accepts it.

    Attributes:
      name: where it is, for people.
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
                f"{self.name} has no split {split!r}, only {', '.join(self.parts)}. In a folder it "
                f"is {split}.txt."
            )
        whole = unit_bytes * (_RARE if self.by_hash and split != "train" else 1)
        count = max(1, -(-self.sizes[split] // whole))
        total = sum(part.end - part.start for part in self.parts[split])
        cuts = [total * number // count for number in range(count + 1)]
        return [
            Unit(split, number, count, _between(self.parts[split], *ends), self.by_hash)
            for number, ends in enumerate(zip(cuts, cuts[1:], strict=False))
        ]

    def fingerprint(self) -> str:
        """A hash of the names and the bytes of all files, which are read for it; of a dataset, of
        its name, version and numbers of records.
        """
        digest = hashlib.sha256()
        for part in dict.fromkeys(part for parts in self.parts.values() for part in parts):
            if isinstance(part, TextRange):
                name = Path(part.file).name.encode("utf-8", "surrogateescape")
                digest.update(hashlib.sha256(name).digest() + file_hash(part.file).encode())
            else:
                digest.update(f"{self.name} {part.split} {part.end}\n".encode())
        return digest.hexdigest()[:16]


def open_source(path: str, *, data_dir: str | None = None) -> Source:
    """Finds a corpus and its size; prose is prepared if need be.

    Files that stand beside train.txt, valid.txt or test.txt are left out with a warning.

    Args:
      path: as for `read_documents`.
      data_dir: where TFDS keeps prepared data. None means TFDS's own default for `tfds:`, and
        `$XDG_CACHE_HOME/transformer_jax` for `prose:`.

    Raises:
      UserError: the data is missing, malformed or not prepared.
    """
    scheme, _, rest = path.partition(":")
    if scheme == "tfds" and rest:
        return _of_builder(open_builder(rest, "text", data_dir))
    if scheme == "prose" and rest:
        with quiet():
            from transformer_jax.data import prose

            config = prose.ProseConfig.find("" if rest == "installed" else rest)
            return _of_builder(prose.prepare(config, data_dir or cache_dir()))
    if not path or not Path(path).is_dir():
        raise UserError(f"Data path {path!r} is no existing folder. Accepted are: {_ACCEPTED}.")
    return _of_folder(Path(path).resolve())


def _some(source: Source, unit: Unit) -> Iterator[Document]:
    """The documents of a unit, of which there must be some."""
    empty = True
    for document in unit.read():
        empty = False
        yield document
    if empty and unit.by_hash:
        raise UserError(
            f"{source.name}: no document falls into the split {unit.split!r} by its hash. Use more "
            f"documents, or a folder with train.txt and valid.txt."
        )
    if empty:
        raise UserError(f"{source.name} has no text in the split {unit.split!r}.")


def _of_folder(folder: Path) -> Source:
    files = sorted(file for file in folder.glob("*.txt") if file.is_file())
    by_hash = {file.stem for file in files}.isdisjoint(SPLITS)
    used = {file.stem: file for file in files if by_hash or file.stem in SPLITS}
    ignored = [x.name for x in files if x.stem not in used and x.name not in _OF_TOKENIZERS]
    if ignored:
        names = ", ".join(ignored[:3]) + (", ..." if len(ignored) > 3 else "")
        read = ", ".join(f"{split}.txt" for split in SPLITS if split in used)
        warnings.warn(
            f"{folder}: of its *.txt files, {len(ignored)} beside {read} are not read: {names}. "
            f"Add them to these, or move them to another folder.",
            stacklevel=4,
        )
    if not used:
        raise UserError(f"{folder} has no *.txt files. Accepted are: {_ACCEPTED}.")
    sizes = {stem: file.stat().st_size for stem, file in used.items()}
    for stem, size in sizes.items():
        if not size:
            raise UserError(
                f"{used[stem]} is empty. Write a paragraph a line, and a blank line between "
                f"documents."
            )
    ranges = {stem: TextRange(str(file), 0, sizes[stem]) for stem, file in used.items()}
    if by_hash:
        everything, total = tuple(ranges.values()), sum(sizes.values())
        splits = dict.fromkeys(SPLITS, everything)
        return Source(str(folder), splits, dict.fromkeys(SPLITS, total), by_hash)
    splits = {split: (ranges[split],) for split in SPLITS if split in ranges}
    return Source(str(folder), splits, sizes, by_hash)


def _of_builder(builder: Any) -> Source:
    """A prepared dataset whose records have a text."""
    name, splits = f"tfds:{builder.info.full_name}", builder.info.splits
    if "text" not in builder.info.features:
        raise UserError(
            f"{name} has no feature 'text', only {', '.join(builder.info.features)}. Use a dataset "
            f"of texts."
        )
    by_hash = list(splits) == ["train"]
    found = {ours: "train" if by_hash else theirs for ours, theirs in TFDS_SPLITS.items()}
    found = {ours: theirs for ours, theirs in found.items() if theirs in splits}
    data_dir = str(builder.data_dir)
    parts = {
        ours: (RecordRange(data_dir, theirs, 0, splits[theirs].num_examples),)
        for ours, theirs in found.items()
    }
    sizes = {ours: splits[theirs].num_bytes for ours, theirs in found.items()}
    return Source(name, parts, sizes, by_hash)


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

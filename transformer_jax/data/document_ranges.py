"""Where documents lie in files: ranges of them, which can be read apart from the rest."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator

from transformer_jax.data.tfds_builders import quiet
from transformer_jax.errors import UserError

Document = list[str]  # its paragraphs (or sentences), none of them empty

_RECORDS = 1000  # that are read at a time; one by one they are a hundred times slower
_LONGEST = 1 << 28  # bytes of a document: what is longer has lost its blank lines
_BLOCK = 1 << 20  # bytes


@dataclasses.dataclass(frozen=True)
class TextRange:
    """The documents of a text file before which a blank line begins in bytes start..end-1.

    The file is UTF-8, a paragraph a line, with blank lines between documents. A BOM and CRLF are
    tolerated; space around a paragraph is dropped. From its first byte on a file has its first
    document too, before which there is no blank line.
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
        with open(self.file, "rb") as lines:  # in bytes, so that only \n ends a line
            if not ours:
                lines.seek(self.start - 1)
                lines.readline(_LONGEST)  # the line before, or what is left of it
            while True:
                place = lines.tell()
                if place >= self.end and not ours:
                    return
                line = lines.readline(_LONGEST)
                if ours and place + len(line) - (begin if document else place) >= _LONGEST:
                    raise UserError(
                        f"{self._where(begin if document else place)}: the document that begins "
                        f"there has more than {_LONGEST:,} bytes. Put blank lines between "
                        f"documents."
                    )
                paragraph = self._decode(line, place, "strict" if ours else "replace")
                if paragraph:
                    if not document:
                        begin = place
                    if ours:
                        document.append(paragraph)
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
                f"{self._where(place)} is not UTF-8 ({error.reason} at byte "
                f"{place + error.start} of the file). Save the file as UTF-8."
            ) from error

    def _where(self, place: int) -> str:
        """The file and the number of the line that begins at this byte."""
        line = 1
        with open(self.file, "rb") as file:
            while block := file.read(min(_BLOCK, place - file.tell())):
                line += block.count(b"\n")
        return f"{self.file}:{line}"


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
        with quiet():
            import tensorflow_datasets as tfds

            builder = tfds.builder_from_directory(self.folder)
            data = builder.as_data_source(self.split, file_format="array_record")
        for start in range(self.start, self.end, _RECORDS):
            numbers = range(start, min(start + _RECORDS, self.end))
            with quiet():
                records = data.__getitems__(list(numbers))
            for number, record in zip(numbers, records, strict=True):
                try:
                    lines = record["text"].decode().split("\n")
                except UnicodeDecodeError as error:
                    where = f"{self.folder}, {self.split}, record {number}"
                    raise UserError(f"{where} is not UTF-8 ({error}).") from error
                if document := [line.strip() for line in lines if line.strip()]:
                    yield document

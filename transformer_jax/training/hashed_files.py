"""Files that are hashed in the same go as they are written or read, on disks and in stores."""

from __future__ import annotations

import dataclasses
import hashlib
import os
from typing import IO, Any

from etils import epath

THREADS = min(32, 4 * (os.cpu_count() or 1))  # that use files; hashing lets go of Python's lock
_PIECE = 1 << 20  # bytes that are hashed while they are in the processor's cache
_BEHIND = 8 << 20  # bytes after which a disk is told to begin with what there is


@dataclasses.dataclass(frozen=True)
class FileEntry:
    """A file's length, and its SHA-256 in hexadecimal digits."""

    bytes: int
    sha256: str


def write_file(path: epath.Path, data: memoryview) -> FileEntry:
    """Writes a file, through to the disk, and hashes what is written as it is in memory.

    Raises:
      OSError: it cannot be written.
    """
    digest = hashlib.sha256()
    local = on_disk(path)
    if local:
        path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("wb") as file:
        for begin in range(0, len(data), _PIECE):
            if local and begin and begin % _BEHIND == 0:
                _write_back(file)
            piece = data[begin : begin + _PIECE]
            digest.update(piece)
            file.write(piece)
        if local:
            file.flush()
            os.fsync(file.fileno())
    return FileEntry(len(data), digest.hexdigest())


def hash_file(path: epath.Path, into: memoryview | None = None) -> FileEntry:
    """The length and hash of a file, whose beginning is left in `into`.

    Raises:
      OSError: it cannot be read.
    """
    digest, size = hashlib.sha256(), 0
    into = memoryview(b"") if into is None else into
    scratch = memoryview(bytearray(_PIECE if not into else 4096))  # for what is beyond `into`
    with path.open("rb") as file:
        while True:
            piece = into[size : size + _PIECE] or scratch
            count = _read(file, piece)
            if not count:
                return FileEntry(size, digest.hexdigest())
            digest.update(piece[:count])
            size += count


def on_disk(path: epath.Path) -> bool:
    """Whether it is on a disk, which has folders, and not in a store of objects."""
    return "://" not in str(path)


def _write_back(file: IO[Any]) -> None:
    """Has the system write to the disk while more is hashed; fsync alone would wait for all of it.

    What is on the disk leaves the page cache, which the data that a run reads has more use for.
    """
    if hasattr(os, "posix_fadvise"):  # not on macOS
        os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def _read(file: IO[Any], into: memoryview) -> int:
    if hasattr(file, "readinto"):
        return file.readinto(into)
    data = file.read(len(into))  # files of some stores can do no more
    into[: len(data)] = data
    return len(data)

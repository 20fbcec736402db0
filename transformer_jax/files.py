"""Writing files so that no reader ever sees half of one, and telling what is in them."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import hashlib
import os
import re
import uuid
from collections.abc import Iterator
from pathlib import Path

from transformer_jax.errors import UserError

_TEMPORARY = re.compile(r"\..+\.[0-9a-f]{32}")
_NO_LOCK = (errno.EBADF, errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP)


def write_whole(path: str | os.PathLike[str], data: bytes) -> None:
    """Writes a file at once: a reader, or a run that is killed, sees the old one or the new one.

    Raises:
      UserError: it cannot be written.
    """
    path = Path(path)
    try:
        temporary = temporary_beside(path)
        try:
            temporary.write_bytes(data)
            os.replace(temporary, path)
        finally:
            temporary.unlink(missing_ok=True)
    except (OSError, ValueError) as error:  # ValueError: a path that no file can have
        raise UserError(
            f"{path} cannot be written: {error}. Name a file in an existing folder."
        ) from error


def temporary_beside(path: Path) -> Path:
    """A new name in the same folder, for what will be renamed to `path` when it is whole."""
    # Two machines may write the same file at the same time.
    return path.with_name(f".{path.name}.{uuid.uuid4().hex}")


def remove_temporaries(folder: Path) -> None:
    """Removes what killed processes left in a folder: files that were not yet renamed."""
    for path in folder.glob(".*"):
        if _TEMPORARY.fullmatch(path.name):
            path.unlink(missing_ok=True)


def file_hash(path: str | os.PathLike[str]) -> str:
    """The SHA-256 of a file, in hexadecimal digits.

    Raises:
      OSError: it cannot be read.
    """
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


@contextlib.contextmanager
def alone_in(folder: Path) -> Iterator[None]:
    """Within it no other process may be in the same folder, on this machine or by NFS.

    It ends with the process, however that ends. On a file system that has no locks, as some that
    stand for storage in a cloud, nobody is kept out.

    Raises:
      UserError: another process is in it.
    """
    handle = os.open(folder, os.O_RDONLY)
    try:
        if not _lock(handle, folder):  # NFS locks no folders, and files only to write to them
            os.close(handle)
            handle = os.open(folder / ".lock", os.O_RDWR | os.O_CREAT, 0o666)
            _lock(handle, folder)
        yield
    finally:
        os.close(handle)


def _lock(handle: int, folder: Path) -> bool:
    """Takes the lock of an open file or folder; False if it has none."""
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        raise UserError(f"Another process is writing {folder}. Wait until it has ended.") from error
    except OSError as error:
        if error.errno not in _NO_LOCK:
            raise
        return False
    return True

"""Files that anyone may have written, as values: strictly, and without running what is in them."""

from __future__ import annotations

import errno
import io
import json
import math
import os
import re
import stat
import struct
import zipfile
from collections.abc import Iterable
from pathlib import Path
from typing import Any, Literal

import numpy as np

_DEEPEST = 100  # levels of JSON; so that whoever follows them, or prints them, need not look out
_SURROGATE = re.compile("[\ud800-\udfff]")
_NPY = re.compile(
    rb"\{'descr': '([<>|=][?biufU][0-9]{1,9})', 'fortran_order': (True|False), "
    rb"'shape': \(([0-9, ]*)\), \} *\n"
)
_NPY_STARTS = {b"\x93NUMPY\x01\x00": 2, b"\x93NUMPY\x02\x00": 4}  # the bytes of the header's size


def read_regular(path: str | os.PathLike[str]) -> bytes:
    """The bytes of a file. A link is followed; a pipe or a device, which may never end, is refused.

    Raises:
      OSError: it cannot be read.
    """
    check_regular(path)
    return Path(path).read_bytes()


def check_regular(path: str | os.PathLike[str]) -> None:
    """Raises an OSError if there is no file, or what is there is not one."""
    try:
        mode = os.stat(path).st_mode
    except ValueError as error:  # a path that no file can have
        raise OSError(errno.EINVAL, str(error), os.fspath(path)) from error
    if stat.S_ISDIR(mode):
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), os.fspath(path))
    if not stat.S_ISREG(mode):
        raise OSError(errno.EINVAL, "Is no regular file", os.fspath(path))


def is_plain_name(name: Any) -> bool:
    """Whether what a file says is the name of another one in its own folder, and no path."""
    return (
        isinstance(name, str) and name not in ("", ".", "..") and not set(name) & {"/", "\\", "\0"}
    )


def is_text(value: Any) -> bool:
    """Whether it is a string that UTF-8 can hold; JSON's escapes can give others."""
    return isinstance(value, str) and not _SURROGATE.search(value)


def parse_json(data: bytes) -> Any:
    """What a JSON text (RFC 8259) in UTF-8 says; a BOM is tolerated.

    Python alone would take the last of two equal keys, and NaN and infinity for numbers.

    Raises:
      ValueError: it is no JSON, or nested too deeply; it has a key twice in an object, or a number
        that is not finite.
    """
    try:
        found = json.loads(
            data.decode("utf-8-sig"),
            object_pairs_hook=_object,
            parse_float=_finite,
            parse_constant=_finite,
        )
    except RecursionError:
        raise ValueError("it is nested too deeply") from None
    level: list[Iterable[Any]] = [[found]]  # what holds other things, a level at a time
    for _ in range(_DEEPEST + 1):
        inner = [item for held in level for item in held if isinstance(item, dict | list)]
        level = [item.values() if isinstance(item, dict) else item for item in inner]
        if not level:
            return found
    raise ValueError(f"it is nested deeper than {_DEEPEST} levels")


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        for key, _ in pairs:
            if found.pop(key, found) is found:  # its first time took it out
                raise ValueError(f"it has the key {key!r:.60} twice in an object")
    return found


def _finite(text: str) -> float:
    number = float(text)
    if not math.isfinite(number):
        raise ValueError(f"it has the number {text:.60}, which is not finite")
    return number


def parse_npy(data: bytes) -> np.ndarray:
    """The array, read-only, that `numpy.save` wrote: of numbers, booleans or text.

    What numpy itself would evaluate, unpickle or set memory aside for is not looked at.

    Raises:
      ValueError: it is no such array, or has another size than it says.
    """
    width = _NPY_STARTS.get(data[:8])
    if width is None:
        raise ValueError("it does not begin as an .npy file of numbers does")
    start = 8 + width
    size = int.from_bytes(data[8:start], "little")
    header = _NPY.fullmatch(data[start : start + min(size, 1000)])
    if header is None or len(header[0]) != size:
        raise ValueError("its header is not that of an array of numbers")
    try:
        dtype = np.dtype(header[1].decode())
    except TypeError as error:
        raise ValueError(f"{header[1].decode()!r} is no dtype") from error
    shape = tuple(int(length) for length in header[3].split(b",") if length.strip())
    if max(shape, default=0) >= 2**63:
        raise ValueError(f"it has a length of {max(shape):.3g}")
    found, promised = len(data) - start - size, math.prod(shape) * dtype.itemsize
    if found != promised or not dtype.itemsize:
        raise ValueError(f"it has {found} bytes for an array of {promised}")
    order: Literal["C", "F"] = "F" if header[2] == b"True" else "C"
    return np.ndarray(shape, dtype, buffer=data, offset=start + size, order=order)


def parse_npz(data: bytes) -> dict[str, np.ndarray]:
    """The arrays that `numpy.savez` wrote, as `parse_npy` reads them.

    Raises:
      ValueError: it is no such file; or its entries are compressed, which could be of any size.
    """
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            check_entries(archive.infolist(), len(data))
            return {
                name.removesuffix(".npy"): parse_npy(archive.read(name))
                for name in archive.namelist()
            }
    except (zipfile.BadZipFile, RuntimeError, EOFError, OSError, struct.error) as error:
        raise ValueError(f"it is no zip file that can be read: {error}") from error


def check_entries(entries: list[zipfile.ZipInfo], size: int) -> None:
    """Raises a ValueError if the entries of a zip file of this size could be larger than it."""
    if any(entry.compress_type != zipfile.ZIP_STORED for entry in entries):
        raise ValueError("it has compressed entries")
    if sum(entry.file_size for entry in entries) > size:
        raise ValueError("its entries overlap")
    if len({entry.filename for entry in entries}) < len(entries):
        raise ValueError("it has two entries of one name")

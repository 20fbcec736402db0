"""The tensors of a PyTorch checkpoint, read without PyTorch and without running its pickle."""

from __future__ import annotations

import io
import math
import os
import zipfile
from collections.abc import Callable, Mapping
from typing import Any, BinaryIO

import numpy as np

from transformer_jax.errors import UserError
from transformer_jax.interop.torch_pickle import CheckpointPickle, Refused, StateDictPickle, Tensor
from transformer_jax.parsing import check_entries, check_regular

_ZIP_START = b"PK\x03\x04"
_OLD_START = b"\x80\x02\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19."  # the pickle of torch's magic number
_OLD_VERSION = 1001
_CHUNK = 1 << 24
# Tensors may share a storage, and then be more bytes than the file: tied ones, not thousands.
_SHARED, _SMALL = 16, 1 << 20

_Pick = Callable[[Any], Any]  # from what a pickle holds, the state dict


def read_torch_file(path: str | os.PathLike[str]) -> dict[str, np.ndarray]:
    """The tensors of a state dict that torch.save wrote, in the zip format or the old one.

    Nothing in the file is run. The arrays are read-only: they share memory where the tensors did.

    Raises:
      UserError: the file cannot be read, is damaged, or holds more than a dict of tensors.
    """
    return _read(path, StateDictPickle(), lambda held: held)


def read_torch_checkpoint(
    path: str | os.PathLike[str], part: str
) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    """A dict that torch.save wrote, and the tensors of the state dict that is its entry `part`.

    Objects in it are of the class `torch_pickle.Record`, and tensors of `torch_pickle.Tensor`.
    Nothing in the file is run.

    Raises:
      UserError: the file cannot be read or is damaged; or there is no such state dict in it.
    """
    found: dict[str, Any] = {}

    def pick(held: Any) -> Any:
        if not isinstance(held, dict) or part not in held:
            names = ", ".join(f"{name!r:.40}" for name in held) if isinstance(held, dict) else ""
            what = f"a dict of {names:.200}" if names else f"a {type(held).__name__}"
            raise Refused(f"has no entry {part!r}; it is {what}. Give a training checkpoint.")
        found.update(held)
        return held[part]

    tensors = _read(path, CheckpointPickle(), pick)
    return found, tensors


def _read(
    path: str | os.PathLike[str], interpreter: StateDictPickle, pick: _Pick
) -> dict[str, np.ndarray]:
    try:
        check_regular(path)
        with open(path, "rb") as file:
            start = file.read(len(_OLD_START))
            if start.startswith(_ZIP_START):
                tensors, storages = _read_zip(file, interpreter, pick)
            elif start == _OLD_START:
                tensors, storages = _read_old(file, interpreter, pick)
            else:
                raise Refused(
                    f"is not a PyTorch checkpoint: it begins with {start!r}. Check that it was "
                    f"downloaded whole, and that it is not of another format."
                )
            _check_memory(tensors, _size_of(file))
        return {name: _array(tensor, storages) for name, tensor in tensors.items()}
    except Refused as error:
        raise UserError(f"{os.fspath(path)} {error}") from error
    except (ValueError, EOFError, RuntimeError, zipfile.BadZipFile) as error:
        raise UserError(
            f"{os.fspath(path)} is damaged ({str(error):.200}). Copy or download it again."
        ) from error
    except OSError as error:
        raise UserError(
            f"{os.fspath(path)} cannot be read: {error.strerror}. Check the path and the file."
        ) from error


def _read_zip(
    file: BinaryIO, interpreter: StateDictPickle, pick: _Pick
) -> tuple[dict[str, Tensor], dict[str, np.ndarray]]:
    """The tensors of a file of torch >= 1.6, and the bytes of their storages."""
    with zipfile.ZipFile(file) as archive:
        entries = {entry.filename: entry for entry in archive.infolist()}
        if any(entry.compress_type != zipfile.ZIP_STORED for entry in entries.values()):
            raise Refused("has compressed entries. Save it again with torch.save.")
        check_entries(archive.infolist(), _size_of(file))
        folders = [name[:-8] for name in entries if name.partition("/")[2] == "data.pkl"]
        if len(folders) != 1:
            raise Refused(
                "is a zip file that torch.save did not write. Give the path of the checkpoint "
                "itself, such as pytorch_model.bin."
            )

        def read(name: str, size: int | None = None) -> np.ndarray:
            entry = entries.get(folders[0] + name)
            if entry is None or size not in (None, entry.file_size):
                found = f"{entry.file_size} bytes" if entry else "nothing"
                raise ValueError(f"{name!r:.40} should have {size} bytes, and has {found}")
            with archive.open(entry) as opened:
                return _read_bytes(opened, entry.file_size)

        written = folders[0] + "byteorder" in entries  # by torch >= 2.1
        order = read("byteorder").tobytes() if written else b"little"
        if order != b"little":
            raise Refused(
                f"has the byte order {order!r:.40}, which is not supported. Save it again as "
                f"safetensors."
            )
        tensors = _checked(pick(interpreter.load(io.BytesIO(read("data.pkl").tobytes()))))
        used = {tensor.storage.key: tensor.storage for tensor in tensors.values()}
        return tensors, {key: read(f"data/{key}", used[key].size) for key in used}


def _read_old(
    file: BinaryIO, interpreter: StateDictPickle, pick: _Pick
) -> tuple[dict[str, Tensor], dict[str, np.ndarray]]:
    """The same of an older file, which stands behind its magic number."""
    if StateDictPickle().load(file) != _OLD_VERSION:
        raise Refused("has an unknown version of the old format. Save it again with torch.save.")
    StateDictPickle().load(file)  # on the machine that wrote it; storages are always little-endian
    tensors = _checked(pick(interpreter.load(file)))
    used = {tensor.storage.key for tensor in tensors.values()}
    keys = sorted(interpreter.storages)
    if StateDictPickle().load(file) != keys:
        raise ValueError("its list of storages is not that of its tensors")
    storages = {}
    for key in keys:
        storage = interpreter.storages[key]
        if (count := int.from_bytes(_read_bytes(file, 8), "little", signed=True)) != storage.count:
            raise ValueError(
                f"storage {key!r:.40} should have {storage.count} elements, not {count}"
            )
        if storage.size > _size_of(file) - file.tell():
            raise ValueError(f"it ends within storage {key!r:.40}")
        if key in used:
            storages[key] = _read_bytes(file, storage.size)
        else:
            file.seek(storage.size, os.SEEK_CUR)
    return tensors, storages


def _check_memory(tensors: Mapping[str, Tensor], size: int) -> None:
    """Whoever uses the tensors makes copies, which are not to be of any size."""
    total = sum(math.prod(tensor.shape) * tensor.dtype.itemsize for tensor in tensors.values())
    if total > max(_SMALL, _SHARED * size):
        raise ValueError(f"its tensors have {total:.3g} bytes, and the file only {size:,}")


def _size_of(file: BinaryIO) -> int:
    return os.fstat(file.fileno()).st_size


def _read_bytes(file: Any, size: int) -> np.ndarray:
    """The next bytes, read-only; in chunks, as an entry of a zip file would be in memory twice."""
    data = np.empty(size, np.uint8)
    for start in range(0, size, _CHUNK):
        chunk = data[start : start + _CHUNK]
        if file.readinto(chunk) != len(chunk):
            raise ValueError("it ends too early")
    data.flags.writeable = False
    return data


def _checked(value: Any) -> dict[str, Tensor]:
    """What the pickle held, if that is a dict of tensors."""
    if not isinstance(value, dict):
        raise Refused(
            f"holds a {type(value).__name__}, not a dict of tensors. Save model.state_dict()."
        )
    others = [
        name
        for name, entry in value.items()
        if not isinstance(name, str) or not isinstance(entry, Tensor)
    ]
    if others:
        names = ", ".join(f"{name!r:.60} ({type(value[name]).__name__})" for name in others[:5])
        raise Refused(
            f"has {len(others)} entries that are not tensors, such as {names}. Save the state "
            f"dict of the model alone."
        )
    return value


def _array(tensor: Tensor, storages: dict[str, np.ndarray]) -> np.ndarray:
    if 0 in tensor.shape:
        return np.ndarray(tensor.shape, tensor.dtype, buffer=b"")
    return np.ndarray(
        tensor.shape,
        tensor.dtype,
        buffer=storages[tensor.storage.key],
        offset=tensor.offset * tensor.dtype.itemsize,
        strides=[stride * tensor.dtype.itemsize for stride in tensor.strides],
    )

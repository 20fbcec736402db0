"""What makes a checkpoint finished: a manifest of each file's hash and each array's shape."""

from __future__ import annotations

import dataclasses
import hashlib
import importlib.metadata
import json
import os
import platform
from collections.abc import Mapping
from typing import Any

from etils import epath

from transformer_jax.errors import UserError
from transformer_jax.files import temporary_beside
from transformer_jax.training.hashed_files import FileEntry, hash_file, on_disk, write_file

NAME = "manifest.json"
_FORMAT = 1
_PACKAGES = ("jax", "flax", "optax", "transformer-jax")


class DamagedCheckpoint(UserError):
    """A checkpoint is not as it was written.

    Attributes:
      file: the file, relative to the step's folder.
      array: the array that the file is a part of, such as params/encoder/bias; None if of none.
    """

    def __init__(self, message: str, file: str = NAME, array: str | None = None) -> None:
        super().__init__(message)
        self.file = file
        self.array = array


@dataclasses.dataclass(frozen=True)
class ArrayEntry:
    """An array, and the shape of the parts of it that its files hold."""

    shape: tuple[int, ...]
    dtype: str
    part: tuple[int, ...]


@dataclasses.dataclass(frozen=True)
class Manifest:
    """What is in the folder of a step, and of which run it is.

    Attributes:
      step: updates before it was saved.
      versions: of Python and of the packages that wrote it.
      config: the run's, as JSON.
      position: where the data goes on, the fields of a `DataState`.
      fingerprint: of the data.
      metrics: of the validation just before; none if there was none.
      arrays: by name, item/path/of/leaf.
      files: all but the manifest, by path relative to the step's folder.
    """

    step: int
    versions: Mapping[str, str]
    config: Any
    position: Mapping[str, int]
    fingerprint: Mapping[str, Any]
    metrics: Mapping[str, float]
    arrays: Mapping[str, ArrayEntry]
    files: Mapping[str, FileEntry]


def encode(manifest: Manifest) -> bytes:
    """The manifest as JSON, which ends in the hash of what is before it."""
    return _sealed({"format": _FORMAT} | dataclasses.asdict(manifest))


def decode(data: bytes, where: epath.Path) -> Manifest:
    """The manifest in a file's bytes.

    Raises:
      DamagedCheckpoint: a byte is not as it was written.
      UserError: it is of a version that is not known here.
    """
    try:
        body = json.loads(data)
        del body["sha256"]
        whole = _sealed(body) == data  # each byte of it, as there is one way to write it
    except (ValueError, TypeError, KeyError, RecursionError):
        whole = False
    if not whole:
        raise DamagedCheckpoint(f"{where} is damaged: it does not agree with its own hash.")
    if body.pop("format", None) != _FORMAT:
        raise UserError(f"{where} was written by a newer version of this package; update it.")
    try:
        arrays = {name: _array_entry(**entry) for name, entry in body.pop("arrays").items()}
        files = {name: FileEntry(**entry) for name, entry in body.pop("files").items()}
        manifest = Manifest(arrays=arrays, files=files, **body)
        _check_numbers(manifest)
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise DamagedCheckpoint(f"{where} is damaged: {error!r}.") from error
    return manifest


def read_manifest(folder: epath.Path, step: int) -> Manifest:
    """The manifest of a step's folder.

    Raises:
      DamagedCheckpoint: there is none, it is damaged, or of another step.
      UserError: it is of a version that is not known here.
    """
    path = folder / NAME
    try:
        data = path.read_bytes()
    except FileNotFoundError:
        raise DamagedCheckpoint(
            f"{folder} has no {NAME}, so that nothing says what it held: it is damaged, or of an "
            f"older version of this package."
        ) from None
    except OSError as error:
        raise DamagedCheckpoint(f"{path} cannot be read: {error.strerror or error}.") from error
    manifest = decode(data, path)
    if manifest.step != step:
        raise DamagedCheckpoint(f"{path} is the manifest of step {manifest.step}.")
    return manifest


def write_manifest(folder: epath.Path, manifest: Manifest) -> None:
    """Writes it at once: with it the checkpoint is finished, also if the machine stops now.

    Raises:
      OSError: it cannot be written.
    """
    path, data = folder / NAME, memoryview(encode(manifest))
    if not on_disk(path):  # in a store objects are whole, or not there
        write_file(path, data)
        return
    temporary = epath.Path(temporary_beside(path))
    try:
        write_file(temporary, data)
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)
    for changed in (folder, folder.parent):  # the names of files are kept by their folders
        handle = os.open(changed, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)


def versions() -> dict[str, str]:
    """The versions of Python and of the packages that a checkpoint depends on."""
    found = {"python": platform.python_version()}
    for name in _PACKAGES:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:  # used from its folder
            found[name] = "not installed"
    return found


def verify(
    folder: epath.Path, manifest: Manifest, name: str, into: memoryview | None = None
) -> None:
    """Reads a file of the manifest, perhaps into a buffer, and compares its hash.

    Raises:
      DamagedCheckpoint: it is missing, cannot be read, or is not as it was written.
    """
    expected = manifest.files[name]
    try:
        found = hash_file(folder / name, into)
    except FileNotFoundError:
        raise damaged(folder, manifest, name, "it is missing") from None
    except OSError as error:
        reason = f"it cannot be read: {error.strerror or error}"
        raise damaged(folder, manifest, name, reason) from error
    if found.bytes != expected.bytes:
        reason = f"it has {found.bytes} bytes in place of {expected.bytes}"
        raise damaged(folder, manifest, name, reason)
    if found != expected:
        raise damaged(folder, manifest, name, "its bytes are not those that were written")


def damaged(folder: epath.Path, manifest: Manifest, name: str, reason: str) -> DamagedCheckpoint:
    """The error that names a file, and the array that it is a part of."""
    holder = name.rpartition("/")[0]
    array = {folder_of(array): array for array in manifest.arrays}.get(holder)
    part = f" It is a part of {array}." if array else ""
    return DamagedCheckpoint(f"{folder / name} is damaged: {reason}.{part}", name, array)


def folder_of(array: str) -> str:
    """Where Orbax puts an array: params/encoder/bias -> params/encoder.bias."""
    item, _, path = array.partition("/")
    return f"{item}/{path.replace('/', '.')}"


def _sealed(body: Mapping[str, Any]) -> bytes:
    digest = hashlib.sha256(json.dumps(body, indent=1).encode()).hexdigest()
    return json.dumps({**body, "sha256": digest}, indent=1).encode() + b"\n"


def _array_entry(shape: list[int], dtype: str, part: list[int]) -> ArrayEntry:
    if len(shape) != len(part) or any(size < 1 for size in (*shape, *part)):
        raise ValueError(f"no array has shape {shape} and parts of shape {part}")
    return ArrayEntry(tuple(shape), dtype, tuple(part))


def _check_numbers(manifest: Manifest) -> None:
    """ValueError if a number is none; a hash does not tell who wrote it."""
    numbers = [manifest.step, *manifest.position.values(), *manifest.metrics.values()]
    numbers += [size for array in manifest.arrays.values() for size in array.shape + array.part]
    numbers += [file.bytes for file in manifest.files.values()]
    if odd := [x for x in numbers if not isinstance(x, int | float)]:
        raise ValueError(f"{odd[0]!r} is no number")

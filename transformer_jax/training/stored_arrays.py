"""Arrays as files, each of which is hashed in the same go as it is written or read.

A step's folder holds what Orbax's PyTreeCheckpointHandler would write without OCDBT and without
compression, so that Orbax can open it: zarr 2 (github.com/zarr-developers/zarr-specs), a folder of
each array with a file of each part that the devices hold. Orbax's own writer and reader are not
used: they hash nothing, so that each file would be read once more; the reader casts to the dtype
that is asked for; and neither goes by `epath`, which knows disks and stores such as gs:// alike.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from etils import epath

from transformer_jax.training.hashed_files import THREADS, FileEntry, write_file
from transformer_jax.training.manifest import NAME, ArrayEntry, Manifest, damaged, folder_of, verify
from transformer_jax.training.orbax_format import descriptions

_ALIGNED = 64  # bytes; XLA's CPU client takes such memory as it is


def entries(arrays: Mapping[str, jax.Array]) -> dict[str, ArrayEntry]:
    """What the manifest says of arrays: their shapes and dtypes, and how they are cut."""
    return {
        name: ArrayEntry(x.shape, jnp.dtype(x.dtype).name, x.sharding.shard_shape(x.shape))
        for name, x in arrays.items()
    }


def parts_here(arrays: Mapping[str, jax.Array]) -> dict[str, np.ndarray]:
    """The files that this process writes, as arrays in the memory of the host.

    Process 0 writes those that describe the arrays. Where devices hold copies of a part, one of
    them is written; which one differs from array to array, so that all have their share.
    """
    shards = {}
    for number, (name, array) in enumerate(sorted(arrays.items())):
        sizes = array.sharding.shard_shape(array.shape)
        parts = math.prod(-(-n // size) for n, size in zip(array.shape, sizes, strict=True))
        copy = number % (len(array.sharding.device_set) // parts)
        for shard in array.addressable_shards:
            if shard.replica_id == copy:
                starts = [s.indices(n)[0] for s, n in zip(shard.index, array.shape, strict=True)]
                place = tuple(a // size for a, size in zip(starts, sizes, strict=True))
                shards[_file(name, place)] = shard.data
    for data in shards.values():
        data.copy_to_host_async()
    files = {file: np.asarray(data) for file, data in shards.items()}
    if jax.process_index() == 0:
        for file, text in descriptions(entries(arrays)).items():
            files[file] = np.frombuffer(text, np.uint8)
    return files


def write_parts(folder: epath.Path, parts: Mapping[str, np.ndarray]) -> dict[str, FileEntry]:
    """Writes files of a step's folder, with several threads.

    Raises:
      OSError: one cannot be written.
    """

    def write(file: str) -> FileEntry:
        values = np.ascontiguousarray(parts[file]).reshape(-1)
        return write_file(folder / file, values.view(np.uint8).data)

    largest = sorted(parts, key=lambda file: -parts[file].nbytes)
    with ThreadPoolExecutor(THREADS) as pool:
        return dict(zip(largest, pool.map(write, largest), strict=True))


def verify_around(folder: epath.Path, manifest: Manifest) -> None:
    """Verifies the names of all files in a step's folder, and the files that describe arrays.

    Raises:
      DamagedCheckpoint: one is missing, or is not as it was written, or should not be there.
    """
    _verify_names(folder, manifest)
    for name in descriptions(manifest.arrays):
        verify(folder, manifest, name)


def _verify_names(folder: epath.Path, manifest: Manifest) -> None:
    wanted: dict[str, set[str]] = {"": {NAME}}  # the names in each folder
    for file in manifest.files:
        names = file.split("/")
        for depth, name in enumerate(names):
            wanted.setdefault("/".join(names[:depth]), set()).add(name)

    def wrong(inner: str) -> list[tuple[str, str]]:
        try:
            there = {path.name for path in (folder / inner).iterdir()}
        except (FileNotFoundError, NotADirectoryError):
            there = set()
        except OSError as error:
            raise damaged(folder, manifest, inner, f"it cannot be read: {error}") from error
        odd = [(name, f"{NAME} does not know it") for name in there - wanted[inner]]
        odd += [(name, "it is missing") for name in wanted[inner] - there]
        return [(f"{inner}/{name}".lstrip("/"), reason) for name, reason in odd]

    with ThreadPoolExecutor(THREADS) as pool:
        found = sorted(itertools.chain.from_iterable(pool.map(wrong, wanted)))
    if found:
        name, reason = max(found)  # a missing file, rather than the folder that held it alone
        raise damaged(folder, manifest, name, reason)


def read_arrays(
    folder: epath.Path, manifest: Manifest, wanted: Mapping[str, Any]
) -> dict[str, Any]:
    """Reads arrays of a step's folder, with several threads.

    Args:
      folder: of the step.
      manifest: of it.
      wanted: by name; shapes with shardings, of which this process reads its part, or without, for
        numpy arrays. They must be those of the manifest.

    Raises:
      DamagedCheckpoint: a file that was needed is not as it was written.
    """
    largest = sorted(wanted, key=lambda name: -math.prod(manifest.arrays[name].shape))
    pool = ThreadPoolExecutor(THREADS)
    try:  # a task for each array, so that no more than a few are in memory twice
        tasks = {n: pool.submit(_read, _Parts(folder, manifest, n), wanted[n]) for n in largest}
        return {name: tasks[name].result() for name in wanted}
    finally:
        pool.shutdown(cancel_futures=True)


def _read(parts: _Parts, wanted: Any) -> Any:
    sharding = getattr(wanted, "sharding", None)
    if sharding is None:
        return parts.within(None)
    shape = parts.entry.shape
    return jax.make_array_from_callback(shape, sharding, parts.within, dtype=wanted.dtype)


class _Parts:
    """The files of one array, each of which is read once and verified."""

    def __init__(self, folder: epath.Path, manifest: Manifest, name: str) -> None:
        self.entry = manifest.arrays[name]
        self._dtype = jnp.dtype(self.entry.dtype)
        self._folder = folder
        self._manifest = manifest
        self._name = name
        self._files: dict[tuple[int, ...], np.ndarray] = {}
        self._values: dict[tuple[tuple[int, int], ...], np.ndarray] = {}

    def within(self, index: tuple[slice, ...] | None) -> np.ndarray:
        """The values within slices of the array, or all of them."""
        index = (slice(None),) * len(self.entry.shape) if index is None else index
        pairs = [s.indices(n)[:2] for s, n in zip(index, self.entry.shape, strict=True)]
        bounds = tuple((begin, end) for begin, end in pairs)
        if bounds not in self._values:  # several devices may have the same
            self._values[bounds] = self._gather(bounds)
        return self._values[bounds]

    def _gather(self, bounds: tuple[tuple[int, int], ...]) -> np.ndarray:
        sizes = self.entry.part
        grid = [range(a // n, -(-b // n)) for (a, b), n in zip(bounds, sizes, strict=True)]
        places = list(itertools.product(*grid))
        if len(places) == 1:
            source, _ = _inside(bounds, places[0], sizes)
            return np.asarray(self._file(places[0])[source])
        out = np.empty([b - a for a, b in bounds], self._dtype)
        for place in places:
            source, target = _inside(bounds, place, sizes)
            out[target] = self._file(place)[source]
        return out

    def _file(self, place: tuple[int, ...]) -> np.ndarray:
        if place not in self._files:
            size = math.prod(self.entry.part) * self._dtype.itemsize
            name = _file(self._name, place)
            known = self._manifest.files.get(name)
            if known is None or known.bytes != size:
                raise damaged(self._folder, self._manifest, name, f"{size} bytes should be there")
            buffer = _aligned(size)
            verify(self._folder, self._manifest, name, buffer.data)
            self._files[place] = buffer.view(self._dtype).reshape(self.entry.part)
        return self._files[place]


def _file(array: str, place: tuple[int, ...]) -> str:
    return f"{folder_of(array)}/{'.'.join(map(str, place)) or '0'}"


def _inside(
    bounds: tuple[tuple[int, int], ...], place: tuple[int, ...], sizes: tuple[int, ...]
) -> tuple[tuple[slice, ...], tuple[slice, ...]]:
    """Where the values within the bounds stand in a part, and where they go in the result."""
    source, target = [], []
    for (begin, end), i, size in zip(bounds, place, sizes, strict=True):
        first, last = max(begin, i * size), min(end, (i + 1) * size)
        source.append(slice(first - i * size, last - i * size))
        target.append(slice(first - begin, last - begin))
    return tuple(source), tuple(target)


def _aligned(size: int) -> np.ndarray:
    """Memory of so many bytes; numpy asks for large pages, which saves most of the time."""
    raw = np.empty(size + _ALIGNED, np.uint8)
    start = -raw.ctypes.data % _ALIGNED
    return raw[start : start + size]

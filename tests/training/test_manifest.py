"""The manifest: no byte of a checkpoint can change without an error that names its file."""

import dataclasses
import hashlib
import json
import random

import pytest
from etils import epath

from tests.training.small_states import (
    FINGERPRINT,
    files_of,
    flip,
    save,
    shapes_of,
    state_at,
)
from transformer_jax.errors import UserError
from transformer_jax.training.checkpoint import Checkpoints
from transformer_jax.training.hashed_files import FileEntry, hash_file, write_file
from transformer_jax.training.manifest import (
    ArrayEntry,
    DamagedCheckpoint,
    Manifest,
    decode,
    encode,
    write_manifest,
)

FLIPS = 132  # as many as orbax restored without a word
WHERE = epath.Path("manifest.json")
MANIFEST = Manifest(
    step=3,
    versions={"python": "3"},
    config={"a": [1, None, True]},
    position={"epoch": 0, "batch": 3},
    fingerprint={"text": "é\n"},
    metrics={"valid_loss": 0.1, "odd": float("inf")},
    arrays={
        "params/w": ArrayEntry((2, 3), "float32", (2, 3)),
        "rest/step": ArrayEntry((), "i", ()),
    },
    files={"params/w/0.0": FileEntry(24, "00")},
)


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    """The folder of a run with two steps."""
    folder = tmp_path_factory.mktemp("run")
    save(folder, 1, 2)
    return folder


def restore(folder, step=2):
    return Checkpoints(folder, read_only=True).restore(step, shapes_of(state_at(2)), FINGERPRINT)


def damage_found(folder, step=2):
    """The error of restoring a step."""
    with pytest.raises(DamagedCheckpoint) as caught:
        restore(folder, step)
    return caught.value


def array_of(name):
    """The array that a file is of: params/encoder.bias/0 -> params/encoder/bias."""
    holder = name.rpartition("/")[0]
    return None if name.endswith(("_METADATA", "manifest.json")) else holder.replace(".", "/")


def test_every_flipped_bit_is_found_and_its_file_and_array_are_named(saved):
    files = files_of(saved, 2)
    draw = random.Random(0)
    found = 0
    for number in range(FLIPS):
        name = list(files)[number % len(files)]
        bit = draw.randrange(8 * files[name].stat().st_size)
        flip(files[name], bit)
        error = damage_found(saved)
        flip(files[name], bit)
        array = array_of(name)
        assert (error.file, error.array) == (name, array)
        assert name in str(error) and (not array or f"part of {array}." in str(error))
        found += 1
    assert found == FLIPS and len(files) < FLIPS  # so each file had one
    restore(saved)


@pytest.mark.parametrize("change", ["cut", "emptied", "longer", "gone"])
def test_a_file_that_is_cut_longer_or_gone_is_named(saved, change):
    for name, path in files_of(saved, 2).items():
        data = path.read_bytes()
        changed = {"cut": data[:-1], "emptied": b"", "longer": data + b"\0" * 5000, "gone": None}
        path.unlink() if changed[change] is None else path.write_bytes(changed[change])
        error = damage_found(saved)
        path.write_bytes(data)
        assert error.file == name
        if name != "manifest.json":
            assert ("missing" in str(error)) == (change == "gone")
    restore(saved)


@pytest.mark.parametrize("name", ["extra", "params/encoder.kernel/9.9", "params/other"])
def test_a_file_that_should_not_be_there_is_named(saved, name):
    path = saved / "checkpoints" / "2" / name
    path.write_bytes(b"")
    error = damage_found(saved)
    path.unlink()
    assert error.file == name and "does not know it" in str(error)


def test_files_that_changed_places_are_found(saved):
    files = files_of(saved, 2)
    one, other = (files[f"{x}encoder.kernel/0.0"] for x in ("params/", "rest/opt_state.0.mu."))
    data = one.read_bytes(), other.read_bytes()
    one.write_bytes(data[1]), other.write_bytes(data[0])
    error = damage_found(saved)
    one.write_bytes(data[0]), other.write_bytes(data[1])
    assert error.array in ("params/encoder/kernel", "rest/opt_state/0/mu/encoder/kernel")


def test_the_manifest_of_another_step_is_refused(saved):
    mine, other = files_of(saved, 2)["manifest.json"], files_of(saved, 1)["manifest.json"]
    data = mine.read_bytes()
    mine.write_bytes(other.read_bytes())
    error = damage_found(saved)
    mine.write_bytes(data)
    assert "is the manifest of step 1" in str(error)


def test_the_manifest_says_what_the_checkpoint_is_of(saved):
    manifest = decode(files_of(saved, 2)["manifest.json"].read_bytes(), WHERE)
    assert (manifest.step, manifest.position) == (2, {"epoch": 0, "batch": 2})
    assert manifest.fingerprint == FINGERPRINT and manifest.config == {"model": "small"}
    assert {"python", "jax", "flax", "optax"} <= manifest.versions.keys()
    assert manifest.arrays["params/encoder/bias"] == ArrayEntry((8,), "bfloat16", (8,))
    assert manifest.files.keys() == files_of(saved, 2).keys() - {"manifest.json"}
    for name, path in files_of(saved, 2).items():
        if name != "manifest.json":
            data = path.read_bytes()
            assert manifest.files[name] == FileEntry(len(data), hashlib.sha256(data).hexdigest())


def test_a_manifest_comes_back_as_it_was():
    assert decode(encode(MANIFEST), WHERE) == MANIFEST


def test_each_byte_of_a_manifest_counts():
    data = encode(MANIFEST)
    for place in range(len(data)):
        for changed in (data[:place] + data[place + 1 :], data[:place] + b" " + data[place:]):
            with pytest.raises(DamagedCheckpoint):
                decode(changed, WHERE)


@pytest.mark.parametrize(
    "data", [b"", b"[]", b"{}", b"null", b"\xff", b"[" * 100_000, b'{"sha256": 1}', b'"sha256"']
)
def test_what_is_no_manifest_is_refused(data):
    with pytest.raises(DamagedCheckpoint):
        decode(data, WHERE)


@pytest.mark.parametrize(
    "changes",
    [
        {"step": "3"},
        {"position": {"epoch": "0"}},
        {"metrics": {"valid_loss": "low"}},
        {"arrays": {"params/w": ArrayEntry((2, 3), "float32", (0, 3))}},
        {"arrays": {"params/w": ArrayEntry((2, 3), "float32", (2,))}},
        {"arrays": {"params/w": ArrayEntry(("2",), "float32", (2,))}},
        {"arrays": []},
        {"files": {"params/w/0.0": FileEntry("24", "00")}},
    ],
)
def test_a_manifest_with_a_right_hash_and_wrong_contents_is_refused(changes):
    with pytest.raises(DamagedCheckpoint):
        decode(encode(dataclasses.replace(MANIFEST, **changes)), WHERE)


def test_a_manifest_of_a_newer_version_is_not_called_damaged():
    body = json.loads(encode(MANIFEST))
    del body["sha256"]
    body["format"] = 2
    digest = hashlib.sha256(json.dumps(body, indent=1).encode()).hexdigest()
    data = json.dumps({**body, "sha256": digest}, indent=1).encode() + b"\n"
    with pytest.raises(UserError, match="newer version") as caught:
        decode(data, WHERE)
    assert not isinstance(caught.value, DamagedCheckpoint)


def test_a_manifest_is_written_whole_or_not_at_all(tmp_path, monkeypatch):
    folder = epath.Path(tmp_path)

    def full(handle):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", full)
    with pytest.raises(OSError, match="No space left"):
        write_manifest(folder, MANIFEST)
    assert not list(tmp_path.iterdir())
    monkeypatch.undo()
    write_manifest(folder, MANIFEST)
    assert [path.name for path in tmp_path.iterdir()] == ["manifest.json"]


@pytest.mark.parametrize("size", [0, 1, 4095, (1 << 20) - 1, 1 << 20, (1 << 20) + 1])
@pytest.mark.parametrize("room", [None, -1, 0, 1])
def test_a_file_is_hashed_whole_into_a_buffer_of_any_size(tmp_path, size, room):
    data = random.Random(size).randbytes(size)
    path = epath.Path(tmp_path / "file")
    path.write_bytes(data)
    buffer = None if room is None else bytearray(max(0, size + room))
    found = hash_file(path, None if buffer is None else memoryview(buffer))
    assert found == FileEntry(size, hashlib.sha256(data).hexdigest())
    if buffer is not None:
        held = min(size, len(buffer))
        assert buffer[:held] == data[:held]


@pytest.mark.parametrize("size", [0, 1, (1 << 20) + 1, (17 << 20) + 3])
def test_a_file_is_written_whole_and_hashed(tmp_path, size):
    data = random.Random(size).randbytes(size)
    path = epath.Path(tmp_path / "folder" / "file")
    found = write_file(path, memoryview(data))
    assert found == FileEntry(size, hashlib.sha256(data).hexdigest())
    assert path.read_bytes() == data

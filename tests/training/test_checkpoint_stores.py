"""Checkpoints in stores of objects, gs:// and s3://, by the same code: here in memory."""

import dataclasses
import errno
import itertools
from pathlib import Path

import fsspec
import pytest
from etils import epath
from fsspec.implementations.memory import MemoryFileSystem

from tests.training.small_states import (
    FINGERPRINT,
    assert_bitwise,
    flip,
    save,
    shapes_of,
    state_at,
)
from tests.training.test_loop import config_for
from transformer_jax.data.pipeline import DataState
from transformer_jax.errors import UserError
from transformer_jax.training.checkpoint import Checkpoints
from transformer_jax.training.loop import train
from transformer_jax.training.manifest import DamagedCheckpoint
from transformer_jax.training.restore import restore_run

SHAPES = shapes_of(state_at(1))
numbers = itertools.count()


class Store(MemoryFileSystem):
    """A store of objects that has no folders of its own, and may be full."""

    protocol = ("gcs", "gs", "s3")
    full = False

    def __init__(self, *args, **kwargs):
        super().__init__()

    @classmethod
    def _strip_protocol(cls, path):
        return super()._strip_protocol(str(path).partition("://")[2] or str(path))

    def mkdir(self, path, create_parents=True, **kwargs):
        raise AssertionError(f"{path}: a store needs no folders")

    def _open(self, path, mode="rb", **kwargs):
        if Store.full and "w" in mode and not path.endswith(".unfinished"):
            raise OSError(errno.ENOSPC, "No space left on device")
        return super()._open(path, mode, **kwargs)


@pytest.fixture(params=["gs", "s3"])
def workdir(request, monkeypatch):
    """A new bucket."""
    monkeypatch.setenv("EPATH_USE_TF", "false")
    monkeypatch.setattr(Store, "full", False)
    for name in ("gcs", "s3"):
        fsspec.register_implementation(name, Store, clobber=True)
    return f"{request.param}://bucket-{next(numbers)}/run"


def newest(workdir):
    return Checkpoints(workdir).restore_newest(SHAPES, FINGERPRINT)


def with_settings(config, **changes):
    return dataclasses.replace(config, train=dataclasses.replace(config.train, **changes))


def names_in(workdir):
    return sorted(path.name for path in (epath.Path(workdir) / "checkpoints").iterdir())


def test_a_store_keeps_restores_and_removes_as_a_disk_does(workdir):
    assert newest(workdir) is None
    losses = {1: 2.0, 2: 1.0, 3: 3.0, 4: 4.0}
    checkpoints = save(workdir, *losses, losses=losses, keep=2)
    assert str(checkpoints.folder) == f"{workdir}/checkpoints"
    assert names_in(workdir) == ["2", "3", "4"] and checkpoints.best() == 2
    assert Checkpoints(Path(workdir)).folder == checkpoints.folder  # though it has a slash less
    found = newest(workdir)
    assert_bitwise(found.state, state_at(4))
    assert (found.position, found.notes) == (DataState(0, 4), [])
    assert_bitwise(Checkpoints(workdir, read_only=True).read_params(3), state_at(3).params)


def test_damage_in_a_store_is_found_and_gone_back_from(workdir):
    save(workdir, 1, 2, 3)
    folder = epath.Path(workdir) / "checkpoints"
    flip(folder / "3" / "params" / "scale" / "0")
    (folder / "2" / "rest" / "step" / "0").unlink()
    with pytest.raises(DamagedCheckpoint, match="part of params/scale.*Other steps .*: 1, 2"):
        Checkpoints(workdir, read_only=True).read_params(3)
    found = newest(workdir)
    assert_bitwise(found.state, state_at(1))
    assert "2/rest/step/0 is damaged: it is missing" in found.notes[1]


def test_a_save_that_fails_in_a_store_is_raised_and_cleaned_up(workdir, monkeypatch):
    save(workdir, 1)
    checkpoints = Checkpoints(workdir)
    monkeypatch.setattr(Store, "full", True)
    checkpoints.save(state_at(2), DataState(0, 2), FINGERPRINT, {})
    with pytest.raises(UserError, match=r"Step 2 could not be saved.*No space left"):
        checkpoints.close()
    monkeypatch.setattr(Store, "full", False)
    assert checkpoints.latest() == 1
    (epath.Path(workdir) / "checkpoints" / "2" / "params" / "scale" / "0").write_bytes(b"half")
    assert names_in(workdir) == ["1", "2", "2.unfinished"]
    assert len(Checkpoints(workdir).clean_up()) == 1
    assert names_in(workdir) == ["1"]


def test_a_store_without_its_package_is_a_clear_error(monkeypatch):
    def missing(*_, **__):
        raise ImportError("Please install adlfs to access Azure")

    monkeypatch.setattr(fsspec, "filesystem", missing)
    with pytest.raises(UserError, match="az://bucket/run: Please install adlfs"):
        Checkpoints("az://bucket/run")


def test_a_run_keeps_its_checkpoints_in_a_store_goes_on_from_there_and_is_restored(
    workdir, tmp_path, pairs_folder, capsys
):
    config = config_for(pairs_folder, stop_at=4, checkpoint_every=2, checkpoint_dir=workdir)
    train(config, tmp_path / "run")
    assert names_in(workdir) == ["2", "4"] and not (tmp_path / "run" / "checkpoints").exists()
    (tmp_path / "run" / "config.json").unlink()  # its checkpoints still know what it was
    with pytest.raises(UserError, match="train.seed: 0 -> 1"):
        train(with_settings(config, seed=1), tmp_path / "run")
    train(with_settings(config, stop_at=6), tmp_path / "run")
    assert "restored step 4" in capsys.readouterr().out
    assert restore_run(config, tmp_path / "run").steps == [6]


def test_a_workdir_in_a_store_is_refused(pairs_folder, workdir):
    with pytest.raises(UserError, match="train.checkpoint_dir gs://BUCKET"):
        train(config_for(pairs_folder), Path(workdir))

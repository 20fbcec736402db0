"""Checkpoints: bitwise, refused when they do not fit, and never lost by a save that fails."""

import errno
import subprocess
import sys
import textwrap

import jax
import jax.numpy as jnp
import numpy as np
import orbax.checkpoint as ocp
import pytest
from jax.sharding import NamedSharding, PartitionSpec

from tests.training.small_states import (
    FINGERPRINT,
    assert_bitwise,
    files_of,
    flip,
    rows_over,
    save,
    shapes_of,
    state_at,
)
from transformer_jax.data.pipeline import DataState
from transformer_jax.errors import UserError
from transformer_jax.parallel.mesh import MeshConfig, make_mesh
from transformer_jax.training import saver
from transformer_jax.training.checkpoint import Checkpoints
from transformer_jax.training.guard import new_guard
from transformer_jax.training.manifest import DamagedCheckpoint
from transformer_jax.training.step import TrainState

SHAPES = shapes_of(state_at(1))


def newest(folder):
    return Checkpoints(folder).restore_newest(SHAPES, FINGERPRINT)


def steps_in(folder):
    """What lies in the folder of the checkpoints."""
    return sorted(path.name for path in (folder / "checkpoints").iterdir())


# Restoring.


def test_what_is_restored_is_bitwise_what_was_saved(tmp_path):
    save(tmp_path, 1, 2)
    found = newest(tmp_path)
    assert_bitwise(found.state, state_at(2))
    assert (found.position, found.notes) == (DataState(0, 2), [])
    assert_bitwise(Checkpoints(tmp_path, read_only=True).read_params(1), state_at(1).params)


def test_orbax_opens_what_was_saved(tmp_path):
    def onto(array):
        return rows_over(2) if array.shape else NamedSharding(rows_over(2).mesh, PartitionSpec())

    save(tmp_path, 3)
    folder = tmp_path / "checkpoints" / "3"
    reader = ocp.PyTreeCheckpointer()
    found = {item: reader.restore(folder / item) for item in ("params", "rest")}
    assert_bitwise(found["params"], state_at(3).params)
    assert_bitwise(found["rest"]["opt_state"]["0"]["mu"], state_at(3).opt_state[0].mu)
    cut = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype), state_at(3).params)
    args = jax.tree.map(lambda x: ocp.ArrayRestoreArgs(sharding=onto(x)), cut)
    sharded = reader.restore(folder / "params", item=cut, restore_args=args)
    assert sharded["encoder"]["kernel"].sharding == rows_over(2)
    assert_bitwise(sharded, state_at(3).params)


@pytest.mark.parametrize("saved_on", [1, 2, 8])
@pytest.mark.parametrize("restored_on", [1, 4, 8])
def test_arrays_are_restored_onto_any_number_of_devices(tmp_path, saved_on, restored_on):
    arrays = {
        "kernel": np.arange(16 * 6, dtype=np.float32).reshape(16, 6),
        "bias": np.arange(8, dtype=np.int32),
    }
    state = TrainState(jnp.int32(1), jax.device_put(arrays, rows_over(saved_on)), {}, new_guard())
    checkpoints = Checkpoints(tmp_path)
    checkpoints.save(state, DataState(), {}, {})
    checkpoints.close()
    wanted = shapes_of(arrays, rows_over(restored_on))
    found = Checkpoints(tmp_path).restore_params(1, wanted)
    assert_bitwise(found, arrays)
    assert all(x.sharding == rows_over(restored_on) for x in found.values())


def test_parts_that_do_not_divide_are_put_together(tmp_path):
    """Columns in place of rows, and copies, whose parts are saved by several devices."""
    mesh = make_mesh(MeshConfig(data=2, fsdp=2, model=2))
    array = np.arange(16 * 12, dtype=np.float32).reshape(16, 12)
    specs = [PartitionSpec(*axes) for axes in [(), ("model",), ("fsdp", "model"), (None, "fsdp")]]
    arrays = {str(i): jax.device_put(array, NamedSharding(mesh, s)) for i, s in enumerate(specs)}
    checkpoints = Checkpoints(tmp_path)
    checkpoints.save(TrainState(jnp.int32(1), arrays, {}, new_guard()), DataState(), {}, {})
    checkpoints.close()
    for spec in specs:
        wanted = shapes_of(arrays, NamedSharding(mesh, spec))
        found = Checkpoints(tmp_path).restore_params(1, wanted)
        assert_bitwise(found, dict.fromkeys(arrays, array))


def test_a_file_holds_a_part_of_an_array_as_it_is_in_memory(tmp_path):
    array = np.arange(16 * 6, dtype=np.float32).reshape(16, 6)
    state = TrainState(jnp.int32(1), {"w": jax.device_put(array, rows_over(4))}, {}, new_guard())
    checkpoints = Checkpoints(tmp_path)
    checkpoints.save(state, DataState(), {}, {})
    checkpoints.close()
    files = files_of(tmp_path, 1)
    parts = [f"params/w/{i}.0" for i in range(4)]
    assert [f for f in files if f.startswith("params/w/")] == ["params/w/.zarray", *parts]
    for i in range(4):
        assert files[f"params/w/{i}.0"].read_bytes() == array[4 * i : 4 * i + 4].tobytes()


def test_arrays_may_be_overwritten_once_a_save_has_begun(tmp_path):
    step = jax.jit(lambda x: x * 2 + 1, donate_argnums=0)
    array = jax.random.normal(jax.random.key(0), (512, 512))
    checkpoints, wanted = Checkpoints(tmp_path, keep=9), {}
    for number in range(1, 6):
        wanted[number] = np.array(array)
        checkpoints.save(
            TrainState(jnp.int32(number), {"w": array}, {}, new_guard()), DataState(), {}, {}
        )
        for _ in range(3):
            array = step(array)
    checkpoints.close()
    for number, values in wanted.items():
        assert_bitwise(checkpoints.read_params(number), {"w": values})


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda p: p | {"scale": jnp.bfloat16(0)}, r"params/scale is float32\[\], not bfloat16"),
        (lambda p: p | {"scale": jnp.zeros(1)}, r"params/scale is float32\[\], not float32\[1\]"),
        (lambda p: p | {"more": jnp.zeros(1)}, r"params/more float32\[1\] is missing"),
        (lambda p: {"scale": p["scale"]}, r"params/encoder/kernel float32\[16, 6\] has no place"),
    ],
)
def test_arrays_of_another_model_are_refused_by_name(tmp_path, change, message):
    checkpoints = save(tmp_path, 1)
    wanted = shapes_of(change(state_at(1).params))
    state = SHAPES.replace(params=wanted)
    for restore in (
        lambda: checkpoints.restore_params(1, wanted),
        lambda: checkpoints.restore_newest(state, FINGERPRINT),
    ):
        with pytest.raises(UserError, match=message) as caught:
            restore()
        assert not isinstance(caught.value, DamagedCheckpoint)  # nothing to fall back from


def test_an_optimizer_of_another_kind_is_refused_by_name(tmp_path):
    checkpoints = save(tmp_path, 1)
    with pytest.raises(UserError, match="rest/opt_state/0/mu/encoder/bias .* has no place"):
        checkpoints.restore_newest(SHAPES.replace(opt_state=()), FINGERPRINT)


def test_only_the_fields_of_the_data_that_changed_are_named(tmp_path):
    checkpoints = save(tmp_path, 1)
    now = FINGERPRINT | {"text": "abd", "more": 1}  # more: what an older version did not look at
    with pytest.raises(UserError, match="trained on other data") as caught:
        checkpoints.restore_newest(SHAPES, now)
    lines = str(caught.value).splitlines()
    assert lines[1:-1] == ["  data.text: 'abc' -> 'abd'"]


# Damage.


def test_the_newest_whole_step_takes_the_place_of_damaged_ones(tmp_path):
    save(tmp_path, 1, 2, 3, 4)
    flip(files_of(tmp_path, 4)["rest/step/0"])
    files_of(tmp_path, 3)["manifest.json"].unlink()
    found = newest(tmp_path)
    assert_bitwise(found.state, state_at(2))
    assert found.position == DataState(0, 2)
    four, three, says = found.notes
    assert "4/rest/step/0 is damaged" in four and "part of rest/step" in four
    assert "3 has no manifest.json" in three
    assert says == "went back to step 2"
    assert steps_in(tmp_path) == ["1", "2", "3", "4"]  # all stay, for whoever wants to look


def test_a_run_whose_steps_are_all_damaged_is_not_begun_anew(tmp_path):
    save(tmp_path, 1, 2)
    for step in (1, 2):
        flip(files_of(tmp_path, step)["manifest.json"])
    with pytest.raises(DamagedCheckpoint, match=r"(?s)no step that can be restored.*/2.*/1"):
        newest(tmp_path)
    assert Checkpoints(tmp_path).latest() == 2


def test_a_folder_without_steps_is_begun_anew(tmp_path):
    assert newest(tmp_path) is None


def test_whoever_reads_a_damaged_step_is_told_which_others_there_are(tmp_path):
    save(tmp_path, 1, 2, 3)
    flip(files_of(tmp_path, 3)["params/scale/0"])
    checkpoints = Checkpoints(tmp_path, read_only=True)
    assert checkpoints.latest() == 3  # no older one in its place without a word
    for read in (
        lambda: checkpoints.restore_params(3, SHAPES.params),
        lambda: checkpoints.read_params(3),
        lambda: checkpoints.average([2, 3], SHAPES.params),
    ):
        with pytest.raises(DamagedCheckpoint, match=r"params/scale\. Other steps .*: 1, 2\.$"):
            read()
    flip(files_of(tmp_path, 2)["manifest.json"])
    with pytest.raises(DamagedCheckpoint, match="step|hash"):
        checkpoints.best()


def test_whoever_wants_parameters_does_not_read_the_rest(tmp_path):
    checkpoints = save(tmp_path, 1)
    flip(files_of(tmp_path, 1)["rest/opt_state.0.mu.scale/0"])
    assert_bitwise(checkpoints.read_params(1), state_at(1).params)


# Which steps stay.


def test_the_newest_and_the_best_stay(tmp_path):
    losses = {1: 3.0, 2: 1.0, 3: float("nan"), 4: 2.0, 5: 4.0}
    checkpoints = save(tmp_path, *losses, losses=losses, keep=2)
    assert (checkpoints.steps(), checkpoints.best()) == ([2, 4, 5], 2)


def test_a_step_without_a_validation_is_never_the_best(tmp_path):
    save(tmp_path, 1, 2, losses={1: 5.0, 2: 6.0})
    checkpoints = save(tmp_path, 3)
    assert (checkpoints.best(), checkpoints.latest()) == (1, 3)


def test_a_damaged_step_is_not_counted_and_not_removed(tmp_path):
    save(tmp_path, 1, 2, 9)
    flip(files_of(tmp_path, 9)["params/scale/0"])
    checkpoints = Checkpoints(tmp_path, keep=1)
    checkpoints.restore_newest(SHAPES, FINGERPRINT)
    checkpoints.save(state_at(3), DataState(0, 3), FINGERPRINT, {})
    checkpoints.close()
    assert steps_in(tmp_path) == ["3", "9"]
    assert_bitwise(newest(tmp_path).state, state_at(3))


def test_a_damaged_step_is_replaced_when_it_comes_up_again(tmp_path):
    save(tmp_path, 1, 2)
    flip(files_of(tmp_path, 2)["params/scale/0"])
    checkpoints = Checkpoints(tmp_path, keep=9)
    assert int(checkpoints.restore_newest(SHAPES, FINGERPRINT).state.step) == 1
    checkpoints.save(state_at(2), DataState(0, 2), FINGERPRINT, {})
    checkpoints.close()
    assert_bitwise(newest(tmp_path).state, state_at(2))


def test_a_step_is_saved_once(tmp_path, monkeypatch):
    """As when a run is told to stop right after a checkpoint."""
    checkpoints = Checkpoints(tmp_path)
    checkpoints.save(state_at(1), DataState(0, 1), FINGERPRINT, {"valid_loss": 1.0})
    checkpoints.save(state_at(1), DataState(0, 1), FINGERPRINT, {})
    checkpoints.close()
    assert checkpoints.best() == 1


# Saves that fail, or are stopped.


def full(*_):
    raise OSError(errno.ENOSPC, "No space left on device")


@pytest.mark.parametrize("where", ["write_parts", "write_manifest"])
def test_what_fails_in_the_background_is_raised_and_is_no_step(tmp_path, monkeypatch, where):
    save(tmp_path, 1)
    checkpoints = Checkpoints(tmp_path, keep=1)
    monkeypatch.setattr(saver, where, full)
    checkpoints.save(state_at(2), DataState(0, 2), FINGERPRINT, {})
    checkpoints._saver._thread.join()
    with pytest.raises(UserError, match=r"Step 2 .*No space left.*newest finished step is 1\."):
        checkpoints.check()
    checkpoints.check()  # raised once
    assert checkpoints.latest() == 1
    monkeypatch.undo()
    checkpoints.save(state_at(3), DataState(0, 3), FINGERPRINT, {})
    checkpoints.close()
    assert_bitwise(newest(tmp_path).state, state_at(3))


@pytest.mark.parametrize("raised_by", ["save", "close"])
def test_a_failure_is_raised_at_the_latest_by_the_next_save_or_the_end(
    tmp_path, monkeypatch, raised_by
):
    checkpoints = Checkpoints(tmp_path)
    monkeypatch.setattr(saver, "write_manifest", full)
    checkpoints.save(state_at(1), DataState(0, 1), FINGERPRINT, {})
    with pytest.raises(UserError, match=r"Step 1 .*No space left.*No step is finished yet"):
        if raised_by == "save":
            checkpoints.save(state_at(2), DataState(0, 2), FINGERPRINT, {})
        else:
            checkpoints.close()


def test_a_bug_in_the_background_is_no_error_of_the_users(tmp_path, monkeypatch):
    def bug(*_):
        raise TypeError("a bug")

    checkpoints = Checkpoints(tmp_path)
    monkeypatch.setattr(saver, "write_manifest", bug)
    checkpoints.save(state_at(1), DataState(0, 1), FINGERPRINT, {})
    with pytest.raises(TypeError, match="a bug"):
        checkpoints.close()


def test_older_steps_go_only_when_the_new_one_is_finished(tmp_path, monkeypatch):
    seen = []
    write = saver.write_manifest

    def look(folder, manifest):
        seen.append(steps_in(tmp_path))
        write(folder, manifest)

    monkeypatch.setattr(saver, "write_manifest", look)
    checkpoints = save(tmp_path, 1, 2, keep=1)
    assert seen[1] == ["1", "2", "2.unfinished"]
    assert steps_in(tmp_path) == ["2"] and checkpoints.steps() == [2]


def test_an_old_step_that_cannot_be_removed_is_told_and_the_new_one_stays(tmp_path, monkeypatch):
    save(tmp_path, 1)
    checkpoints = Checkpoints(tmp_path, keep=1)
    monkeypatch.setattr(checkpoints._folders, "remove", full)
    checkpoints.save(state_at(2), DataState(0, 2), FINGERPRINT, {})
    with pytest.raises(UserError, match="Step 2 was saved, but older ones could not be removed"):
        checkpoints.close()
    assert_bitwise(newest(tmp_path).state, state_at(2))


def test_what_a_stopped_save_left_is_removed_and_told(tmp_path):
    save(tmp_path, 1, 2, 3, 4)
    folder = tmp_path / "checkpoints"
    files_of(tmp_path, 3)["manifest.json"].unlink()  # all was there but the manifest
    (folder / "3.unfinished").touch()
    (folder / "5.unfinished").touch()  # nothing was there
    (folder / "2.unfinished").touch()  # finished, the mark not yet taken away
    files_of(tmp_path, 4)["manifest.json"].unlink()  # no save of ours: it has no mark
    checkpoints = Checkpoints(tmp_path)
    assert checkpoints.steps() == [1, 2, 4]
    said = checkpoints.clean_up()
    assert steps_in(tmp_path) == ["1", "2", "4"]
    assert len(said) == 1 and "checkpoints/3," in said[0]
    assert checkpoints.clean_up() == []
    assert int(newest(tmp_path).state.step) == 2


def test_a_removal_that_is_stopped_leaves_no_step_behind(tmp_path, monkeypatch):
    checkpoints = save(tmp_path, 1, 2)
    removed = []

    def stop(path, missing_ok=False):
        removed.append(path)
        raise KeyboardInterrupt

    monkeypatch.setattr(type(checkpoints.folder), "rmtree", stop)
    with pytest.raises(KeyboardInterrupt):
        checkpoints._folders.remove(1)
    monkeypatch.undo()
    assert removed and checkpoints.steps() == [2]
    checkpoints.clean_up()
    assert steps_in(tmp_path) == ["2"]


PROGRAM = """
    import os, resource, signal, sys
    from tests.training.small_states import FINGERPRINT, save, state_at
    from transformer_jax.data.pipeline import DataState
    from transformer_jax.errors import UserError
    from transformer_jax.training import saver
    from transformer_jax.training.checkpoint import Checkpoints

    folder = sys.argv[1]
    save(folder, 1)
    {before}
    checkpoints = Checkpoints(folder, keep=1)
    checkpoints.save(state_at(2), DataState(0, 2), FINGERPRINT, {{}})
    checkpoints._saver._thread.join()
    try:
        checkpoints.check()
    except UserError as error:
        print(error)
"""


def run(folder, before):
    """Saves step 1, and then step 2 after something was done."""
    program = textwrap.dedent(PROGRAM).format(before=before)
    return subprocess.run(
        [sys.executable, "-c", program, str(folder)], capture_output=True, text=True, timeout=240
    )


def test_a_run_killed_just_before_the_manifest_has_not_saved(tmp_path):
    done = run(tmp_path, "saver.write_manifest = lambda *_: os.kill(os.getpid(), signal.SIGKILL)")
    assert done.returncode == -9, done.stderr
    assert steps_in(tmp_path) == ["1", "2", "2.unfinished"]
    checkpoints = Checkpoints(tmp_path)
    assert checkpoints.latest() == 1
    assert len(checkpoints.clean_up()) == 1
    assert steps_in(tmp_path) == ["1"]
    assert_bitwise(newest(tmp_path).state, state_at(1))


def test_files_that_the_system_refuses_to_write_are_told(tmp_path):
    """A limit on the size of a file is what a test may set; a full disk is refused alike."""
    limit = "resource.setrlimit(resource.RLIMIT_FSIZE, (300, 300))"
    done = run(tmp_path, limit)
    assert done.returncode == 0, done.stderr
    assert "Step 2 could not be saved" in done.stdout and "File too large" in done.stdout
    assert "newest finished step is 1." in done.stdout
    assert "Traceback" not in done.stderr
    assert Checkpoints(tmp_path).latest() == 1
    assert_bitwise(newest(tmp_path).state, state_at(1))

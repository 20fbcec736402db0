"""The loop: what it leaves behind, and that a resumed run equals one that never stopped."""

import dataclasses
import json

import jax
import numpy as np
import pytest
from etils import epath

from tests.training.small_states import assert_bitwise, flip
from transformer_jax.data.pipeline import DataState
from transformer_jax.errors import UserError
from transformer_jax.models.transformer import TransformerConfig
from transformer_jax.parallel.mesh import MeshConfig
from transformer_jax.tasks.translation import TranslationConfig, TranslationData
from transformer_jax.training import saver
from transformer_jax.training.checkpoint import Checkpoints
from transformer_jax.training.config import ExperimentConfig, TrainConfig
from transformer_jax.training.guard import new_guard
from transformer_jax.training.loop import train
from transformer_jax.training.manifest import read_manifest
from transformer_jax.training.metrics import read_metrics
from transformer_jax.training.optimizer import OptimizerConfig
from transformer_jax.training.schedules import WarmupLinear
from transformer_jax.training.step import TrainState
from transformer_jax.training.stored_arrays import read_arrays

MODEL = TransformerConfig(
    vocab_size=32, width=16, num_heads=2, feed_forward_dim=16, encoder_layers=2, decoder_layers=2
)


def config_for(folder, **train_options):
    options = dict(steps=20, batch_size=16, log_every=1, checkpoint_every=5, keep=2)
    return ExperimentConfig(
        task=TranslationConfig(),
        model=MODEL,
        data=TranslationData(path=str(folder), row_length=32, target_language="fr"),
        optimizer=OptimizerConfig(schedule=WarmupLinear(peak=1e-2, warmup=5), clip_norm=1.0),
        train=TrainConfig(**(options | train_options)),
        mesh=MeshConfig(fsdp=2, model=2),
    )


def last_state(workdir):
    """Every array of the newest checkpoint, and where the data goes on."""
    step = Checkpoints(workdir, read_only=True).latest()
    folder = epath.Path(workdir) / "checkpoints" / str(step)
    manifest = read_manifest(folder, step)
    position = {"position": manifest.position, "fingerprint": manifest.fingerprint}
    return sorted(read_arrays(folder, manifest, manifest.arrays).items()), json.dumps(position)


def losses(workdir):
    return {m["step"]: m["loss"] for m in read_metrics(workdir) if "loss" in m}


@pytest.fixture(scope="module")
def whole_run(tmp_path_factory, pairs_folder):
    workdir = tmp_path_factory.mktemp("whole")
    train(config_for(pairs_folder), workdir)
    return workdir


def test_resumed_run_equals_one_that_never_stopped_bitwise(whole_run, tmp_path, pairs_folder):
    train(config_for(pairs_folder, stop_at=10), tmp_path)
    assert Checkpoints(tmp_path, read_only=True).latest() == 10
    train(config_for(pairs_folder, log_every=2), tmp_path)
    (got, position), (want, wanted_position) = last_state(tmp_path), last_state(whole_run)
    for (name, a), (_, b) in zip(got, want, strict=True):
        np.testing.assert_array_equal(a, b, err_msg=name)
    assert position == wanted_position
    whole, resumed = losses(whole_run), losses(tmp_path)
    assert sorted(whole) == list(range(1, 21))  # more than an epoch: its end is crossed
    assert all(whole[step] == loss for step, loss in resumed.items())


def test_epoch_ends_within_the_run(whole_run):
    """Else the tests of resuming would not see an epoch's end."""
    position = json.loads(last_state(whole_run)[1])["position"]
    assert DataState(**position).epoch >= 1


def test_killed_run_goes_on_from_its_last_checkpoint(whole_run, tmp_path, pairs_folder):
    """As after SIGKILL: lines after the checkpoint, one of them unfinished."""
    train(config_for(pairs_folder, stop_at=10), tmp_path)
    metrics = tmp_path / "metrics.jsonl"
    with metrics.open("a") as file:
        file.write('{"step": 11, "loss": 99.0}\n{"step": 12, "lo')
    train(config_for(pairs_folder), tmp_path)
    assert losses(tmp_path) == losses(whole_run)


def test_damaged_checkpoint_costs_the_steps_after_the_one_before(
    whole_run, tmp_path, pairs_folder, capsys
):
    train(config_for(pairs_folder, stop_at=10), tmp_path)
    flip(next((tmp_path / "checkpoints" / "10" / "params").rglob("*.0")), bit=7)
    train(config_for(pairs_folder), tmp_path)
    said = capsys.readouterr().out
    assert "is damaged" in said and "went back to step 5" in said
    (got, position), (want, wanted_position) = last_state(tmp_path), last_state(whole_run)
    assert_bitwise(dict(got), dict(want))
    assert position == wanted_position and losses(tmp_path) == losses(whole_run)


def test_save_that_fails_ends_the_run_at_the_next_step_and_it_goes_on(
    whole_run, tmp_path, pairs_folder, monkeypatch, capsys
):
    write = saver.write_parts

    def full(folder, parts):
        if folder.name == "10":
            raise OSError(28, "No space left on device")
        return write(folder, parts)

    monkeypatch.setattr(saver, "write_parts", full)
    with pytest.raises(UserError, match=r"Step 10 .*No space left.*newest finished step is 5\."):
        train(config_for(pairs_folder), tmp_path)
    assert max(losses(tmp_path)) < 15
    monkeypatch.undo()
    train(config_for(pairs_folder), tmp_path)
    assert "restored step 5 of 20" in capsys.readouterr().out
    assert_bitwise(dict(last_state(tmp_path)[0]), dict(last_state(whole_run)[0]))


def test_run_leaves_what_is_promised(whole_run, capsys):
    names = {path.name for path in whole_run.iterdir()}
    wanted = {"config.json", "tokenizer.model", "metrics.jsonl", "tensorboard", "checkpoints"}
    assert wanted <= names
    first = read_metrics(whole_run)[0]
    assert {"step", "loss", "learning_rate", "grad_norm", "tokens_per_second"} <= first.keys()
    assert list((whole_run / "tensorboard").glob("events.*"))


def test_newest_and_best_checkpoints_are_kept(whole_run):
    checkpoints = Checkpoints(whole_run, read_only=True)
    valid = {m["step"]: m["valid_loss"] for m in read_metrics(whole_run) if "valid_loss" in m}
    assert sorted(valid) == [5, 10, 15, 20]
    best = min(valid, key=valid.get)
    assert checkpoints.best() == best
    assert checkpoints.steps() == sorted({15, 20, best})


def test_best_checkpoint_survives_newer_ones(tmp_path, whole_run):
    checkpoints = Checkpoints(tmp_path, keep=1)
    for step, loss in enumerate((3.0, 1.0, 2.0, 4.0), start=1):
        state = TrainState(jax.numpy.int32(step), {"w": jax.numpy.ones(2) * step}, {}, new_guard())
        checkpoints.save(state, DataState(), {}, {"valid_loss": loss})
    checkpoints.close()
    reopened = Checkpoints(tmp_path, read_only=True)
    assert (reopened.steps(), reopened.best(), reopened.latest()) == ([2, 4], 2, 4)
    shape = {
        "w": jax.ShapeDtypeStruct((2,), jax.numpy.float32, sharding=jax.numpy.ones(2).sharding)
    }
    np.testing.assert_array_equal(reopened.average([2, 4], shape)["w"], [3.0, 3.0])


def test_finished_run_started_again_changes_nothing(whole_run, pairs_folder):
    before = (whole_run / "metrics.jsonl").read_text()
    train(config_for(pairs_folder), whole_run)
    assert (whole_run / "metrics.jsonl").read_text() == before


def test_other_run_in_the_same_folder_is_refused_by_field(whole_run, pairs_folder):
    config = config_for(pairs_folder)
    other = dataclasses.replace(config, model=dataclasses.replace(MODEL, width=32))
    before = (whole_run / "config.json").read_text()
    with pytest.raises(UserError, match="model.width: 16 -> 32"):
        train(other, whole_run)
    assert (whole_run / "config.json").read_text() == before


def test_other_data_under_the_same_path_is_refused(tmp_path, pairs_folder):
    folder = tmp_path / "data"
    folder.mkdir()
    for split in ("train", "valid", "test"):
        (folder / f"{split}.tsv").write_bytes((pairs_folder / f"{split}.tsv").read_bytes())
    run = tmp_path / "run"
    train(config_for(folder, stop_at=1), run)
    with (folder / "train.tsv").open("a") as file:
        file.write("the cat\tle chat\n")
    with pytest.raises(UserError, match="trained on other data"):
        train(config_for(folder), run)


@pytest.mark.parametrize(
    "options,message",
    [
        (dict(batch_size=6), "cannot be split"),
        (dict(batch_size=8, microbatches=4), "microbatch"),
    ],
)
def test_batch_that_the_mesh_cannot_cut_is_refused(tmp_path, pairs_folder, options, message):
    with pytest.raises(UserError, match=message):
        train(config_for(pairs_folder, **options), tmp_path)


def test_run_without_its_config_keeps_its_tokenizer_and_goes_on(tmp_path, pairs_folder):
    train(config_for(pairs_folder, stop_at=5), tmp_path)
    (tmp_path / "config.json").unlink()
    before = (tmp_path / "tokenizer.model").stat().st_mtime_ns
    train(config_for(pairs_folder, stop_at=6), tmp_path)
    assert (tmp_path / "tokenizer.model").stat().st_mtime_ns == before
    assert sorted(losses(tmp_path)) == [1, 2, 3, 4, 5, 6]


def test_failed_start_leaves_no_run_behind(tmp_path, pairs_folder):
    config = config_for(pairs_folder)
    missing = dataclasses.replace(config.data, path=str(tmp_path / "none"))
    with pytest.raises(UserError, match="none"):
        train(dataclasses.replace(config, data=missing), tmp_path / "run")
    train(
        dataclasses.replace(config, train=dataclasses.replace(config.train, stop_at=1)),
        tmp_path / "run",
    )

"""The loop and skipped updates: what it says and logs, when it ends, and what it leaves."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests.training.test_loop import last_state
from tests.training.toy import COEFFICIENTS, ROWS, ToyConfig, ToyData, toy_terms
from transformer_jax.errors import UserError
from transformer_jax.parallel.mesh import MeshConfig
from transformer_jax.training.checkpoint import Checkpoints
from transformer_jax.training.config import ExperimentConfig, TrainConfig
from transformer_jax.training.loop import train
from transformer_jax.training.metrics import read_metrics
from transformer_jax.training.optimizer import OptimizerConfig
from transformer_jax.training.schedules import WarmupLinear
from transformer_jax.training.skip_watch import SkipWatch

pytestmark = pytest.mark.usefixtures("quick_compilation")
SCHEDULE = WarmupLinear(peak=1e-2, warmup=4)


def config_of(data=None, **options):
    settings = dict(steps=12, batch_size=ROWS, log_every=1, checkpoint_every=4)
    return ExperimentConfig(
        task=ToyConfig(),
        model=None,
        data=data or ToyData(),
        optimizer=OptimizerConfig(schedule=SCHEDULE, weight_decay=0.1),
        train=TrainConfig(**(settings | options)),
        mesh=MeshConfig(fsdp=2),
    )


def params_of(workdir):
    (step,) = Checkpoints(workdir, read_only=True).steps()[-1:]
    return step, Checkpoints(workdir, read_only=True).read_params(step)


def test_skipped_update_is_said_and_counted_and_the_rate_is_the_optimizers(tmp_path, capsys):
    train(config_of(ToyData(first=3, count=2)), tmp_path)
    lines = read_metrics(tmp_path)
    assert [m["skipped"] for m in lines] == [0, 0, 1, 2] + [2] * 8
    assert [m["loss"] is None for m in lines] == [False, False, True, True] + [False] * 8
    rate = SCHEDULE.build(12)
    counts = [
        0,
        1,
        2,
        2,
        2,
        3,
        4,
        5,
        6,
        7,
        8,
        9,
    ]  # updates before: warm-up waits with the optimizer
    assert [m["learning_rate"] for m in lines] == [float(rate(n)) for n in counts]
    said = [line for line in capsys.readouterr().out.splitlines() if "skipped" in line]
    assert said == [
        "step 3: update skipped, not finite: loss nan, grad_norm nan, error nan, size nan; "
        "1 skipped so far",
        "step 4: update skipped, not finite: loss nan, grad_norm nan, error nan, size nan; "
        "2 skipped so far",
    ]


@pytest.mark.parametrize("first", [5, 7])  # the third is step 7, and step 9, one after a save
@pytest.mark.parametrize("log_every", [1, 100])
def test_skipped_updates_in_a_row_end_the_run_with_the_batch_kept(tmp_path, first, log_every):
    config = config_of(ToyData(first, 99), max_skipped=3, log_every=log_every)
    step = first + 2
    message = rf"Step {step}: 3 updates in a row were skipped.* loss nan, grad_norm nan, error nan"
    with pytest.raises(UserError, match=message) as raised:
        train(config, tmp_path)
    path = tmp_path / f"bad_batch_{step}.npz"
    assert str(path) in str(raised.value)
    assert [p.name for p in tmp_path.glob("bad_batch*")] == [path.name]

    saved, params = params_of(tmp_path)
    assert saved == 4 * ((step - 1) // 4)
    assert all(np.isfinite(x).all() for x in jax.tree.leaves(params))
    with np.load(path) as batch:  # which unpickles nothing
        total, weight = toy_terms(params, batch, None)["error"]
    assert np.isnan(COEFFICIENTS["error"] * total / weight)


def test_run_that_ends_at_a_checkpoints_step_does_not_save_it(tmp_path):
    with pytest.raises(UserError, match="Step 8: 2 updates"):
        train(config_of(ToyData(7, 99), max_skipped=2, log_every=100), tmp_path)
    assert Checkpoints(tmp_path, read_only=True).steps() == [4]


def test_run_that_ended_so_goes_on_once_its_data_is_good(tmp_path):
    """A new start with the bad batches mended is a run that never saw them."""
    bad = config_of(ToyData(6, 99), max_skipped=1)
    with pytest.raises(UserError, match="Step 6: 1 updates"):
        train(bad, tmp_path / "run")
    train(config_of(), tmp_path / "run", allow=["data"])
    train(config_of(), tmp_path / "good")
    (got, _), (want, _) = last_state(tmp_path / "run"), last_state(tmp_path / "good")
    for (name, a), (_, b) in zip(got, want, strict=True):
        np.testing.assert_array_equal(a, b, err_msg=name)


def test_none_never_ends_a_run_and_it_may_change(tmp_path):
    data = ToyData(3, 99)
    train(config_of(data, max_skipped=None, stop_at=8), tmp_path)
    assert read_metrics(tmp_path)[-1]["skipped_in_a_row"] == 6
    with pytest.raises(UserError, match="Step 9: 7 updates"):  # those before the stop count, too
        train(config_of(data, max_skipped=7), tmp_path)


def test_resumed_run_skips_the_same_spikes_bitwise(tmp_path):
    """The first spike is the last step before the stop, which the next ones are judged by."""
    data = ToyData(first=80, count=5, value=60.0)
    options = dict(steps=90, spike_sigmas=6.0, checkpoint_every=40)
    train(config_of(data, **options), tmp_path / "whole")
    train(config_of(data, **options, stop_at=80), tmp_path / "parts")
    train(config_of(data, **options), tmp_path / "parts")
    whole, parts = (
        {m["step"]: (m["skipped"], m["loss"]) for m in read_metrics(tmp_path / name)}
        for name in ("whole", "parts")
    )
    assert whole == parts
    assert [whole[step][0] for step in (79, 80, 81)] == [0, 1, 2]
    assert whole[90][0] < 5  # the last of them was none any more
    (got, _), (want, _) = (last_state(tmp_path / name) for name in ("parts", "whole"))
    for (name, a), (_, b) in zip(got, want, strict=True):
        np.testing.assert_array_equal(a, b, err_msg=name)


class NotYet:
    """A number that must not be asked for."""

    def __int__(self):
        raise AssertionError("waited for a step that was only just started")


def test_watch_waits_for_no_step_before_the_next_is_started(tmp_path):
    watch = SkipWatch(tmp_path, 1, 0, print)
    watch.look(1, {}, {"skipped": jnp.int32(0)})
    watch.look(2, {}, {"skipped": NotYet()})
    with pytest.raises(AssertionError, match="only just"):
        watch.look(3, {}, {"skipped": jnp.int32(0)})


BAD = {"skipped": 1, "skipped_in_a_row": 1, "loss": 9.0, "grad_norm": 70.0, "updates": 3}


def test_each_process_keeps_its_own_rows(tmp_path, monkeypatch):
    monkeypatch.setattr(jax, "process_count", lambda: 2)
    monkeypatch.setattr(jax, "process_index", lambda: 1)
    watch = SkipWatch(tmp_path, 1, 0, print)
    watch.look(7, {"x": np.arange(3), "file": np.ones(2)}, BAD)
    with pytest.raises(UserError, match=r"a spike: loss 9, grad_norm 70"):
        watch.settle()
    with np.load(tmp_path / "bad_batch_7_1.npz") as batch:
        assert batch["x"].tolist() == [0, 1, 2] and batch["file"].tolist() == [1, 1]


def test_run_ends_with_its_reason_where_the_batch_cannot_be_kept(tmp_path):
    watch = SkipWatch(tmp_path / "gone", 1, 0, print)
    watch.look(7, {"x": np.arange(3)}, BAD)
    with pytest.raises(UserError, match=r"Step 7: .*could not be kept: .*bad_batch_7.npz"):
        watch.settle()


@pytest.mark.parametrize("options", [dict(max_skipped=0), dict(spike_sigmas=0.0)])
def test_settings_without_sense_are_refused(options):
    (name,) = options
    with pytest.raises(ValueError, match=f"train.{name}=0"):
        dataclasses.replace(TrainConfig(), **options)

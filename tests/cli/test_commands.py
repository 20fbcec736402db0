"""train.py and eval.py as a user runs them."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from transformer_jax.cli import evaluate as evaluate_cli
from transformer_jax.cli import train as train_cli
from transformer_jax.cli.config_file import load_config, parse_overrides
from transformer_jax.cli.run_config import CLASSES
from transformer_jax.training.config_json import classes_in, from_json, to_json

ROOT = Path(__file__).parents[2]
TINY = [
    "--config", str(ROOT / "configs" / "transformer_small.py"),
    "--model.vocab-size", "32",
    "--model.width", "16",
    "--model.num-heads", "2",
    "--model.feed-forward-dim", "16",
    "--model.no-unroll",
    "--data.row-length", "16",
    "--train.steps", "20",
    "--train.log-every", "2",
    "--train.checkpoint-every", "4",
]  # fmt: skip


def command(script, *args, devices=1):
    """Runs a script on so many simulated devices; its result with stdout and stderr."""
    flags = f"--xla_force_host_platform_device_count={devices}"
    env = os.environ | {"JAX_PLATFORMS": "cpu", "XLA_FLAGS": flags}
    return subprocess.run(
        [sys.executable, script, *map(str, args)],
        capture_output=True, text=True, cwd=ROOT, env=env, timeout=300,
    )  # fmt: skip


@pytest.fixture(scope="module")
def run_on_8(tmp_path_factory, pairs_folder):
    workdir = tmp_path_factory.mktemp("run")
    mesh = ["--mesh.data", "2", "--mesh.fsdp", "2", "--mesh.model", "2"]
    args = [*TINY, "--workdir", workdir, "--data.path", pairs_folder, *mesh]
    done = command("train.py", *args, "--train.stop_at", "4", devices=8)
    assert done.returncode == 0, done.stderr
    assert "Traceback" not in done.stderr
    return workdir, args, done


def test_plain_lines_show_loss_speed_and_time_left(run_on_8):
    lines = run_on_8[2].stdout.splitlines()
    (line,) = [line for line in lines if line.startswith("step 2/4")]
    assert all(word in line for word in ("loss", "tokens/s", "ETA"))
    assert any("mesh {'data': 2, 'fsdp': 2, 'context': 1, 'model': 2}" in line for line in lines)


def test_saved_on_8_devices_evaluated_on_1_last_line_is_json(run_on_8):
    workdir = run_on_8[0]
    done = command("eval.py", "--workdir", workdir)
    assert done.returncode == 0, done.stderr
    metrics = json.loads(done.stdout.splitlines()[-1])
    assert {"bleu", "chrf", "loss", "step", "split"} <= metrics.keys()
    assert metrics["step"] == 4
    assert json.loads((workdir / "eval_test.json").read_text()) == metrics
    assert (workdir / "loss.png").read_bytes().startswith(b"\x89PNG")
    assert done.stdout.count("reference ") == 10
    on_8 = command("eval.py", "--workdir", workdir, devices=8)
    assert json.loads(on_8.stdout.splitlines()[-1])["loss"] == pytest.approx(
        metrics["loss"], rel=1e-5
    )


def test_run_goes_on_with_another_number_of_devices(run_on_8):
    workdir, args, _ = run_on_8
    single = ["--mesh.data", "1", "--mesh.fsdp", "1", "--mesh.model", "1"]
    done = command("train.py", *args, *single, "--train.stop_at", "6")
    assert done.returncode == 0, done.stderr
    assert "restored step 4 of 6" in done.stdout
    steps = [json.loads(line)["step"] for line in (workdir / "metrics.jsonl").open()]
    assert steps == sorted(steps) and steps[-1] == 6


@pytest.mark.parametrize(
    "files,args,message",
    [
        ({}, [], "is no existing folder"),
        ({"train.tsv": b"no tab here\n"}, [], "train.tsv:1"),
        ({"train.tsv": b"a b\tc d\n\xff\xfe\tx\n"}, [], "train.tsv:2"),
        ({"train.tsv": b""}, [], "train.tsv"),
        ({"train.tsv": b"a\tb\n" * 40}, [], "vocab"),
        ({"train.tsv": b"a\tb\n"}, ["--mesh.fsdp", "3"], "does not divide the 8 devices"),
        (
            {"train.tsv": b"a\tb\n"},
            ["--config", str(ROOT / "configs" / "nothing.py")],
            "transformer_small.py",
        ),
    ],
)
def test_bad_input_gets_one_clear_message_and_no_trace(tmp_path, capfd, files, args, message):
    folder = tmp_path / "data"
    if files:
        folder.mkdir()
    for name, content in files.items():
        (folder / name).write_bytes(content)
    argv = [*TINY, "--workdir", str(tmp_path / "run"), "--data.path", str(folder), *args]
    assert train_cli.main(argv) == 1
    error = capfd.readouterr().err
    assert error.startswith("train.py: ")
    assert message in error
    assert "Traceback" not in error
    assert not (tmp_path / "run" / "config.json").exists()


@pytest.mark.parametrize(
    "args,message",
    [
        (["--model.num-heads", "3"], "num_heads=3"),
        (["--train.microbatches", "3"], "microbatches=3"),
        (["--optimizer.clip-norm", "0"], "clip_norm=0.0 must be positive"),
        (["--train.stepz", "3"], "--train.stepz"),
        (["--train.steps", "many"], "--train.steps"),
    ],
)
def test_impossible_setting_is_refused_with_its_name(tmp_path, capfd, args, message):
    with pytest.raises(SystemExit) as done:
        train_cli.main([*TINY, "--workdir", str(tmp_path / "run"), *args])
    assert done.value.code == 2
    error = capfd.readouterr().err
    assert message in error and "Traceback" not in error
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("kind", ["file", "damaged"])
def test_folder_that_is_none_is_refused(tmp_path, capfd, pairs_folder, kind):
    workdir = tmp_path / "run"
    if kind == "file":
        workdir.write_text("not a folder")
        argv = [*TINY, "--workdir", str(workdir), "--data.path", str(pairs_folder)]
        assert train_cli.main(argv) == 1
        assert "cannot be used: File exists" in capfd.readouterr().err
    else:
        workdir.mkdir()
        (workdir / "config.json").write_text('{"class": "Exper')
        assert evaluate_cli.main(["--workdir", str(workdir)]) == 1
        assert "config.json is damaged" in capfd.readouterr().err


def test_too_long_pair_is_an_error_where_the_config_says_so(tmp_path, capfd, pairs_folder):
    folder = tmp_path / "data"
    folder.mkdir()
    for split in ("train", "valid", "test"):
        (folder / f"{split}.tsv").write_bytes((pairs_folder / f"{split}.tsv").read_bytes())
    with (folder / "train.tsv").open("a") as file:
        file.write("the cat " * 30 + "\tle chat\n")
    argv = [*TINY, "--workdir", str(tmp_path / "run"), "--data.path", str(folder)]
    assert train_cli.main([*argv, "--data.too-long", "error"]) == 1
    assert "Raise --data.row_length" in capfd.readouterr().err


@pytest.mark.parametrize(
    "args,message",
    [
        (["--workdir", "{tmp}/nothing"], "config.json does not exist"),
        (["--workdir", "{run}", "--split", "tests"], "'tests' is none of"),
        (["--workdir", "{run}", "--step", "3"], "has latest, best, 4"),
        (["--workdir", "{run}", "--data.path", "{tmp}/nothing"], "nothing"),
    ],
)
def test_evaluation_of_what_is_not_there_says_so(run_on_8, tmp_path, capfd, args, message):
    argv = [arg.format(tmp=tmp_path, run=run_on_8[0]) for arg in args]
    assert evaluate_cli.main(argv) == 1
    error = capfd.readouterr().err
    assert error.startswith("eval.py: ") and message in error


def test_help_lists_typed_overrides(capfd):
    with pytest.raises(SystemExit) as done:
        train_cli.main([*TINY[:2], "--help"])
    assert done.value.code == 0
    text = capfd.readouterr().out
    flags = ("data.path", "train.steps", "train.stop-at", "train.seed", "mesh.data", "mesh.fsdp")
    for flag in (*flags, "mesh.model", "profile", "optimizer.schedule.peak"):
        assert f"--{flag}" in text


def test_no_config_prints_how_to_use_it(capfd):
    assert train_cli.main([]) == 2
    assert "--config FILE --workdir DIR" in capfd.readouterr().err
    assert train_cli.main(["--help"]) == 0


@pytest.mark.parametrize("name", sorted(p.stem for p in (ROOT / "configs").glob("trans*.py")))
def test_every_config_goes_through_json_and_back(name):
    config = load_config(ROOT / "configs" / f"{name}.py")
    again = from_json(json.loads(json.dumps(to_json(config))), CLASSES)
    assert again == config
    assert classes_in(config) <= CLASSES


def test_overrides_change_the_config_and_nothing_else():
    config = load_config(ROOT / "configs" / "translate_demo.py")
    _, same = parse_overrides(config, ["--workdir", "x"], "")
    assert same == config
    run, other = parse_overrides(config, ["--workdir", "x", "--profile", "--train.seed", "7"], "")
    assert run.profile and other.train.seed == 7
    assert to_json(other) | {"train": None} == to_json(config) | {"train": None}


@pytest.mark.parametrize("name", sorted(p.stem for p in (ROOT / "configs").glob("trans*.py")))
def test_every_translation_config_trains_one_shrunk_step(name, tmp_path, pairs_folder, capfd):
    shrunk = TINY[2:] + ["--model.encoder-layers", "2", "--model.decoder-layers", "2"]
    argv = ["--config", str(ROOT / "configs" / f"{name}.py"), "--workdir", str(tmp_path), *shrunk]
    argv += ["--data.path", str(pairs_folder), "--train.stop-at", "1", "--train.batch-size", "8"]
    assert train_cli.main(argv) == 0, capfd.readouterr().err
    assert "step 1/1" in capfd.readouterr().out

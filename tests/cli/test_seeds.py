"""Runs with several seeds: each as it is alone, with one compilation, and their spread."""

import json

import numpy as np
import pytest

from tests.cli.encoders import write_encoder
from tests.tasks.fine_tuning import flags as flags_of
from transformer_jax.cli import evaluate, train
from transformer_jax.training import loop
from transformer_jax.training.seeds import seed_folders, spread, spread_table


@pytest.fixture
def flags(translation_config):
    steps = "--train.steps 4 --train.checkpoint_every 2 --train.log_every 1"
    return ["--config", str(translation_config), *steps.split()]


def losses(folder):
    lines = (folder / "metrics.jsonl").read_text().splitlines()
    return [json.loads(line)["loss"] for line in lines]


def test_seeds_are_trained_as_each_alone_with_one_compilation(flags, tmp_path, capfd, monkeypatch):
    made = []
    compile_ = loop.make_programs
    monkeypatch.setattr(loop, "make_programs", lambda *args: made.append(args) or compile_(*args))
    assert train.main([*flags, "--workdir", str(tmp_path / "all"), "--seeds", "3"]) == 0
    out = capfd.readouterr().out
    assert len(made) == 1
    folders = seed_folders(tmp_path / "all")
    assert [folder.name for folder in folders] == ["seed_0", "seed_1", "seed_2"]
    assert "over 3 seeds: median (least to most)\nvalid_loss: " in out
    alone = tmp_path / "alone"
    assert train.main([*flags, "--workdir", str(alone), "--train.seed", "2"]) == 0
    np.testing.assert_array_equal(losses(folders[2]), losses(alone))
    assert losses(folders[0]) != losses(folders[1])
    capfd.readouterr()
    assert train.main([*flags, "--workdir", str(tmp_path / "all"), "--seeds", "3"]) == 0
    assert "some were finished before" in capfd.readouterr().out
    assert evaluate.main(["--workdir", str(tmp_path / "all")]) == 0
    lines = capfd.readouterr().out.splitlines()
    found = json.loads(lines[-1])
    assert found["seeds"] == 3 and found["loss_least"] <= found["loss"] <= found["loss_most"]
    assert any(line.startswith("bleu: ") for line in lines)


@pytest.mark.parametrize("more", [["--seeds", "0"], ["--seeds", "2", "--profile"]])
def test_what_cannot_be_is_refused(flags, tmp_path, more, capfd):
    assert train.main([*flags, "--workdir", str(tmp_path / "run"), *more]) == 1
    assert "must be at least 1, and goes without --profile" in capfd.readouterr().err
    assert not (tmp_path / "run").exists()


def test_the_spread_is_of_the_figures_that_all_have():
    found = [{"a": 3, "b": 1.0, "split": "test"}, {"a": 1}, {"a": 2, "b": 0.0}]
    assert spread(found) == {"seeds": 3, "a": 2, "a_least": 1, "a_most": 3}
    assert spread_table(spread(found)).splitlines() == [
        "over 3 seeds: median (least to most)",
        "a: 2 (1 to 3)",
    ]


def test_seeds_of_a_fine_tuning_have_a_spread_and_files_of_each_data_set(
    tmp_path, capfd, quick_compilation
):
    """Of MNLI, whose second validation set does not take the place of the first one's figures."""
    write_encoder(tmp_path / "start", "encoder")
    head = "index\tsentence1\tsentence2\tgold_label"
    classes = ("entailment", "neutral", "contradiction")
    rows = [f"{i}\twa wb\tw{'cde'[i % 3]} wf\t{classes[i % 3]}" for i in range(12)]
    for name in ("train", "dev_matched", "dev_mismatched"):
        (tmp_path / f"{name}.tsv").write_text("\n".join([head, *rows]) + "\n")
    run, more = tmp_path / "run", "--optimizer.frozen embedding --optimizer.frozen_layers 1"
    rows = dict(row_length=40, row_examples=4)
    steps = "--train.steps 2 --train.checkpoint_every 2 --seeds 2".split()
    arguments = flags_of("classify", f"glue:mnli:{tmp_path}", tmp_path / "start", run, rows, *steps)
    assert train.main([*arguments, *more.split()]) == 0, capfd.readouterr().err
    capfd.readouterr()
    for name in ("mnli", "mnli_mismatched"):
        where = ["--data.path", f"glue:{name}:{tmp_path}", "--split", "valid"]
        assert evaluate.main(["--workdir", str(run), *where]) == 0, capfd.readouterr().err
        found = json.loads(capfd.readouterr().out.splitlines()[-1])
        assert found["seeds"] == 2 and found["accuracy_least"] <= found["accuracy"]
    names = {path.name for path in (run / "seed_1").glob("eval_*.json")}
    assert names == {"eval_valid.json", "eval_valid_mnli_mismatched.json"}

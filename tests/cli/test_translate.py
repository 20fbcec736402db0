"""Lines in, one translation a line out, whatever the lines are."""

import io
import sys

import pytest

from transformer_jax.cli import train as train_cli
from transformer_jax.cli import translate as translate_cli
from transformer_jax.cli.config_file import load_config


@pytest.fixture(scope="module")
def run(tmp_path_factory, pairs_folder):
    """A run that has learned the tiny language a little."""
    folder = tmp_path_factory.mktemp("translate")
    config = folder / "config.py"
    config.write_text(
        "import dataclasses\n"
        "from transformer_jax.models.transformer import TransformerConfig\n"
        "from transformer_jax.tasks.translation import TranslationConfig\n"
        "from transformer_jax.tasks.translation_data import TranslationData\n"
        "from transformer_jax.training.config import ExperimentConfig, TrainConfig\n"
        "from transformer_jax.training.optimizer import OptimizerConfig\n"
        "from transformer_jax.training.schedules import WarmupLinear\n"
        "def get_config():\n"
        "    return ExperimentConfig(\n"
        "        TranslationConfig(),\n"
        "        TransformerConfig(32, 32, 2, 64, 1, 1, dropout_rate=0.0, norm_first=True),\n"
        f"        TranslationData({str(pairs_folder)!r}, row_length=48),\n"
        "        OptimizerConfig(WarmupLinear(1e-2, 20), clip_norm=1.0),\n"
        "        TrainConfig(steps=250, batch_size=16, log_every=50, checkpoint_every=250))\n"
    )
    assert load_config(config).train.steps == 250
    workdir = folder / "run"
    assert train_cli.main(["--config", str(config), "--workdir", str(workdir)]) == 0
    return workdir


@pytest.fixture
def translate(run, monkeypatch, capfd):
    def call(data, *options):
        capfd.readouterr()
        stdin = io.TextIOWrapper(io.BytesIO(data))
        monkeypatch.setattr(sys, "stdin", stdin)
        assert translate_cli.main(["--model", str(run), *options]) == 0
        out, err = capfd.readouterr()
        assert out == "" or out.endswith("\n")
        return out.split("\n")[:-1], err

    return call


def test_translates_what_it_has_learned(translate):
    lines, err = translate(b"the cat sees\nred house\n")
    assert lines == ["le chat voit", "rouge maison"]
    assert err == ""


def test_order_is_kept_and_empty_lines_stay_empty(translate):
    sentences = ["red house", "", "the cat sees", "   ", "blue dog"]
    lines, _ = translate("\n".join(sentences).encode())  # and no newline at the end
    assert len(lines) == 5
    assert lines[1] == lines[3] == ""
    assert [lines[i] for i in (0, 2, 4)] == [
        translate(sentences[i].encode())[0][0] for i in (0, 2, 4)
    ]


def test_odd_lines_are_said_on_stderr_and_lose_no_line(translate):
    data = b"red house\n\xff\xfe red\n\xf0\x9f\x98\x80 \xf0\x9f\x98\x80\nthe\x00cat\n" + (
        b"red house " * 5000 + b"\nblue dog\r\n"
    )
    lines, err = translate(data, "--max-tokens", "64")
    assert len(lines) == 6
    assert lines[0] == translate(b"red house\n")[0][0]
    assert lines[5] == translate(b"blue dog\n")[0][0]
    assert "line 2 is not UTF-8" in err
    assert "line 5 has" in err and "cut to 64" in err
    assert err.count("\n") == 2


def test_n_best_come_best_first_with_their_scores(translate):
    lines, _ = translate(b"red house\n\nblue dog\n", "--n-best", "3", "--scores")
    assert len(lines) == 9
    assert lines[3:6] == ["0.0000\t"] * 3
    for group in (lines[:3], lines[6:]):
        scores = [float(line.split("\t")[0]) for line in group]
        assert scores == sorted(scores, reverse=True) and scores[0] <= 0.0
        assert len({line.split("\t")[1] for line in group}) == 3
    best, _ = translate(b"red house\n\nblue dog\n")
    assert [lines[i].split("\t")[1] for i in (0, 3, 6)] == best


def test_no_input_gives_no_output(translate):
    assert translate(b"") == ([], "")


@pytest.mark.parametrize(
    "options,message",
    [
        (["--model", "nowhere"], "not the folder of a run"),
        (["--n-best", "5"], "--n-best 5 must be 1 to --beam-size 4"),
        (["--step", "7"], "has latest, best, 250"),
    ],
)
def test_what_cannot_be_is_refused(run, capfd, options, message):
    assert translate_cli.main(["--model", str(run), *options]) == 1
    out, err = capfd.readouterr()
    assert out == "" and message in err

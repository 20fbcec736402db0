"""Lines in, one JSON object a line out, whatever the lines are."""

import io
import json
import shutil
import sys

import pytest

from tests.tasks.small_texts import write_texts
from transformer_jax.cli import fill_mask as fill_mask_cli
from transformer_jax.cli import train as train_cli
from transformer_jax.cli.run_config import read_run_config
from transformer_jax.training.restore import restore_run

CONFIG = """
from transformer_jax.models.bert import BertConfig
from transformer_jax.tasks.bert_data import BertData
from transformer_jax.tasks.masked_lm import MaskedLmConfig
from transformer_jax.training.config import ExperimentConfig, TrainConfig
from transformer_jax.training.optimizer import OptimizerConfig
from transformer_jax.training.schedules import WarmupLinear

def get_config():
    return ExperimentConfig(
        MaskedLmConfig(),
        BertConfig(
            64, 16, 2, 16, 1, max_positions=24, init_std=0.3, dropout_rate=0.0,
            attention_dropout_rate=0.0,
        ),
        BertData(FOLDER, row_length=24),
        OptimizerConfig(WarmupLinear(0.1, 1)),
        train=TrainConfig(steps=3, stop_at=2, batch_size=8, checkpoint_every=1),
    )
"""


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """The folder of a run whose text is no longer there."""
    folder = tmp_path_factory.mktemp("fill")
    text = folder / "text"
    text.mkdir()
    write_texts(text)
    (folder / "config.py").write_text(CONFIG.replace("FOLDER", repr(str(text))))
    options = ["--config", str(folder / "config.py"), "--workdir", str(folder / "run")]
    assert train_cli.main(options) == 0
    shutil.rmtree(text)
    return folder / "run"


@pytest.fixture
def fill(run, monkeypatch, capfd):
    def call(data, *options):
        capfd.readouterr()
        monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(data)))
        assert fill_mask_cli.main(["--model", str(run), *options]) == 0
        out, err = capfd.readouterr()
        assert out == "" or out.endswith("\n")
        return [json.loads(line) for line in out.split("\n")[:-1]], err

    return call


def test_lines_give_what_the_filler_gives_in_their_order(run, fill, monkeypatch):
    monkeypatch.setattr(fill_mask_cli, "CHUNK", 4)  # and the last lines are fewer
    lines = ["the [MASK] sees", "a <mask> and a [MASK]", "[MASK]", "red [MASK] \u4e2d", "x [MASK]"]
    lines += ["the cat likes the [MASK]."]
    found, err = fill("\n".join(lines).encode(), "--top", "3")  # and no newline at the end
    assert err == "" and len(found) == len(lines)
    restored = restore_run(read_run_config(run), run)
    filler = restored.task.mask_filler(restored.params, top=3)
    for line, got in zip(lines, found, strict=True):
        (want,) = filler([line])
        assert got["text"] == want.text and got.keys() == {"text", "masks"}
        assert len(got["masks"]) == line.count("[MASK]") + line.count("<mask>")
        for guesses, wanted in zip(got["masks"], want.masks, strict=True):
            assert [guess["token"] for guess in guesses] == [token for token, _ in wanted]
            for guess, (_, share) in zip(guesses, wanted, strict=True):
                assert guess["probability"] == pytest.approx(share, abs=1e-4)


def test_every_line_gives_one_line_and_what_is_wrong_is_said(fill):
    data = b"the cat\n\n" + b"the " * 10_000 + b"[MASK]\n\xff\xfe [MASK]\r\nthe [MASK]"
    found, err = fill(data)
    assert len(found) == 5
    assert [line["text"] for line in found[:2]] == ["the cat", ""]
    assert [line.get("error") for line in found] == [
        "has no [MASK]",
        "has no [MASK]",
        "has more than 24 tokens, the positions of the model",
        None,
        None,
    ]
    assert found[3]["text"].startswith("\ufffd\ufffd ")
    assert [len(line["masks"][0]) for line in found[3:]] == [5, 5]
    said = err.splitlines()
    assert len(said) == 4 and all(line.startswith("fill_mask: line ") for line in said)
    for number in range(1, 5):
        assert any(line.startswith(f"fill_mask: line {number} ") for line in said)


def test_no_line_gives_no_line(fill):
    assert fill(b"") == ([], "")


def test_steps_are_chosen(fill):
    (first,), _ = fill(b"the [MASK]\n", "--step", "1")
    (last,), _ = fill(b"the [MASK]\n", "--step", "2")
    assert first["masks"] != last["masks"]
    assert fill(b"the [MASK]\n")[0] == [last]


@pytest.mark.parametrize(
    "options,message",
    [
        (["--model", "nowhere"], "not the folder of a run"),
        (["--top", "0"], "--top 0 must be 1 to 64"),
        (["--top", "65"], "--top 65 must be 1 to 64"),
        (["--step", "7"], "has latest, best, 1, 2"),
    ],
)
def test_what_cannot_be_is_refused_in_one_line(run, capfd, options, message):
    assert fill_mask_cli.main(["--model", str(run), *options]) == 1
    out, err = capfd.readouterr()
    assert out == "" and message in err
    assert err.startswith("fill_mask: ") and err.count("\n") == 1


def test_the_run_of_another_task_is_refused_in_one_line(tmp_path, translation_config, capfd):
    options = ["--config", str(translation_config), "--workdir", str(tmp_path / "run")]
    assert train_cli.main([*options, "--train.stop-at", "1"]) == 0
    capfd.readouterr()
    assert fill_mask_cli.main(["--model", str(tmp_path / "run")]) == 1
    out, err = capfd.readouterr()
    assert out == "" and err.count("\n") == 1
    assert "is no run of a masked language model" in err

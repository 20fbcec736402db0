"""The attention of a restored model as files, from the command line."""

import numpy as np
import pytest

from tests.cli.encoders import write_encoder
from transformer_jax.cli import attention as attention_cli

PNG = b"\x89PNG\r\n\x1a\n"


@pytest.fixture
def attention(translation_run, tmp_path, capfd):
    def call(*options):
        capfd.readouterr()
        output = ["--output", str(tmp_path / "page.html")]
        code = attention_cli.main(["--model", str(translation_run), *output, *options])
        return (code, *capfd.readouterr())

    return call


def test_writes_the_page_the_picture_and_the_arrays(attention, tmp_path):
    png, arrays = tmp_path / "map.png", tmp_path / "maps.npz"
    code, out, err = attention("the cat sees", "--png", str(png), "--arrays", str(arrays))
    assert (code, err) == (0, "")
    assert out.startswith("the cat sees → le chat voit\n")
    page = (tmp_path / "page.html").read_text()
    assert "le chat voit" in page
    assert "http://" not in page and "https://" not in page, "it needs no network"
    assert png.read_bytes().startswith(PNG)
    with np.load(arrays) as saved:
        weights = saved["cross.weights"]  # [layers, heads, T, S]
        assert weights.shape[:2] == (1, 2)
        np.testing.assert_allclose(weights.sum(axis=-1), 1.0, rtol=1e-5)


def test_a_translation_may_be_given(attention):
    code, out, _ = attention("the cat sees", "--translation", "rouge maison")
    assert code == 0 and out.startswith("the cat sees → rouge maison\n")


@pytest.mark.parametrize(
    "options,message",
    [
        (["", "--head", "0"], "The sentence is empty"),
        (["red", "--png", "x.png", "--layer", "9"], "layer"),
        (["red", "--png", "x.png", "--head", "2"], "head"),
        (["red", "--png", "x.png", "--part", "middle"], "middle"),
        (["red", "--step", "7"], "has latest, best, 250"),
        (["red", "--model", "nowhere"], "not the folder of a run"),
        (["red", "--output", "missing/page.html"], "missing"),
    ],
)
def test_what_cannot_be_is_refused(attention, tmp_path, monkeypatch, options, message):
    monkeypatch.chdir(tmp_path)
    code, out, err = attention(*options)
    assert code == 1 and message in err and err.startswith("attention: "), err
    assert out == ""
    assert not (tmp_path / "x.png").exists()


@pytest.mark.parametrize("second", [None, "we wf"])
def test_an_encoder_is_shown_while_it_reads(tmp_path, capfd, second):
    write_encoder(tmp_path / "model", "classification", labels=("no", "yes"))
    output, arrays, png = (tmp_path / name for name in ("page.html", "maps.npz", "map.png"))
    options = ["--model", str(tmp_path / "model"), "--output", str(output)]
    options += ["--arrays", str(arrays), "--png", str(png), "wa wb"]
    assert attention_cli.main(options + [second] * (second is not None)) == 0
    title = "wa wb" if second is None else "wa wb / we wf"
    assert capfd.readouterr().out.startswith(f"{title}\n")
    assert title in output.read_text() and png.read_bytes().startswith(PNG)
    with np.load(arrays) as saved:
        weights = saved["encoder.weights"]
    assert weights.shape[:2] == (2, 2) and weights.shape[2] >= (4 if second is None else 7)
    np.testing.assert_allclose(weights.sum(axis=-1), 1.0, rtol=1e-5)


def test_what_is_of_the_other_kind_is_refused(tmp_path, attention, capfd):
    code, _, err = attention("the cat", "a second text")
    assert code == 1 and "A second text is for encoders" in err
    write_encoder(tmp_path / "model", "encoder")
    code, _, err = attention("wa", "--model", str(tmp_path / "model"), "--translation", "x")
    assert code == 1 and "--translation is for translations" in err

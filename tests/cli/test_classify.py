"""Classes and scores of lines: those of each line alone."""

import io
import json
import sys

import jax
import numpy as np
import pytest

from tests.cli.encoders import alone, write_encoder
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
    for i in (0, 1, 2):
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


def test_a_model_without_such_a_head_is_refused(tmp_path, monkeypatch, capfd):
    write_encoder(tmp_path, "tagging", labels=("O", "B-x"), pooler=False)
    code, found, err = classify(tmp_path, b"wa\n", monkeypatch, capfd)
    assert (code, found) == (1, []) and "holds no 'classification'" in err

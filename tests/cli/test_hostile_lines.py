"""Tools that answer lines: any bytes give as many answers as lines, and nothing else ends them."""

import io
import json
import sys

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.cli.encoders import write_encoder
from transformer_jax.cli import answer, classify, embed, lines, tag
from transformer_jax.cli.lines import answer_lines
from transformer_jax.errors import UserError

pytestmark = pytest.mark.usefixtures("quick_compilation")

KINDS = {
    "classify": ("classification", classify, ("no", "yes")),
    "tag": ("tagging", tag, ("O", "B-x", "I-x")),
    "answer": ("reading", answer, ()),
}
PARTS = [
    *(b"wa", b"wb ", b"[MASK]", b"\xe4\xb8\xad", b"\xef\xbb\xbf", b'"', b"\\ud800"),
    *(b"\xff", b"\xed\xa0\x80", b"\x85", b"\xe2\x80\xa8"),
    *(bytes([i]) for i in b" \t\0\r\x0b\x0c\x1b\x1c"),
]
LINE = st.lists(st.sampled_from(PARTS), max_size=8).map(b"".join)
RECORD = st.fixed_dictionaries(
    {"question": st.sampled_from(["", "wa", "\ud800", "\0"]), "context": st.text(max_size=12)}
).map(lambda record: json.dumps(record).encode())
ODD = [
    b"",
    b"\0",
    b"\xff\xfe",
    b"wawbwcwdwe " * 95_000,  # a megabyte
    b"x" * 1_000_000,
    b"\xcc\x81" * 500_000,  # marks without a letter
    b"[" * 100_000,
    b'{"question": "wa", "context": ' + b"[" * 100_000,
    b'{"question": 1, "context": "wa"}',
    b'{"question": "wa", "question": "wb", "context": "wa"}',
    b'{"question": "wa", "context": NaN}',
    b'{"question": "\\ud800 wa", "context": "wb \\udfff"}',
    b"9" * 10_000,
]


@pytest.fixture(scope="module", params=KINDS)
def tool(request, tmp_path_factory):
    """A tool with a small model: what it makes of some lines, and the arguments for its main."""
    kind, module, labels = KINDS[request.param]
    folder = tmp_path_factory.mktemp(request.param)
    write_encoder(folder, kind, labels=labels, pooler=kind == "classification")
    args = module._parser().parse_args(["--model", str(folder)])
    return request.param, module._open(args)


def run(tool, data, capfd, monkeypatch, chunk=3):
    name, opened = tool
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(data)))
    capfd.readouterr()
    code = answer_lines(name, lambda: opened, chunk)
    out, err = capfd.readouterr()
    assert code == 0, err
    return [json.loads(line) for line in out.split("\n")[:-1]], err


@settings(suppress_health_check=list(HealthCheck), max_examples=40)
@given(data=st.lists(LINE | RECORD, max_size=4))
def test_any_bytes_give_one_answer_a_line(tool, data, capfd, monkeypatch):
    found, _ = run(tool, b"\n".join(data) + b"\n", capfd, monkeypatch)
    assert len(found) == len(b"\n".join(data).split(b"\n"))
    for record in found:
        assert record.keys() & {"label", "words", "answer", "error"}


def test_odd_lines_give_one_answer_each_and_leave_the_others_alone(tool, capfd, monkeypatch):
    good = b'{"question": "wa", "context": "wa wb"}' if tool[0] == "answer" else b"wa wb"
    data = b"\n".join([good, *ODD, good])
    found, err = run(tool, data, capfd, monkeypatch, chunk=1)
    assert len(found) == len(ODD) + 2
    assert found[0] == found[-1] and "error" not in found[0]
    assert "line 4 is not UTF-8" in err
    if tool[0] == "answer":
        assert ["error" in record for record in found[1:-1]] == [True] * 11 + [False, True]
        assert err.count("is no JSON") == 11 and err.count('has no "question"') == 1


def test_a_bom_is_no_part_of_the_first_line(tool, capfd, monkeypatch):
    good = b'{"question": "wa", "context": "wa wb"}' if tool[0] == "answer" else b"wa wb"
    with_bom, _ = run(tool, b"\xef\xbb\xbf" + good + b"\r\n" + good, capfd, monkeypatch)
    assert with_bom[0] == with_bom[1] and "error" not in with_bom[0]


def test_a_line_without_an_end_is_refused_and_not_kept(tool, capfd, monkeypatch):
    monkeypatch.setattr(lines, "_LONGEST", 1000)
    name, opened = tool

    class Endless(io.RawIOBase):
        def readable(self):
            return True

        def readinto(self, buffer):
            buffer[:] = bytes(len(buffer))
            return len(buffer)

    stdin = io.TextIOWrapper(io.BufferedReader(Endless()))
    monkeypatch.setattr(sys, "stdin", stdin)
    assert answer_lines(name, lambda: opened, 3) == 1
    assert "line 1 has more than 1,000 bytes" in capfd.readouterr().err


def test_vectors_are_as_many_as_lines(tmp_path, monkeypatch, capfd):
    write_encoder(tmp_path, "encoder", pooler=True)
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(b"\n".join(ODD))))
    options = ["--model", str(tmp_path), "--output", str(tmp_path / "out.npy")]
    assert embed.main(options) == 0
    assert f"{len(ODD)} vectors of 16" in capfd.readouterr().out


def test_labels_of_a_model_cannot_break_a_line(tmp_path):
    """A lone surrogate could not be printed; so it is no label."""
    write_encoder(tmp_path, "classification", labels=("no", "yes"))
    config = json.loads((tmp_path / "config.json").read_text())
    config["id2label"] = {"0": "a\nb", "1": "\ud800"}
    (tmp_path / "config.json").write_text(json.dumps(config))
    args = classify._parser().parse_args(["--model", str(tmp_path)])
    with pytest.raises(UserError, match="id2label=.* cannot be"):
        classify._open(args)

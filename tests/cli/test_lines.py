"""Tools that answer lines: what they return and say, whatever ends them."""

import io
import subprocess
import sys

import pytest

from transformer_jax.cli.lines import answer_lines
from transformer_jax.errors import UserError


@pytest.fixture
def answer(monkeypatch, capfd):
    def call(data, make, chunk=2):
        monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(data)))
        code = answer_lines("tool", make, chunk)
        return code, *capfd.readouterr()

    return call


def numbered(lines, first):
    return [f"{number} {line}" for number, line in enumerate(lines, first)]


def test_lines_are_answered_in_chunks(answer):
    code, out, err = answer(b"a\n b \r\n\nd", lambda: numbered)
    assert (code, out, err) == (0, "1 a\n2 b\n3 \n4 d\n", "")


def test_what_is_not_utf8_is_replaced_and_said(answer):
    code, out, err = answer(b"a\nb\n\xff\n", lambda: numbered)
    assert (code, out) == (0, "1 a\n2 b\n3 \ufffd\n")
    assert err == "tool: line 3 is not UTF-8; what cannot be read is replaced\n"


@pytest.mark.parametrize(
    ("error", "code", "said"),
    [
        (UserError("no such model"), 1, "tool: no such model\n"),
        (KeyboardInterrupt(), 130, "\ntool: stopped\n"),
    ],
)
@pytest.mark.parametrize("when", ["at the start", "at work"])
def test_errors_and_ctrl_c_give_one_line(answer, when, error, code, said):
    def fail(*_):
        raise error

    assert answer(b"a\n", fail if when == "at the start" else lambda: fail) == (code, "", said)


@pytest.mark.parametrize("reader", ["true", "cat"])
def test_output_is_utf8_in_any_locale_and_a_reader_may_leave(reader):
    program = "from transformer_jax.cli.lines import answer_lines as a;"
    program += (
        "raise SystemExit(a('tool', lambda: lambda lines, _: [line * 9999 for line in lines], 1))"
    )
    command = f"yes \u4e2d | head -n 20 | '{sys.executable}' -c \"{program}\"; echo $? >&2"
    environment = {
        "LC_ALL": "C",
        "PYTHONUTF8": "0",
        "PYTHONCOERCECLOCALE": "0",
        "PATH": "/usr/bin:/bin",
    }
    done = subprocess.run(
        ["sh", "-c", f"({command}) | {reader}"], capture_output=True, env=environment, timeout=60
    )
    assert done.stderr == b"0\n"
    assert done.stdout.decode() == ("\u4e2d" * 9999 + "\n") * 20 * (reader == "cat")

"""The command that prepares rows: its table and refusals, and that a kill costs nothing."""

import os
import random
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from transformer_jax.cli import prepare
from transformer_jax.data.prepared_rows import PreparedRows
from transformer_jax.data.subword_tokenizers import load_tokenizer
from transformer_jax.files import alone_in, temporary_beside

WORDS = "the red green blue cat dog house tree river stone sees likes finds brings and or".split()


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    folder = tmp_path_factory.mktemp("corpus")
    draw = random.Random(0)
    for split, count in (("train", 600), ("valid", 12), ("test", 12)):
        documents = [
            "\n".join(" ".join(draw.choices(WORDS, k=draw.randint(3, 9))) for _ in range(4))
            for _ in range(count)
        ]
        (folder / f"{split}.txt").write_text("\n\n".join(documents))
    return folder


def options(corpus, output, *others):
    return [
        *("--path", str(corpus), "--output", str(output), "--tokenizer", "wordpiece"),
        *("--vocab-size", "60", "--row-length", "32", "--shard-bytes", "1500", *others),
    ]


@pytest.fixture(scope="module")
def made(tmp_path_factory, corpus):
    """Rows that one process prepared at one go; not to be changed."""
    folder = tmp_path_factory.mktemp("made") / "rows"
    assert prepare.main(options(corpus, folder, "--workers", "1")) == 0
    return folder


def bytes_of(folder):
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir())}


def test_it_prints_the_shards_and_stores_the_tokenizer(made, corpus, capfd):
    before = bytes_of(made)
    assert prepare.main(options(corpus, made, "--workers", "1")) == 0
    assert bytes_of(made) == before
    lines = [line.strip("| ").split(" | ") for line in capfd.readouterr().out.splitlines()]
    assert lines[0] == ["shard", "documents", "rows", "tokens", "filled"]
    assert lines[2][0].startswith("train-00000-of-") and lines[2][0].endswith(".array_record")
    totals = {line[0].strip("*"): line[1:] for line in lines if line[0].startswith("**")}
    assert totals.keys() == {"train", "valid", "test"} and totals["train"][0] == "600"
    for split, (_, count, tokens, filled) in totals.items():
        rows = PreparedRows(made, split)
        stored = np.count_nonzero(rows.build(rows.plan(0, seed=0)[:])["segments"])
        assert (count, tokens) == (f"{len(rows):,}", f"{stored:,}")
        assert filled == f"{rows.filled(rows.plan(0, seed=0)):.1%}"
        tokenizer = load_tokenizer(made / rows.settings["tokenizer"]["file"])
        assert tokenizer.fingerprint == rows.settings["tokenizer"]["fingerprint"]


@pytest.mark.skipif(sys.platform != "linux", reason="finds the workers in /proc")
def test_killed_at_any_time_it_goes_on_to_the_same_bytes(made, corpus, tmp_path):
    folder = tmp_path / "rows"
    command = [sys.executable, "-m", "transformer_jax.cli.prepare", *options(corpus, folder)]
    command[-1:] = ["1500", "--workers", "2"]
    root = str(Path(prepare.__file__).parents[2])
    environment = os.environ | {"PYTHONPATH": root, "JAX_PLATFORMS": "cpu"}
    run = subprocess.Popen(command, env=environment, stderr=subprocess.DEVNULL)
    try:
        while not list(folder.glob("train-*.json")):  # the first shard is done
            assert run.poll() is None
            time.sleep(0.001)
        workers = Path(f"/proc/{run.pid}/task/{run.pid}/children").read_text().split()
    finally:
        run.send_signal(signal.SIGKILL)
        run.wait()
    shards = len(list(made.glob("*.array_record")))
    assert 0 < len(list(folder.glob("*.array_record"))) < shards
    assert not (folder / "rows.json").exists()
    deadline = time.monotonic() + 20
    while workers and time.monotonic() < deadline:  # they end without anyone to give them work
        workers = [pid for pid in workers if alive(pid)]
        time.sleep(0.05)
    assert not workers
    assert prepare.main(options(corpus, folder, "--workers", "1")) == 0
    assert bytes_of(folder) == bytes_of(made)


def alive(pid):
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def test_a_start_that_was_killed_while_it_trained_the_tokenizer_is_begun_anew(
    made, corpus, tmp_path
):
    folder = tmp_path / "rows"
    folder.mkdir()
    temporary_beside(folder / "tokenizer.json").write_text("{")
    (folder / "tokenizer.model").write_text("of another start")
    assert prepare.main(options(corpus, folder, "--workers", "1")) == 0
    assert bytes_of(folder) == bytes_of(made)


@pytest.mark.parametrize("kind", ["byte_bpe", "sentencepiece"])
def test_other_kinds_of_tokenizer_are_trained_and_stored(corpus, tmp_path, kind):
    size = {"byte_bpe": "300", "sentencepiece": "40"}[kind]
    arguments = options(corpus, tmp_path / "rows", "--workers", "1", "--splits", "valid")
    arguments[arguments.index("wordpiece")] = kind
    arguments[arguments.index("60")] = size
    assert prepare.main(arguments) == 0
    rows = PreparedRows(tmp_path / "rows", "valid")
    stored = load_tokenizer(tmp_path / "rows" / rows.settings["tokenizer"]["file"])
    assert stored.fingerprint == rows.settings["tokenizer"]["fingerprint"]
    assert prepare.main(arguments) == 0


def test_a_tokenizer_of_a_file_is_copied_and_another_one_is_refused(made, corpus, tmp_path, capfd):
    arguments = options(corpus, tmp_path / "rows", "--workers", "1", "--splits", "valid")
    place = arguments.index("wordpiece")
    arguments[place : place + 3] = [str(made / "tokenizer.json")]
    assert prepare.main(arguments) == 0
    copied = (tmp_path / "rows" / "tokenizer.json").read_bytes()
    assert copied == (made / "tokenizer.json").read_bytes()
    other = options(corpus, tmp_path / "other", "--workers", "1", "--splits", "valid")
    other[other.index("60")] = "50"
    assert prepare.main(other) == 0
    arguments[place] = str(tmp_path / "other")
    assert prepare.main(arguments) == 1
    assert "has rows of another tokenizer than" in capfd.readouterr().err
    arguments[place] = str(tmp_path / "nowhere")
    assert prepare.main(arguments) == 1
    assert "No tokenizer at" in capfd.readouterr().err


@pytest.mark.parametrize(
    ("changes", "complaint"),
    [
        (["--row-length", "64"], "rows of other settings: example_length is 32, not 64; row_"),
        (["--vocab-size", "50"], "asked_size is 60, not 50"),
        (["--cased"], "lowercase is True, not False"),
        (["--path", "nowhere"], "'nowhere' is no existing folder"),
        (["--tokenizer", "nowhere"], "--vocab-size 60 is for a tokenizer that is trained"),
        (["--workers", "0"], "--workers 0 must be at least 1"),
        (["--repeats", "0"], "repeats=0 must be at least 1"),
        (["--example-length", "0"], "example_length=0 must be at least 8"),
        (["--row-examples", "0"], "row_examples=0 must be at least 1"),
        (["--", "--runner=X"], "--runner=X after -- is for --engine beam"),
    ],
)
def test_what_cannot_be_done_is_refused_in_one_line(made, corpus, changes, complaint, capfd):
    before = bytes_of(made)
    assert prepare.main(options(corpus, made, "--workers", "1", *changes)) == 1
    error = capfd.readouterr().err
    assert error.startswith("prepare: ") and complaint in error and error.count("\n") == 1
    assert bytes_of(made) == before


def test_a_missing_split_is_refused_before_anything_is_made(corpus, tmp_path, capfd):
    (tmp_path / "text").mkdir()
    shutil.copy(corpus / "train.txt", tmp_path / "text")
    assert prepare.main(options(tmp_path / "text", tmp_path / "rows")) == 1
    assert (
        "has no split valid and test. Name those that it has: --splits train"
        in capfd.readouterr().err
    )
    assert not (tmp_path / "rows").exists()


def test_a_folder_of_something_else_is_not_touched(corpus, tmp_path, capfd):
    (tmp_path / "thesis.txt").write_text("mine")
    assert prepare.main(options(corpus, tmp_path)) == 1
    assert "has other files (thesis.txt) and no settings.json" in capfd.readouterr().err
    assert bytes_of(tmp_path) == {"thesis.txt": b"mine"}


def test_a_tokenizer_that_is_trained_needs_a_size(corpus, tmp_path, capfd):
    arguments = options(corpus, tmp_path / "rows")
    del arguments[arguments.index("--vocab-size") : arguments.index("60") + 1]
    assert prepare.main(arguments) == 1
    assert "--tokenizer wordpiece needs --vocab-size" in capfd.readouterr().err


def test_a_damaged_shard_is_made_anew(made, corpus, tmp_path):
    folder = shutil.copytree(made, tmp_path / "rows")
    shard = sorted(folder.glob("train-*.array_record"))[1]
    data = bytearray(shard.read_bytes())
    data[-5] ^= 1
    shard.write_bytes(data)
    assert prepare.main(options(corpus, folder, "--workers", "1")) == 0
    assert bytes_of(folder) == bytes_of(made)


def test_a_second_command_in_the_same_folder_is_refused(made, corpus, capfd):
    before = bytes_of(made)
    with alone_in(made):
        assert prepare.main(options(corpus, made)) == 1
    assert f"Another process is writing {made}" in capfd.readouterr().err
    assert bytes_of(made) == before


def test_an_error_of_the_work_itself_is_not_taken_for_another_process(tmp_path):
    with pytest.raises(BlockingIOError), alone_in(tmp_path):
        raise BlockingIOError


def test_an_output_without_a_folder_before_it_is_of_the_working_directory(
    made, corpus, tmp_path, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    started = []
    monkeypatch.setattr(prepare, "run_processes", lambda jobs, *_: started.extend(jobs))
    assert prepare.main(options(corpus, "rows")) == 1  # for nothing is made
    assert {job.folder for job in started} == {str(tmp_path / "rows")}


def test_a_tokenizer_that_is_lost_is_trained_again(made, corpus, tmp_path):
    folder = shutil.copytree(made, tmp_path / "rows")
    (folder / "tokenizer.json").unlink()
    assert prepare.main(options(corpus, folder, "--workers", "1")) == 0
    assert bytes_of(folder) == bytes_of(made)


@pytest.mark.skipif(sys.platform != "linux", reason="finds the workers in /proc")
@pytest.mark.parametrize("at", ["its start", "its work"])
def test_stopped_by_ctrl_c_it_says_one_line(corpus, tmp_path, at):
    folder = tmp_path / "rows"
    command = [sys.executable, "-m", "transformer_jax.cli.prepare", *options(corpus, folder)]
    command[-1] = "200"  # many shards
    root = str(Path(prepare.__file__).parents[2])
    environment = os.environ | {"PYTHONPATH": root, "JAX_PLATFORMS": "cpu"}
    # Who runs the tests may ignore Ctrl-C, as a shell's background jobs do, and so would the child.
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    run = subprocess.Popen(
        command, env=environment, stderr=subprocess.PIPE, text=True, start_new_session=True
    )
    signal.signal(signal.SIGINT, before)
    try:
        while not list(folder.glob("settings.json" if at == "its start" else "train-*.json")):
            assert run.poll() is None
            time.sleep(0.001)
        os.killpg(run.pid, signal.SIGINT)  # as a terminal does
        said = run.communicate(timeout=60)[1]
    finally:
        run.kill()
    assert run.returncode == 130
    lines = [line for line in said.splitlines() if line and "shards are done" not in line]
    assert lines == ["prepare: stopped; the same command goes on."]

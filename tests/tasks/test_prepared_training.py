"""Prepared rows from the command that writes them to training, evaluation and filled masks."""

import json
import shutil
from pathlib import Path

import pytest

from tests.tasks.small_texts import MODEL, ROWS, write_texts
from transformer_jax.cli import evaluate, prepare, train
from transformer_jax.data.subword_tokenizers import load_tokenizer
from transformer_jax.errors import UserError
from transformer_jax.tasks.bert_data import BertData, make_tokenizer, read_rows

pytestmark = pytest.mark.usefixtures("quick_compilation")

VOCABULARY = str(MODEL.vocab_size)


def prepare_rows(texts, folder, size=VOCABULARY):
    options = f"--path {texts} --output {folder} --tokenizer wordpiece --vocab-size {size}"
    options += f" --row-length {ROWS['row_length']} --example-length {ROWS['example_length']}"
    assert prepare.main([*options.split(), "--shard-bytes", "500", "--workers", "1"]) == 0
    return folder


@pytest.fixture(scope="module")
def prepared(tmp_path_factory):
    texts = write_texts(tmp_path_factory.mktemp("texts"))
    return prepare_rows(texts, tmp_path_factory.mktemp("prepared") / "rows")


def data_of(prepared, **changes):
    return BertData(path=f"prepared:{prepared}", **(ROWS | changes))


@pytest.fixture
def flags(tmp_path, prepared):
    config = Path(train.__file__).parents[2] / "configs" / "bert_tiny.py"
    small = "--model.width 16 --model.num_heads 2 --model.feed_forward_dim 32 --model.vocab_size"
    small += f" {VOCABULARY} --train.steps 4 --train.batch_size 8 --train.log_every 1"
    for name, value in ROWS.items():
        small += f" --data.{name} {value}"
    where = ["--data.path", f"prepared:{prepared}", "--workdir", str(tmp_path / "run")]
    return ["--config", str(config), *small.split(), *where]


def test_a_run_is_trained_on_prepared_rows_and_evaluated(flags, prepared, tmp_path, capfd):
    assert train.main([*flags, "--train.stop_at", "3"]) == 0
    assert train.main(flags) == 0  # goes on
    run = tmp_path / "run"
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines] == [1, 2, 3, 4]
    made, own = (load_tokenizer(path / "tokenizer.json") for path in (prepared, run))
    assert made.fingerprint == own.fingerprint
    capfd.readouterr()
    assert evaluate.main(["--workdir", str(run)]) == 0
    assert "mlm_accuracy" in json.loads(capfd.readouterr().out.splitlines()[-1])


@pytest.mark.parametrize(
    ("field", "value", "is_now"),
    [
        ("row_length", 64, 48),
        ("example_length", 32, 24),
        ("row_examples", 3, 8),
        ("examples", "full_sentences", "next_sentence"),
        ("tokenizer", "byte_bpe", "wordpiece"),
        ("tokenizer", "sentencepiece", "wordpiece"),
        ("lowercase", False, True),
    ],
)
def test_rows_of_other_settings_are_refused(prepared, field, value, is_now):
    tokenizer = load_tokenizer(prepared / "tokenizer.json")
    changes = {field: value} | ({} if field == "row_examples" else {"row_examples": 8})
    with pytest.raises(UserError, match=f"prepared with {field}={is_now}, .*\\.{field} is {value}"):
        read_rows(data_of(prepared, **changes), "train", tokenizer)


def test_rows_of_another_tokenizer_are_refused(prepared, tmp_path):
    other = prepare_rows(write_texts(tmp_path, seed=1), tmp_path / "rows", size="56")
    tokenizer = load_tokenizer(other / "tokenizer.json")
    assert read_rows(data_of(other), "train", tokenizer)
    with pytest.raises(UserError, match="prepared with another tokenizer"):
        read_rows(data_of(prepared), "train", tokenizer)


def test_a_tokenizer_is_not_ignored_that_the_rows_do_not_have(prepared, tmp_path):
    other = prepare_rows(write_texts(tmp_path, seed=1), tmp_path / "rows", size="56")
    with pytest.raises(UserError, match="prepared with another tokenizer than .*Leave --data"):
        make_tokenizer(data_of(prepared, tokenizer=str(other)), 64, tmp_path)
    same = load_tokenizer(make_tokenizer(data_of(prepared, tokenizer=str(prepared)), 64, tmp_path))
    assert same.fingerprint == load_tokenizer(prepared / "tokenizer.json").fingerprint


@pytest.mark.parametrize(("name", "value"), [("vocab_size", 99), ("cls_id", 9), ("sep_id", 9)])
def test_rows_that_say_other_ids_than_their_tokenizer_are_refused(prepared, tmp_path, name, value):
    folder = shutil.copytree(prepared, tmp_path / "rows")
    index = json.loads((folder / "rows.json").read_text())
    index["tokenizer"][name] = value
    (folder / "rows.json").write_text(json.dumps(index))
    with pytest.raises(UserError, match="prepared with another tokenizer"):
        read_rows(data_of(folder), "train", load_tokenizer(folder / "tokenizer.json"))

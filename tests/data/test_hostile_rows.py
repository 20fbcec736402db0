"""Folders of prepared rows that do harm or lie: refused by name, and nothing in them is run."""

import json
import shutil

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.data.test_prepared_rows import first_shard, make_folder
from tests.hostile import PAYLOADS, changes, damages, payloads, refused
from transformer_jax.data.prepared_rows import PreparedRows
from transformer_jax.data.rows_index import read_index
from transformer_jax.errors import UserError

SEARCH = settings(suppress_health_check=list(HealthCheck), max_examples=150)


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    return make_folder(tmp_path_factory)


@pytest.fixture
def copy(made, tmp_path):
    return shutil.copytree(made, tmp_path / "copy")


def read_all(folder):
    """All that training reads of a folder."""
    rows = PreparedRows(folder, "train")
    plan = rows.plan(0, seed=0)
    built = rows.build([*plan[: len(plan)], np.zeros(0, np.int64)])
    assert 0 <= built["tokens"].min() and built["tokens"].max() < rows.unigrams().size
    assert not any(array[-1].any() for array in built.values() if array.ndim > 1)  # padding
    return built


@pytest.mark.parametrize("payload", PAYLOADS)
def test_a_harmful_file_is_refused_by_name_and_not_run(copy, tmp_path, payload):
    trace, shard = tmp_path / "trace", first_shard(copy)
    data = payloads(trace)[payload]
    for name in ("rows.json", "train.npy", shard.name):
        whole = (copy / name).read_bytes()
        (copy / name).write_bytes(data)
        with refused(trace, name):
            read_all(copy)
        (copy / name).write_bytes(whole)
    index = json.loads((copy / "rows.json").read_text())
    index["splits"]["train"]["shards"][0]["bytes"] = len(data)  # it says that it is whole
    (copy / "rows.json").write_text(json.dumps(index))
    shard.write_bytes(data)
    with refused(trace, shard.name):
        read_all(copy)


@pytest.mark.parametrize("name", ["../outside", "/etc/passwd", "..", "", "a/b", "a\0", 3, None])
def test_an_index_names_no_file_out_of_its_folder(copy, name):
    whole = (copy / "rows.json").read_text()
    shutil.copy(first_shard(copy), copy.parent / "outside")
    for change in (
        lambda index: index["splits"]["train"]["shards"][0].update(name=name),
        lambda index: index["tokenizer"].update(file=name),
    ):
        index = json.loads(whole)
        change(index)
        (copy / "rows.json").write_text(json.dumps(index))
        with pytest.raises(UserError, match=r"rows\.json cannot be read .* no plain name"):
            read_index(copy)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda index: index.update(row_length="48"), "row_length='48' is not in"),
        (lambda index: index.update(row_length=2**40), "row_length=1099511627776 is not in"),
        (lambda index: index.update(row_length=True), "row_length=True is not in"),
        (lambda index: index.update(row_examples=0), "row_examples=0 is not in"),
        (lambda index: index.update(examples=["next_sentence"]), "examples is "),
        (lambda index: index["tokenizer"].update(vocab_size=0), "vocab_size=0 is not in"),
        (lambda index: index["tokenizer"].update(cls_id=70), "cls_id=70 is not in"),
        (lambda index: index["tokenizer"].update(sep_id=-1), "sep_id=-1 is not in"),
        (lambda index: _shard(index).update(rows=10**12), "1000000000000 rows in"),
        (lambda index: _shard(index).update(rows=0), "0 rows in"),
        (lambda index: _shard(index).update(tokens=-1), "the tokens of .* is -1"),
        (lambda index: _shard(index).update(sha256=5), "the sha256 of .* is 5"),
        (lambda index: _shard(index).update(other=5), "unexpected keyword"),
    ],
)  # fmt: skip
def test_an_index_that_lies_is_named_with_the_field(copy, change, message):
    index = json.loads((copy / "rows.json").read_text())
    change(index)
    (copy / "rows.json").write_text(json.dumps(index))
    with pytest.raises(UserError, match=rf"rows\.json cannot be read \(.*{message}"):
        PreparedRows(copy, "train")


def _shard(index):
    return index["splits"]["train"]["shards"][0]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda index: index.update(row_length=8, example_length=8), "does not fit its shards"),
        (lambda index: index.update(row_examples=1), "does not fit its shards"),
        (lambda index: _shard(index).update(rows=_shard(index)["rows"] + 1), "cannot be read"),
    ],
)
def test_an_index_of_other_shards_is_named(copy, change, message):
    index = json.loads((copy / "rows.json").read_text())
    change(index)
    (copy / "rows.json").write_text(json.dumps(index))
    with pytest.raises(UserError, match=message):
        read_all(copy)


@pytest.mark.parametrize(
    "counts", [np.full(70, -1), np.zeros(70), np.zeros((70, 1), np.int64), np.zeros(70, "<U3")]
)
def test_what_are_no_counts_is_named(copy, counts):
    np.save(copy / "train.npy", counts)
    with pytest.raises(UserError, match=r"train\.npy ha(s the shape|lds|ds what)|holds what are"):
        PreparedRows(copy, "train").unigrams()


@SEARCH
@given(data=st.data())
def test_a_changed_index_gives_rows_or_a_user_error(made, tmp_path, data):
    folder = shutil.copytree(made, tmp_path / "rows", dirs_exist_ok=True)
    index = json.loads((folder / "rows.json").read_text())
    (folder / "rows.json").write_text(json.dumps(data.draw(changes(index))))
    try:
        read_all(folder)
    except UserError as error:
        assert str(folder) in str(error) and len(str(error)) < 10_000


@SEARCH
@given(data=st.data())
def test_a_damaged_file_gives_rows_or_a_user_error(made, tmp_path, data):
    folder = shutil.copytree(made, tmp_path / "rows", dirs_exist_ok=True)
    name = data.draw(st.sampled_from(["rows.json", "train.npy", first_shard(folder).name]))
    damaged = data.draw(damages((folder / name).read_bytes()))
    (folder / name).write_bytes(damaged)
    if name.endswith("array_record"):
        index = json.loads((folder / "rows.json").read_text())
        _shard(index)["bytes"] = len(damaged)
        (folder / "rows.json").write_text(json.dumps(index))
    try:
        read_all(folder)
    except UserError as error:
        assert str(folder) in str(error) and len(str(error)) < 10_000

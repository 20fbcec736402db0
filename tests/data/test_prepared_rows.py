"""Rows on disk: what is read is what was packed, in an order of each epoch; damage is named."""

import json
import shutil

import numpy as np
import pytest
from array_record.python.array_record_module import ArrayRecordReader, ArrayRecordWriter

from transformer_jax.data import prepared_rows
from transformer_jax.data.documents import open_source
from transformer_jax.data.encoder_rows import EncoderRows, build_rows, plan_rows
from transformer_jax.data.pipeline import batches
from transformer_jax.data.prepare import Recipe, finish, plan_jobs, run_job
from transformer_jax.data.prepared_rows import PreparedRows
from transformer_jax.data.row_records import decode_rows, encode_rows
from transformer_jax.data.sentence_pairs import (
    Documents,
    Examples,
    full_sentences,
    nsp_pairs,
    sop_pairs,
)
from transformer_jax.data.wordpiece import WordPieceTokenizer
from transformer_jax.errors import UserError

SHAPE = {"row_length": 48, "row_examples": 4}
SPECIAL = {"cls_id": 2, "sep_id": 3}
BEYOND = r"cannot be read .*_id=-?\d+ is not in 0\.\."
WORDS = "the red green blue cat dog house tree sees likes finds and near under".split()


def random_documents(count=40):
    random = np.random.Generator(np.random.Philox(5))
    texts = []
    for _ in range(count):
        lengths = random.integers(1, 12, random.integers(1, 5)).tolist()
        texts.append([(random.integers(9, 1 << 31, n), random.random(n) < 0.6) for n in lengths])
    return Documents.from_lists(texts)


def assert_same(left, right):
    assert left.keys() == right.keys()
    for name in left:
        assert left[name].dtype == right[name].dtype
        np.testing.assert_array_equal(left[name], right[name], err_msg=name)


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    return make_folder(tmp_path_factory)


def make_folder(tmp_path_factory):
    """A folder of prepared rows in several shards; not to be changed."""
    corpus = tmp_path_factory.mktemp("corpus")
    random = np.random.Generator(np.random.Philox(1))
    for split, count in (("train", 60), ("valid", 8)):
        documents = [
            "\n".join(" ".join(random.choice(WORDS, random.integers(3, 9))) for _ in range(4))
            for _ in range(count)
        ]
        (corpus / f"{split}.txt").write_text("\n\n".join(documents))
    folder = tmp_path_factory.mktemp("rows")
    file = folder / "tokenizer.json"
    WordPieceTokenizer.train(WORDS * 3, file, vocab_size=70, lowercase=True)
    recipe = Recipe(str(corpus), ("train", "valid"), example_length=24, shard_bytes=1500, **SHAPE)
    jobs = plan_jobs(recipe, open_source(str(corpus)), folder, file, {})
    for job in jobs:
        run_job(job)
    assert len(finish(jobs)["train"]) > 3
    return folder


@pytest.fixture
def copy(made, tmp_path):
    return shutil.copytree(made, tmp_path / "copy")


@pytest.mark.parametrize("make", [nsp_pairs, sop_pairs, full_sentences])
def test_a_record_has_all_that_a_row_is_made_of(make):
    documents = random_documents()
    examples = make(documents, max_tokens=24, seed=0, epoch=0)
    rows = plan_rows(examples, **SHAPE, seed=0, epoch=0)
    read = decode_rows(list(encode_rows(documents, rows)), vocab_size=1 << 31)
    assert_same(
        build_rows(*read, **SHAPE, **SPECIAL), build_rows(documents, rows[:], **SHAPE, **SPECIAL)
    )


def test_a_record_is_laid_out_as_written_by_hand():
    tokens = [([11, 12, 13], [True, False, True]), ([14], [True]), ([15, 16], [False, True])]
    documents = Documents.from_lists([tokens])
    pairs = Examples(
        np.array([3, 0, 4, 5]), np.array([1, 3, 1, 1]), np.arange(3) * 2, np.array([1, 0])
    )
    (record,) = encode_rows(documents, EncoderRows(pairs, [np.array([0, 1])]))
    opens, pair, label, start = 1 << 31, 1 << 30, 1 << 29, 1 << 31
    words = [
        4, opens | pair | label | 1, pair | label | 3, opens | pair | 1, pair | 1,
        start | 14, start | 11, 12, start | 13, 15, start | 16,
    ]  # fmt: skip
    assert record == b"".join(word.to_bytes(4, "little") for word in words)


def test_an_epoch_has_each_row_once_in_an_order_of_its_own(made):
    rows = PreparedRows(made, "train")
    orders = [rows.plan(epoch, seed=seed)[:] for epoch, seed in ((0, 0), (1, 0), (0, 1), (0, 0))]
    orders = [np.concatenate(order).tolist() for order in orders]
    assert all(sorted(order) == list(range(len(rows))) for order in orders)
    assert orders[0] == orders[3] and len({tuple(order) for order in orders}) == 3
    plan = rows.plan(0, seed=0)
    assert [plan[i].tolist() for i in range(-3, 3)] == [[orders[0][i]] for i in range(-3, 3)]


def test_the_order_is_that_of_philox_bits_and_no_generators():
    order = prepared_rows.RowNumbers(np.arange(3))
    assert [row.tolist() for row in order] == [[0], [1], [2]]
    bits = np.random.Philox(np.random.SeedSequence([7, 2, 0x50A])).random_raw(6)
    rows = object.__new__(PreparedRows)
    rows._ends = np.array([6])
    assert rows.plan(2, seed=7).order.tolist() == sorted(range(6), key=lambda i: bits[i])


def test_rows_come_in_the_order_that_is_asked_for_from_whatever_shards(made, monkeypatch):
    rows = PreparedRows(made, "train")
    each = [rows.build([np.array([number])]) for number in range(len(rows))]
    asked = rows.plan(0, seed=0)[:][::-1]
    asked[5:5] = [np.zeros(0, np.int64), asked[0], asked[0]]
    monkeypatch.setattr(prepared_rows, "_OPEN", 1)
    batch = PreparedRows(made, "train").build(asked)
    padding = {name: np.zeros_like(array) for name, array in each[0].items()}
    expected = [each[int(row[0])] if len(row) else padding for row in asked]
    assert_same(batch, {name: np.concatenate([one[name] for one in expected]) for name in padding})


def test_rows_of_padding_are_zeros(made):
    batch = PreparedRows(made, "train").build([np.zeros(0, np.int64)] * 2)
    assert batch["tokens"].shape == (2, 48) and batch["pair_labels"].shape == (2, 4)
    assert not any(array.any() for array in batch.values())


def test_a_shard_is_read_once_for_a_batch(made, monkeypatch):
    reads = []

    class Reader:
        def __init__(self, path, **kwargs):
            self.path, self.reader = path, ArrayRecordReader(path, **kwargs)

        def read(self, numbers):
            reads.append(self.path)
            return self.reader.read(numbers)

    monkeypatch.setattr(prepared_rows, "ArrayRecordReader", Reader)
    rows = PreparedRows(made, "train")
    rows.build(rows.plan(0, seed=0)[:])
    assert len(reads) == len(set(reads)) == len(rows._shards)


def test_batches_of_prepared_rows_hold_each_row_of_an_epoch_once(made):
    rows = PreparedRows(made, "train")
    read = []
    for batch, state in batches(lambda epoch: rows.plan(epoch, seed=0), rows.build, batch_size=8):
        read += [row.tobytes() for row in batch["tokens"] if row.any()]
        if state.epoch:
            break
    stored = rows.build([np.array([number]) for number in range(len(rows))])["tokens"]
    assert sorted(read) == sorted(row.tobytes() for row in stored)
    assert rows.filled(rows.plan(0, seed=0)) == np.mean(stored > 0)
    assert rows.summary == f"{len(rows)} prepared rows of {np.count_nonzero(stored):,} tokens"


def test_the_fingerprint_follows_the_rows_and_the_shape(made, copy):
    rows = PreparedRows(made, "train")
    assert PreparedRows(copy, "train").fingerprint == rows.fingerprint
    assert PreparedRows(made, "valid").fingerprint != rows.fingerprint
    for change in (
        lambda index: index.update(row_examples=5),
        lambda index: index["tokenizer"].update(fingerprint="other"),
        lambda index: index["splits"]["train"]["shards"][0].update(sha256="other"),
    ):
        index = json.loads((made / "rows.json").read_text())
        change(index)
        (copy / "rows.json").write_text(json.dumps(index))
        assert PreparedRows(copy, "train").fingerprint != rows.fingerprint


def test_a_split_that_was_not_prepared_is_refused(made):
    with pytest.raises(UserError, match="no split 'test', only train, valid"):
        PreparedRows(made, "test")


def test_a_folder_without_rows_is_refused_and_one_that_is_not_finished(copy, tmp_path):
    with pytest.raises(UserError, match=r"nowhere has no prepared rows: it lacks rows\.json"):
        PreparedRows(tmp_path / "nowhere", "train")
    (copy / "rows.json").unlink()
    with pytest.raises(UserError, match="copy is not finished.*goes on where it stopped"):
        PreparedRows(copy, "train")


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        (lambda text: text[:50], "cannot be read"),
        (lambda text: "[]", "cannot be read"),
        (lambda text: text.replace('"sha256"', '"md5"'), "cannot be read"),
        (lambda text: text.replace('"cls_id"', '"bos_id"'), "cannot be read"),
        (lambda text: text.replace('"cls_id": 2', '"cls_id": 70'), BEYOND),
        (lambda text: text.replace('"sep_id": 3', '"sep_id": -1'), BEYOND),
        (lambda text: text.replace('"version": 2', '"version": 1'), "is of version 1"),
    ],
)
def test_a_damaged_index_and_one_of_another_version_are_refused(copy, change, complaint):
    path = copy / "rows.json"
    path.write_text(change(path.read_text()))
    with pytest.raises(UserError, match=rf"rows\.json {complaint}"):
        PreparedRows(copy, "train")


def first_shard(folder):
    return next(iter(sorted(folder.glob("train-*.array_record"))))


def test_a_shard_that_is_missing_or_cut_is_named(copy):
    shard = first_shard(copy)
    data = shard.read_bytes()
    shard.write_bytes(data[:-1])
    with pytest.raises(UserError, match=rf"{shard.name} has {len(data) - 1} bytes, not"):
        PreparedRows(copy, "train")
    shard.unlink()
    with pytest.raises(UserError, match=rf"{shard.name} is missing.*cli\.prepare again"):
        PreparedRows(copy, "train")


def test_a_shard_with_other_bytes_is_named(copy):
    shard = first_shard(copy)
    data = bytearray(shard.read_bytes())
    data[64:] = bytes(len(data) - 64)
    shard.write_bytes(data)
    rows = PreparedRows(copy, "train")
    with pytest.raises(UserError, match=rf"{shard.name} cannot be read"):
        rows.build(rows.plan(0, seed=0)[:])


@pytest.mark.parametrize(
    "record",
    [
        b"",
        b"abc",
        bytes(16),
        b"\x09" + bytes(15),
        b"\x01" + bytes(11),
        b"\x01\0\0\0\x01\0\0\x80\x46\0\0\0",  # a row of token 70, of as many
    ],
)
def test_a_shard_with_foreign_records_is_named(copy, record):
    shard = first_shard(copy)
    count = ArrayRecordReader(str(shard)).num_records()
    shard.unlink()
    writer = ArrayRecordWriter(str(shard), "group_size:1")
    for _ in range(count):
        writer.write(record)
    writer.close()
    index = json.loads((copy / "rows.json").read_text())
    index["splits"]["train"]["shards"][0]["bytes"] = shard.stat().st_size
    (copy / "rows.json").write_text(json.dumps(index))
    rows = PreparedRows(copy, "train")
    with pytest.raises(UserError, match=rf"{shard.name} has a record that is no row of version 2"):
        rows.build(rows.plan(0, seed=0)[:])


def test_damaged_counts_of_tokens_are_named(copy):
    rows = PreparedRows(copy, "train")
    np.save(copy / "train.npy", np.zeros(3, np.int64))
    with pytest.raises(UserError, match=r"train\.npy has the shape \(3,\)"):
        rows.unigrams()
    (copy / "train.npy").write_bytes(b"\x93NUMPY")
    with pytest.raises(UserError, match=r"train\.npy cannot be read"):
        rows.unigrams()

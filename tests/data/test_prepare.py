"""Preparing rows: parts lose no document, and any way of running them gives the same bytes."""

import hashlib
import json
import random
import shutil

import numpy as np
import pytest

from transformer_jax.data.corpus_rows import tokenise
from transformer_jax.data.document_ranges import TextRange
from transformer_jax.data.documents import open_source, read_documents
from transformer_jax.data.encoder_rows import build_rows, plan_rows
from transformer_jax.data.prepare import Recipe, finish, plan_jobs, run_job
from transformer_jax.data.prepare_engines import run_beam, run_processes
from transformer_jax.data.prepared_rows import PreparedRows
from transformer_jax.data.sentence_pairs import full_sentences, nsp_pairs
from transformer_jax.data.subword_tokenizers import load_tokenizer
from transformer_jax.data.wordpiece import WordPieceTokenizer
from transformer_jax.errors import UserError
from transformer_jax.files import temporary_beside

WORDS = "the red green blue cat dog house tree sees likes finds and near under ça".split()
SHAPE = {"row_length": 48, "row_examples": 4}


def write_documents(file, count, seed=0):
    draw = random.Random(seed)
    documents = [
        "\n".join(" ".join(draw.choices(WORDS, k=draw.randint(3, 9))) for _ in range(4))
        for _ in range(count)
    ]
    file.write_text("\n\n".join(documents), encoding="utf-8")


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    """A folder that is split by file."""
    folder = tmp_path_factory.mktemp("corpus")
    for seed, (split, count) in enumerate((("train", 60), ("valid", 8), ("test", 8))):
        write_documents(folder / f"{split}.txt", count, seed)
    return folder


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory):
    file = tmp_path_factory.mktemp("tokenizer") / "tokenizer.json"
    return WordPieceTokenizer.train(WORDS * 3, file, vocab_size=70, lowercase=True)


def begin(folder, tokenizer, corpus, **changes):
    """The jobs of a folder of rows."""
    folder.mkdir(exist_ok=True)
    tokenizer.save(folder / "tokenizer.json")
    settings = {"example_length": 24, "shard_bytes": 1000, **SHAPE} | changes
    recipe = Recipe(str(corpus), **settings)
    source = open_source(str(corpus))
    return plan_jobs(recipe, source, folder, folder / "tokenizer.json", {})


def prepare(folder, tokenizer, corpus, **changes):
    jobs = begin(folder, tokenizer, corpus, **changes)
    for job in jobs:
        run_job(job)
    finish(jobs)
    return folder


def bytes_of(folder):
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir())}


@pytest.fixture(scope="module")
def made(tmp_path_factory, tokenizer, corpus):
    """Rows that were prepared at one go; not to be changed."""
    return prepare(tmp_path_factory.mktemp("rows"), tokenizer, corpus, repeats=2)


def documents_of(folder, split, unit_bytes):
    units = open_source(str(folder)).units(split, unit_bytes)
    return [list(unit.read()) for unit in units]


LINES = ["one", "two words", "", "", "  ", "\t\r", "\u2003", "ça\u2028b", "\r", "x"]


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize("files", [["train"], ["a", "b", "c"]])
def test_parts_of_any_size_have_each_document_once_and_in_order(tmp_path, monkeypatch, seed, files):
    monkeypatch.setattr("transformer_jax.data.documents.split_of", lambda document: "train")
    draw = random.Random(seed)
    for name in files:
        lines = [draw.choice(["", "x"]), *draw.choices(LINES, k=draw.randint(3, 40)), "y"]
        text = draw.choice(["", "\ufeff"]) + "\n".join(lines) + draw.choice(["", "\n", "\n\n"])
        (tmp_path / f"{name}.txt").write_bytes(text.encode())
    whole = list(read_documents(str(tmp_path), "train"))
    size = sum(file.stat().st_size for file in tmp_path.iterdir())
    for unit_bytes in [*range(1, 40), size - 1, size, size + 1]:
        parts = documents_of(tmp_path, "train", unit_bytes)
        assert sum(parts, []) == whole
        assert len(parts) == -(-size // unit_bytes)


def test_parts_span_small_files_and_choose_documents_by_hash(tmp_path):
    for number in range(30):
        texts = "\n\n".join(f"text {i}\nline" for i in range(number, 3000, 30))
        (tmp_path / f"part{number:02d}.txt").write_text(texts)
    total = sum(file.stat().st_size for file in tmp_path.iterdir())
    for split, count in (("train", 10), ("valid", 1), ("test", 1)):
        parts = documents_of(tmp_path, split, total // 10 + 1)
        assert len(parts) == count and all(parts)
        assert sum(parts, []) == list(read_documents(str(tmp_path), split))
        assert max(map(len, parts)) < 1.5 * min(map(len, parts))


def test_parts_of_a_dataset_are_its_records(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    for number in range(60):
        page = tmp_path / "prose" / f"package{number}" / "page.md"
        page.parent.mkdir(parents=True)
        page.write_text(
            f"The number {number} is what this page of the manual tells the reader about.\n\n"
            f"It has another paragraph, which says that there is nothing else in {number}.\n"
        )
    path = f"prose:{tmp_path / 'prose'}"
    for split in ("train", "valid", "test"):
        whole = list(read_documents(path, split))
        parts = [list(unit.read()) for unit in open_source(path).units(split, 300)]
        assert sum(parts, []) == whole
        assert split != "train" or len([part for part in parts if part]) > 3


def test_text_that_is_not_utf8_is_named_by_the_part_that_has_it(tmp_path):
    (tmp_path / "train.txt").write_bytes(b"one\n\ntwo\n\nthr\xffee\n\nfour\n")
    units = open_source(str(tmp_path)).units("train", 6)
    read = []
    for unit in units:
        try:
            read += list(unit.read())
        except UserError as error:
            assert "train.txt:5 is not UTF-8" in str(error)
            assert "at byte 13 of the file" in str(error)
            read.append("error")
    assert read == [["one"], ["two"], "error", ["four"]]


def test_a_document_without_end_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr("transformer_jax.data.document_ranges._LONGEST", 50)
    for long in ("a line\n" * 10, "ça" * 40):
        (tmp_path / "train.txt").write_text(f"short\n\n{long}", encoding="utf-8")
        message = r"train\.txt:3: the document .* has more than 50 bytes.*blank lines"
        with pytest.raises(UserError, match=message):
            documents_of(tmp_path, "train", 1000)


def test_a_part_is_read_no_further_than_its_last_document(tmp_path, monkeypatch):
    (tmp_path / "train.txt").write_text("one\n\n" + "two\n" * 1000)
    read = []
    decode = TextRange._decode

    def counted(self, line, *args):
        read.append(line)
        return decode(self, line, *args)

    monkeypatch.setattr(TextRange, "_decode", counted)
    for unit in open_source(str(tmp_path)).units("train", 40)[1:]:  # within the second document
        assert not list(unit.read())
    assert len(read) <= 1010  # each line once


def test_missing_splits_and_empty_files_are_refused(tmp_path):
    with pytest.raises(UserError, match=r"has no \*\.txt files"):
        open_source(str(tmp_path))
    (tmp_path / "train.txt").write_text("one\n")
    with pytest.raises(UserError, match="no split 'valid', only train"):
        open_source(str(tmp_path)).units("valid", 10)
    (tmp_path / "valid.txt").write_text("")
    with pytest.raises(UserError, match=r"valid\.txt is empty"):
        open_source(str(tmp_path))


def unit_seed(split, number):
    digest = hashlib.sha256(f"0 {split} {number}".encode()).digest()
    return int.from_bytes(digest[:8], "little")


@pytest.mark.parametrize(
    ("kind", "make"), [("next_sentence", nsp_pairs), ("full_sentences", full_sentences)]
)
def test_the_rows_of_a_part_are_those_that_are_packed_in_memory(
    tmp_path, tokenizer, corpus, kind, make
):
    folder = prepare(tmp_path / "rows", tokenizer, corpus, examples=kind, repeats=2)
    rows = PreparedRows(folder, "train")
    read = [rows.build([np.array([number])]) for number in range(len(rows))]
    packed = []
    for unit in open_source(str(corpus)).units("train", 1000):
        documents = tokenise(unit.read(), tokenizer)
        for repeat in range(2):
            at = {"seed": unit_seed("train", unit.number), "epoch": repeat}
            plan = plan_rows(make(documents, max_tokens=24, **at), **SHAPE, **at)
            special = {"cls_id": tokenizer.cls_id, "sep_id": tokenizer.sep_id}
            packed += [build_rows(documents, [row], **SHAPE, **special) for row in plan]
    as_bytes = [
        sorted(b"".join(array.tobytes() for array in row.values()) for row in rows_of)
        for rows_of in (read, packed)
    ]
    assert as_bytes[0] == as_bytes[1]


def test_each_token_of_a_document_stands_once_per_repeat_in_true_text(made, corpus, tokenizer):
    for split, repeats in (("train", 2), ("valid", 1), ("test", 1)):
        rows = PreparedRows(made, split)
        batch = rows.build(rows.plan(0, seed=0)[:])
        example = np.maximum(batch["segments"] - 1, 0)
        random_b = np.take_along_axis(batch["pair_labels"], example, 1) * batch["token_types"]
        text = (batch["segments"] > 0) & (random_b == 0)
        text &= ~np.isin(batch["tokens"], tokenizer.special_ids)
        paragraphs = sum(read_documents(str(corpus), split), [])
        counts = np.bincount(
            np.concatenate([encoded.ids for encoded in tokenizer.encode(paragraphs)]),
            minlength=tokenizer.vocab_size,
        )
        np.testing.assert_array_equal(rows.unigrams(), counts)
        read = np.bincount(batch["tokens"][text], minlength=tokenizer.vocab_size)
        np.testing.assert_array_equal(read, repeats * counts)


def test_the_repeats_and_the_seeds_differ(tmp_path, tokenizer, corpus, made):
    other = prepare(tmp_path / "rows", tokenizer, corpus, repeats=2, seed=1)
    assert PreparedRows(made, "train").fingerprint != PreparedRows(other, "train").fingerprint
    rows = PreparedRows(made, "train")
    tokens = rows.build(rows.plan(0, seed=0)[:])["tokens"]
    assert len(np.unique(tokens, axis=0)) > 0.95 * len(tokens)


def test_shards_may_be_made_in_any_order(tmp_path, tokenizer, corpus, made):
    jobs = begin(tmp_path / "rows", tokenizer, corpus, repeats=2)
    for job in random.Random(0).sample(jobs, len(jobs)):
        run_job(job)
    finish(jobs)
    assert bytes_of(tmp_path / "rows") == bytes_of(made)


def test_processes_write_the_same_bytes(tmp_path, tokenizer, corpus, made):
    jobs = begin(tmp_path / "rows", tokenizer, corpus, repeats=2)
    said = []
    run_processes(jobs, 2, said.append)
    finish(jobs)
    assert bytes_of(tmp_path / "rows") == bytes_of(made)
    assert len(said) == len(jobs) and said[-1].endswith(
        f"{len(jobs)} of {len(jobs)} shards are done"
    )


def test_beam_writes_the_same_bytes(tmp_path, tokenizer, corpus, made):
    pytest.importorskip("apache_beam")
    jobs = begin(tmp_path / "rows", tokenizer, corpus, repeats=2)
    run_beam(jobs, ["--direct_num_workers=2", "--direct_running_mode=multi_threading"])
    finish(jobs)
    assert bytes_of(tmp_path / "rows") == bytes_of(made)


def test_beam_hands_on_what_a_job_complains_of(tmp_path, tokenizer, corpus):
    pytest.importorskip("apache_beam")
    jobs = begin(tmp_path / "rows", tokenizer, corpus)
    (tmp_path / "rows" / "tokenizer.json").write_text("{")
    with pytest.raises(UserError, match=r"Beam stopped: .*tokenizer\.json"):
        run_beam(jobs, [])


def test_without_beam_the_extra_is_named(tmp_path, tokenizer, corpus, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "apache_beam", None)
    with pytest.raises(UserError, match=r"pip install 'transformer-jax\[beam\]'"):
        run_beam(begin(tmp_path / "rows", tokenizer, corpus), [])


def test_what_a_killed_run_left_is_made_whole_and_nothing_else_is_made_again(
    tmp_path, tokenizer, corpus, made
):
    folder = tmp_path / "rows"
    jobs = begin(folder, tokenizer, corpus, repeats=2)
    for job in jobs[:6]:
        run_job(job)
    temporary_beside(jobs[7].path).write_bytes(b"half")
    temporary_beside(jobs[6].path.with_suffix(".npy")).write_bytes(b"half")
    temporary_beside(folder / "rows.json").write_bytes(b"half")
    jobs[0].path.write_bytes(jobs[0].path.read_bytes()[:-9])
    jobs[1].path.with_suffix(".json").write_text('{"name":')
    jobs[2].path.with_suffix(".npy").unlink()
    jobs[3].path.unlink()
    counts = jobs[5].path.with_suffix(".npy")
    counts.write_bytes(counts.read_bytes()[:-1] + b"\1")
    untouched = {job.path: job.path.stat().st_mtime_ns for job in jobs[4:5]}
    with pytest.raises(UserError, match=f"{jobs[0].path.name} is not there"):
        finish(jobs)
    prepare(folder, tokenizer, corpus, repeats=2)
    assert bytes_of(folder) == bytes_of(made)
    assert {path: path.stat().st_mtime_ns for path in untouched} == untouched


def test_another_folders_settings_are_refused_by_name(tmp_path, tokenizer, corpus, made):
    before = bytes_of(made)
    changes = {"row_length": 64, "seed": 3}
    with pytest.raises(UserError, match="rows of other settings") as caught:
        begin(made, tokenizer, corpus, repeats=2, **changes)
    for change in ("row_length is 48, not 64", "seed is 0, not 3"):
        assert change in str(caught.value)
    assert "row_examples" not in str(caught.value)
    (tmp_path / "train.txt").write_text("another corpus\n")
    with pytest.raises(UserError, match="corpus is"):
        begin(made, tokenizer, tmp_path, repeats=2, splits=("train",))
    assert bytes_of(made) == before


def test_parts_that_are_too_small_are_left_out_and_counted(tmp_path, tokenizer):
    corpus = tmp_path / "corpus"
    corpus.mkdir()
    texts = [" ".join(WORDS * 20), *[" ".join(WORDS)] * 20]  # a part has but the first document
    (corpus / "train.txt").write_text("\n\n".join(texts))
    jobs = begin(tmp_path / "rows", tokenizer, corpus, splits=("train",), shard_bytes=1300)
    for job in jobs:
        run_job(job)
    shards = finish(jobs)["train"]
    assert [shard.rows > 0 for shard in shards] == [False, True, True]
    assert [shard.documents for shard in shards][0] == 1
    index = json.loads((tmp_path / "rows" / "rows.json").read_text())
    assert [shard["name"] for shard in index["splits"]["train"]["shards"]] == [
        shard.name for shard in shards[1:]
    ]
    rows = PreparedRows(tmp_path / "rows", "train")
    assert rows.build(rows.plan(0, seed=0)[:])["tokens"].any()
    assert rows.unigrams().sum() == sum(len(encoded.ids) for encoded in tokenizer.encode(texts[1:]))


def test_a_split_without_examples_is_refused(tmp_path, tokenizer):
    (tmp_path / "train.txt").write_text("only one document\n")
    with pytest.raises(UserError, match="the 1 documents of the split 'train' are too few"):
        prepare(tmp_path / "rows", tokenizer, tmp_path, splits=("train",))


@pytest.mark.parametrize("setting", ["repeats", "shard_bytes", "row_examples", "example_length"])
def test_settings_that_make_no_rows_are_refused(setting):
    with pytest.raises(ValueError, match=f"{setting}=0 must be at least"):
        Recipe("", **{setting: 0})


def test_the_stored_tokenizer_is_that_of_the_rows(made, tokenizer):
    rows = PreparedRows(made, "train")
    stored = load_tokenizer(made / rows.settings["tokenizer"]["file"])
    assert stored.fingerprint == rows.settings["tokenizer"]["fingerprint"] == tokenizer.fingerprint


def test_a_corpus_that_changed_is_refused_even_at_the_same_size(tmp_path, tokenizer):
    corpus = tmp_path / "corpus"
    corpus.mkdir()
    for split in ("train", "valid", "test"):
        write_documents(corpus / f"{split}.txt", 8)
    folder = prepare(tmp_path / "rows", tokenizer, corpus)
    text = (corpus / "valid.txt").read_bytes()
    (corpus / "valid.txt").write_bytes(b"z" + text[1:])
    with pytest.raises(UserError, match="rows of other settings: corpus is"):
        begin(folder, tokenizer, corpus)
    (corpus / "valid.txt").write_bytes(text)
    moved = shutil.move(corpus, tmp_path / "moved")
    before = bytes_of(folder)
    assert bytes_of(prepare(folder, tokenizer, moved)) == before


def test_splits_may_be_prepared_one_after_another(tmp_path, tokenizer, corpus, made):
    folder = tmp_path / "rows"
    for splits in (("valid", "test"), ("train",)):
        prepare(folder, tokenizer, corpus, repeats=2, splits=splits)
    assert bytes_of(folder) == bytes_of(made)


def test_a_file_may_have_any_name(tmp_path, tokenizer):
    corpus = tmp_path / "corpus"
    corpus.mkdir()
    try:
        write_documents(corpus / "b\udcffd.txt", 300)
    except OSError:
        pytest.skip("this file system has names of UTF-8 alone")
    folder = prepare(tmp_path / "rows", tokenizer, corpus, splits=("train",))
    assert len(PreparedRows(folder, "train"))

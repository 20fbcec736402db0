"""Drawn examples in packed rows: each stands there once, whole; and drawn bytes as rows on disk."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.hostile import damages
from transformer_jax.data.encoder_rows import build_rows, plan_rows
from transformer_jax.data.pipeline import Ragged
from transformer_jax.data.row_records import decode_rows, encode_rows
from transformer_jax.data.sentence_pairs import Documents, full_sentences, nsp_pairs, sop_pairs
from transformer_jax.data.text_examples import TextExamples, example_rows, pack_examples
from transformer_jax.errors import UserError

SHAPE = {"row_length": 24, "row_examples": 3}
IDS = {"cls_id": 2, "sep_id": 3}
TEXTS = st.lists(st.lists(st.integers(4, 99), max_size=20), max_size=12)
PARAGRAPH = st.lists(st.tuples(st.integers(4, 2**31 - 1), st.booleans()), min_size=1, max_size=9)
DOCUMENTS = st.lists(st.lists(PARAGRAPH, min_size=1, max_size=4), min_size=3, max_size=6)


def examples_of(texts):
    rows = [np.array([2, *text, 3], np.int32) for text in texts]
    sizes = np.array([len(row) - len(row) // 3 for row in rows], np.int64)
    return TextExamples(Ragged.from_lists(rows), sizes, np.zeros(len(rows), np.int64))


@settings(max_examples=200)
@given(TEXTS, st.integers(0, 50), st.integers(0, 3))
def test_each_example_stands_once_and_whole_in_its_row(texts, seed, padding):
    examples = examples_of(texts)
    rows = pack_examples(examples, **SHAPE, seed=seed, epoch=0)
    empty = np.zeros(0, np.int64)
    found = example_rows(examples, [*rows, *[empty] * padding], **SHAPE)
    places = [tuple(place) for place in np.argwhere(found["examples"] >= 0)]
    assert sorted(found["examples"][place] for place in places) == list(range(len(texts)))
    used = np.zeros(found["tokens"].shape, bool)
    for row, number in places:
        example = found["examples"][row, number]
        inside = found["segments"][row] == number + 1
        assert not (used[row] & inside).any()
        used[row] |= inside
        want = examples.tokens[example]
        np.testing.assert_array_equal(found["tokens"][row][inside], want)
        np.testing.assert_array_equal(found["positions"][row][inside], np.arange(len(want)))
        second = np.arange(len(want)) >= examples.first_sizes[example]
        np.testing.assert_array_equal(found["token_types"][row][inside], second)
        assert found["first_tokens"][row, number] == np.flatnonzero(inside)[0]
    for name in ("tokens", "segments", "positions", "token_types"):
        assert not found[name][~used].any()
    for row in range(len(rows), len(rows) + padding):  # rows of nothing but padding
        assert not used[row].any() and (found["examples"][row] == -1).all()


@settings(max_examples=150)
@given(DOCUMENTS, st.sampled_from([nsp_pairs, sop_pairs, full_sentences]), st.integers(0, 9))
def test_rows_on_disk_say_what_the_rows_say(texts, make, seed):
    documents = as_documents(texts)
    try:
        examples = make(documents, max_tokens=20, seed=seed, epoch=0)
    except UserError:  # too few of them
        return
    rows = plan_rows(examples, **SHAPE, seed=seed, epoch=0)
    want = build_rows(documents, rows[:], **SHAPE, **IDS)
    read = decode_rows(list(encode_rows(documents, rows)), vocab_size=1 << 31)
    found = build_rows(*read, **SHAPE, **IDS)
    for name, array in want.items():
        np.testing.assert_array_equal(found[name], array, err_msg=name)
    assert want["segments"].max() <= SHAPE["row_examples"]
    assert ((want["tokens"] > 0) == (want["segments"] > 0)).all()


def as_documents(texts):
    return Documents.from_lists(
        [
            [tuple(np.array(part) for part in zip(*paragraph, strict=True)) for paragraph in text]
            for text in texts
        ]
    )


WORDS = np.array([2, 2**31 + 2, 2**30 + 1, 7, 8, 9], "<u4").tobytes()  # a row of two segments


@settings(max_examples=400)
@given(st.lists(damages(WORDS) | st.binary(max_size=40), max_size=3), st.integers(0, 3))
def test_any_bytes_are_rows_or_the_place_of_what_is_none(records, place):
    records.insert(min(place, len(records)), WORDS)
    try:
        corpus, tables = decode_rows(records, vocab_size=10)
    except ValueError as error:
        assert records[error.args[0]] != WORDS
        return
    assert len(tables) == len(records)
    for record, table in zip(records, tables, strict=True):
        assert 4 * (1 + len(table) + table["size"].sum()) == len(record)
        ends = table["start"] + table["size"]
        assert (table["start"] >= 0).all() and (ends <= len(corpus.word_starts)).all()
        assert (table["size"] >= 0).all()
        tokens = corpus.paragraphs.tokens
        assert all((tokens[s:e] < 10).all() for s, e in zip(table["start"], ends, strict=True))


@pytest.mark.parametrize("texts", [[], [[]], [[], []]])
def test_no_examples_and_empty_ones_are_rows_of_their_special_tokens(texts):
    examples = examples_of(texts)
    rows = pack_examples(examples, **SHAPE, seed=0, epoch=0)
    found = example_rows(examples, rows, **SHAPE)
    assert (found["tokens"] > 0).sum() == 2 * len(texts)

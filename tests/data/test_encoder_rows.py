"""Packed rows of examples: the layout against a slow reference, and how full rows are."""

import itertools

import numpy as np
import pytest

from transformer_jax.data.encoder_rows import build_rows, plan_rows
from transformer_jax.data.pipeline import batches
from transformer_jax.data.sentence_pairs import (
    Documents,
    full_sentences,
    nsp_pairs,
    sop_pairs,
)

CLS, SEP = 101, 102
LENGTH, MOST = 64, 6
ALL = (nsp_pairs, sop_pairs, full_sentences)
SPECIAL = {"cls_id": CLS, "sep_id": SEP}


def random_documents(count=40, mean=2.0, seed=0):
    """Documents of lognormal paragraphs, words of one to three tokens."""
    random = np.random.default_rng(seed)
    documents = []
    for _ in range(count):
        sizes = np.exp(random.normal(mean, 0.7, random.integers(1, 20))).astype(int) + 1
        documents.append(
            [(random.integers(200, 999, n), random.random(n) < 0.6) for n in sizes.tolist()]
        )
    return Documents.from_lists(documents)


def reference_batch(documents, examples, ids):
    """The batch, written token by token from the definition."""
    batch = {
        name: np.zeros((len(ids), LENGTH), dtype)
        for name, dtype in [
            ("tokens", np.int32),
            ("segments", np.int32),
            ("positions", np.int32),
            ("token_types", np.int32),
            ("word_starts", bool),
        ]
    }
    batch |= {
        name: np.zeros((len(ids), MOST), np.int32) for name in ("first_tokens", "pair_labels")
    }
    batch["pair_weights"] = np.zeros((len(ids), MOST), np.float32)
    for b, row in enumerate(ids):
        column = 0
        for e, example in enumerate(row.tolist()):
            written = [(CLS, 0, True)]
            first, last = examples.offsets[example], examples.offsets[example + 1]
            for k, segment in enumerate(range(first, last)):
                token_type = k if examples.labels is not None else 0
                start = int(examples.starts[segment])
                for place in range(start, start + int(examples.sizes[segment])):
                    begins = bool(documents.word_starts[place]) or place == start
                    written.append((documents.paragraphs.tokens[place], token_type, begins))
                written.append((SEP, token_type, True))
            batch["first_tokens"][b, e] = column
            if examples.labels is not None:
                batch["pair_labels"][b, e] = examples.labels[example]
                batch["pair_weights"][b, e] = 1
            for position, (token, token_type, begins) in enumerate(written):
                batch["tokens"][b, column] = token
                batch["segments"][b, column] = e + 1
                batch["positions"][b, column] = position
                batch["token_types"][b, column] = token_type
                batch["word_starts"][b, column] = begins
                column += 1
    return batch


def assert_same(batch, other):
    assert batch.keys() == other.keys()
    for name in batch:
        np.testing.assert_array_equal(batch[name], other[name], err_msg=name)
        assert batch[name].dtype == other[name].dtype, name


@pytest.mark.parametrize("make", ALL)
def test_a_batch_is_what_the_definition_writes_token_by_token(make):
    documents = random_documents()
    examples = make(documents, max_tokens=40, seed=0, epoch=0)
    rows = plan_rows(examples, row_length=LENGTH, row_examples=MOST, seed=0, epoch=0)
    batch = build_rows(documents, rows[:], row_length=LENGTH, row_examples=MOST, **SPECIAL)
    assert_same(batch, reference_batch(documents, examples, rows.ids))
    assert sorted(np.concatenate(rows.ids).tolist()) == list(range(len(examples)))


def test_a_row_is_laid_out_as_written_by_hand():
    documents = Documents.from_lists(
        [[([11, 12, 13], [True, False, True]), ([14], [True])], [([21, 22], [True, True])]]
    )
    examples = sop_pairs(documents, max_tokens=16, seed=0, epoch=0)
    examples.starts[:], examples.sizes[:] = [3, 0, 4, 5], [1, 3, 1, 1]  # 14 | 11 12 13, 21 | 22
    examples.labels[:] = [1, 0]
    row = plan_rows(examples, row_length=16, row_examples=3, seed=0, epoch=0)._segments(
        np.array([0, 1])
    )
    batch = build_rows(documents, [row], row_length=16, row_examples=3, **SPECIAL)
    t, f = True, False
    expected = {
        "tokens": [CLS, 14, SEP, 11, 12, 13, SEP, CLS, 21, SEP, 22, SEP, 0, 0, 0, 0],
        "segments": [1, 1, 1, 1, 1, 1, 1, 2, 2, 2, 2, 2, 0, 0, 0, 0],
        "positions": [0, 1, 2, 3, 4, 5, 6, 0, 1, 2, 3, 4, 0, 0, 0, 0],
        "token_types": [0, 0, 0, 1, 1, 1, 1, 0, 0, 0, 1, 1, 0, 0, 0, 0],
        "word_starts": [t, t, t, t, f, t, t, t, t, t, t, t, f, f, f, f],
        "first_tokens": [0, 7, 0],
        "pair_labels": [1, 0, 0],
        "pair_weights": [1, 1, 0],
    }
    assert {name: array[0].tolist() for name, array in batch.items()} == expected


def test_full_sentences_have_a_separator_between_documents_and_no_pairs():
    documents = Documents.from_lists([[([11, 12], [True, True])], [([21], [True])]])
    examples = full_sentences(documents, max_tokens=16, seed=0, epoch=0)
    rows = plan_rows(examples, row_length=8, row_examples=2, seed=0, epoch=0)
    batch = build_rows(documents, rows[:], row_length=8, row_examples=2, **SPECIAL)
    texts = {(CLS, 11, 12, SEP, 21, SEP, 0, 0), (CLS, 21, SEP, 11, 12, SEP, 0, 0)}
    assert tuple(batch["tokens"][0].tolist()) in texts
    assert batch["segments"].tolist() == [[1] * 6 + [0, 0]]
    assert not batch["token_types"].any()
    assert not batch["pair_weights"].any() and not batch["pair_labels"].any()


def test_a_segment_begins_a_word_even_where_a_long_word_was_cut():
    documents = Documents.from_lists([[(range(200, 300), [True] + [False] * 99)]] * 2)
    examples = nsp_pairs(documents, max_tokens=16, seed=0, epoch=0)
    rows = plan_rows(examples, row_length=LENGTH, row_examples=MOST, seed=0, epoch=0)
    batch = build_rows(documents, rows[:], row_length=LENGTH, row_examples=MOST, **SPECIAL)
    special = np.isin(batch["tokens"], (CLS, SEP))
    behind = np.roll(special, 1, axis=1) & (batch["segments"] > 0)
    assert batch["word_starts"][behind | special].all()
    assert not batch["word_starts"][~behind & ~special].any()


def test_rows_without_examples_are_padding():
    documents = random_documents()
    empty = [np.zeros(0, np.int64)] * 3
    batch = build_rows(documents, empty, row_length=LENGTH, row_examples=MOST, **SPECIAL)
    assert all(array.shape == (3, LENGTH) for array in list(batch.values())[:5])
    assert all(array.shape == (3, MOST) for array in list(batch.values())[5:])
    assert not any(array.any() for array in batch.values())


def test_an_empty_row_among_others_changes_none_of_them():
    documents = random_documents()
    examples = nsp_pairs(documents, max_tokens=40, seed=0, epoch=0)
    rows = plan_rows(examples, row_length=LENGTH, row_examples=MOST, seed=0, epoch=0)[:3]
    shape = {"row_length": LENGTH, "row_examples": MOST}
    whole = build_rows(documents, rows, **shape, **SPECIAL)
    rows.insert(1, np.zeros(0, np.int64))
    holed = build_rows(documents, rows, **shape, **SPECIAL)
    assert_same(whole, {name: np.delete(array, 1, axis=0) for name, array in holed.items()})
    assert not any(array[1].any() for array in holed.values())


def test_what_does_not_fit_is_refused():
    documents = random_documents()
    examples = nsp_pairs(documents, max_tokens=40, seed=0, epoch=0)
    rows = plan_rows(examples, row_length=LENGTH, row_examples=MOST, seed=0, epoch=0)[:]
    with pytest.raises(ValueError, match="more than 1 examples"):
        build_rows(documents, rows, row_length=LENGTH, row_examples=1, **SPECIAL)
    with pytest.raises(ValueError, match=r"row \d+ has more than 32 tokens"):
        build_rows(documents, rows, row_length=32, row_examples=MOST, **SPECIAL)
    with pytest.raises(ValueError, match="a row holds 32"):
        plan_rows(examples, row_length=32, row_examples=MOST, seed=0, epoch=0)


@pytest.mark.parametrize("max_tokens", [128, 512])
@pytest.mark.parametrize("make", [nsp_pairs, sop_pairs])  # whole sentences leave gaps
def test_at_least_95_percent_of_the_positions_are_filled(make, max_tokens):
    documents = random_documents(600, mean=2.8)  # sentences of 21 tokens
    examples = make(documents, max_tokens=max_tokens, seed=0, epoch=0)
    rows = plan_rows(examples, row_length=512, row_examples=16, seed=0, epoch=0)
    assert examples.lengths.sum() >= 0.95 * 512 * len(rows)
    assert max(map(len, rows.ids)) <= 16


def test_batches_continue_across_epochs_with_the_pairs_of_each():
    documents = random_documents(12)
    shape = {"row_length": LENGTH, "row_examples": MOST}

    def plan(epoch):
        examples = nsp_pairs(documents, max_tokens=40, seed=0, epoch=epoch)
        return plan_rows(examples, **shape, seed=0, epoch=epoch)

    def build(rows):
        return build_rows(documents, rows, **shape, **SPECIAL)

    run = list(itertools.islice(batches(plan, build, batch_size=4), 20))
    assert run[-1][1].epoch >= 1
    read = [
        {name: np.concatenate([batch[name] for batch in epoch]) for name in epoch[0]}
        for epoch in _by_epoch(run)
    ]
    for epoch, arrays in enumerate(read[:-1]):
        rows = plan(epoch)
        expected = build(rows[:])
        assert_same({k: v[: len(rows)] for k, v in arrays.items()}, expected)
        assert not any(v[len(rows) :].any() for v in arrays.values())
    again = list(itertools.islice(batches(plan, build, batch_size=4, start=run[2][1]), 17))
    for (batch, state), (other, other_state) in zip(run[3:], again, strict=True):
        assert state == other_state
        assert_same(batch, other)


def _by_epoch(run):
    epochs, current = [], []
    for batch, state in run:
        current.append(batch)
        if state.batch == 0:
            epochs.append(current)
            current = []
    return [*epochs, current] if current else epochs

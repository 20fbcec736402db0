"""Pairs and full sentences: what each epoch uses, how it is cut, and what labels mean."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from transformer_jax.data.sentence_pairs import (
    Documents,
    full_sentences,
    nsp_pairs,
    sop_pairs,
)
from transformer_jax.errors import UserError

ALL = (nsp_pairs, sop_pairs, full_sentences)


def documents_of(sizes, word=3):
    """Documents whose paragraphs have these many tokens; words of `word` tokens."""
    token = iter(range(10**6))
    return Documents.from_lists(
        [[([next(token) for _ in range(n)], np.arange(n) % word == 0) for n in d] for d in sizes]
    )


def random_documents(count=60, longest=20, most=15, seed=0):
    random = np.random.default_rng(seed)
    return documents_of(
        [random.integers(1, longest + 1, random.integers(1, most)).tolist() for _ in range(count)]
    )


def spans(examples):
    """Per example, its segments as (start, end)."""
    ends = examples.starts + examples.sizes
    pairs = list(zip(examples.starts.tolist(), ends.tolist(), strict=True))
    offsets = examples.offsets.tolist()
    return [pairs[a:b] for a, b in zip(offsets[:-1], offsets[1:], strict=True)]


def document_at(documents, place):
    return int(np.searchsorted(documents.token_borders, place, side="right")) - 1


def times_used(documents, segments):
    used = np.zeros(len(documents.word_starts), int)
    for start, end in segments:
        used[start:end] += 1
    return used


def true_text(examples):
    """The segments that are no random B."""
    return [
        segment
        for pair, label in zip(spans(examples), examples.labels, strict=True)
        for segment in (pair[:1] if label else pair)
    ]


CORPORA = st.lists(st.lists(st.integers(0, 12), max_size=6), min_size=2, max_size=8).filter(
    lambda sizes: sum(sum(d) > 1 for d in sizes) >= 2
)


@settings(max_examples=200)
@given(CORPORA, st.integers(5, 24), st.integers(0, 9), st.integers(0, 9), st.integers(1, 14))
def test_each_token_stands_once_in_true_text_and_no_example_is_too_long(
    sizes, max_tokens, seed, epoch, word
):
    documents = documents_of(sizes, word)
    arguments = {"max_tokens": max_tokens, "seed": seed, "epoch": epoch}
    borders = documents.token_borders

    nsp = nsp_pairs(documents, **arguments)
    assert (times_used(documents, true_text(nsp)) == 1).all()

    sop = sop_pairs(documents, **arguments)
    used = times_used(documents, [segment for pair in spans(sop) for segment in pair])
    assert used.max() == 1
    for start, end in zip(borders[:-1], borders[1:], strict=True):
        left = np.flatnonzero(used[start:end] == 0).tolist()
        assert left in ([], [0], [end - start - 1])  # only a token at an end may be left over

    full = full_sentences(documents, **arguments)
    assert (times_used(documents, [s for e in spans(full) for s in e]) == 1).all()

    for examples in (nsp, sop, full):
        assert examples.sizes.min() >= 1
        assert examples.lengths.max() <= max_tokens
        expected = [1 + sum(end - start + 1 for start, end in e) for e in spans(examples)]
        assert examples.lengths.tolist() == expected
        for start, end in (segment for e in spans(examples) for segment in e):
            assert document_at(documents, start) == document_at(documents, end - 1)
    assert all(len(pair) == 2 for examples in (nsp, sop) for pair in spans(examples))
    for (a, b), label in zip(spans(nsp), nsp.labels, strict=True):
        if label:
            assert document_at(documents, a[0]) != document_at(documents, b[0])
        else:
            assert a[1] == b[0]
    for (a, b), label in zip(spans(sop), sop.labels, strict=True):
        assert b[1] == a[0] if label else a[1] == b[0]


@pytest.mark.parametrize("pairs", [nsp_pairs, sop_pairs])
@pytest.mark.parametrize("max_tokens", [16, 64])
def test_half_of_the_pairs_have_label_1(pairs, max_tokens):
    documents = random_documents(400)
    found = [pairs(documents, max_tokens=max_tokens, seed=0, epoch=e) for e in range(3)]
    # The last token of a document, if it is left over, has nothing that could continue it.
    labels = np.concatenate([examples.labels[examples.sizes[::2] > 1] for examples in found])
    assert set(labels.tolist()) == {0, 1}
    assert abs(labels.mean() - 0.5) < 4 * 0.5 / np.sqrt(len(labels))


@pytest.mark.parametrize("pairs", [nsp_pairs, sop_pairs])
def test_pairs_are_cut_between_paragraphs_where_there_are_two(pairs):
    documents = random_documents(100, longest=5)
    between = set(documents.paragraphs.offsets.tolist())
    examples = pairs(documents, max_tokens=40, seed=0, epoch=0)
    longer = 0
    for pair, label in zip(spans(examples), examples.labels, strict=True):
        if pairs is nsp_pairs and label:
            continue
        (start, middle), (other, end) = sorted(pair)
        assert middle == other
        if any(start < place < end for place in between):
            assert {middle, end} <= between
            longer += 1
    assert longer > 0.5 * (examples.labels == 0).sum()


def test_a_pair_takes_as_many_paragraphs_as_fit_but_for_a_tenth_of_random_length():
    documents = documents_of([[1] * 40_000, [1]], word=1)
    for pairs in (nsp_pairs, sop_pairs):
        examples = pairs(documents, max_tokens=23, seed=0, epoch=0)
        length = (
            examples.lengths[examples.labels == 0][:-1]
            if pairs is nsp_pairs
            else (examples.lengths[:-1])
        )
        # 10 % are short, and 1 in 19 of these has the full length after all.
        expected, n = 0.1 * 18 / 19, len(length)
        share = (length < 23).mean()
        assert abs(share - expected) < 4 * np.sqrt(expected / n)
        short = length[length < 23] - 3
        assert short.min() >= 2
        assert abs(short.mean() - (2 + 19) / 2) < 4 * 5.2 / np.sqrt(len(short))


def test_a_random_second_segment_fills_the_room_like_a_true_one():
    documents = documents_of([[2] * 3000, [2] * 3000], word=1)
    examples = nsp_pairs(documents, max_tokens=45, seed=0, epoch=0)
    random = examples.lengths[examples.labels == 1]
    true = examples.lengths[examples.labels == 0]
    assert (random == 45).mean() == pytest.approx((true == 45).mean(), abs=0.1)
    assert random.mean() == pytest.approx(true.mean(), rel=0.05)


def test_random_second_segments_come_from_all_other_documents_alike():
    documents = documents_of([[4, 2, 3, 4]] * 7)
    counts = np.zeros(7)
    for epoch in range(400):
        examples = nsp_pairs(documents, max_tokens=19, seed=0, epoch=epoch)
        for (a, b), label in zip(spans(examples), examples.labels, strict=True):
            if label and document_at(documents, a[0]) == 0:
                counts[document_at(documents, b[0])] += 1
    others = counts[1:]
    assert counts[0] == 0 and others.sum() > 400
    chi_square = ((others - others.mean()) ** 2 / others.mean()).sum()
    assert chi_square < 25.7  # 5 degrees of freedom, p = 0.0001


def prose_like(count=1500, seed=0):
    """Documents of paragraphs of very different lengths."""
    random = np.random.default_rng(seed)
    sizes = [2 + random.lognormal(2.5, 1.0, random.integers(1, 12)) for _ in range(count)]
    return documents_of([d.astype(int).tolist() for d in sizes], word=1)


@pytest.mark.parametrize("pairs", [nsp_pairs, sop_pairs])
@pytest.mark.parametrize(("max_tokens", "cell"), [(32, 2), (64, 4), (256, 16)])
def test_the_lengths_of_the_segments_do_not_tell_the_label(pairs, max_tokens, cell):
    documents = prose_like()
    tables = np.zeros((2, 256 // cell + 1, 256 // cell + 1))  # label 1 less label 0, per lengths
    halves = []
    for epoch in range(2):
        examples = pairs(documents, max_tokens=max_tokens, seed=0, epoch=epoch)
        half = np.searchsorted(documents.token_borders, examples.starts[::2], side="right") % 2
        sizes = examples.sizes.reshape(-1, 2)
        used = sizes[:, 0] > 1  # the last token of a document has nothing that could continue it
        found = (half, *(sizes // cell).T, 2 * examples.labels - 1)
        halves.append([values[used] for values in found])
        np.add.at(tables, tuple(halves[-1][:3]), halves[-1][3])
    half, a, b, sign = map(np.concatenate, zip(*halves, strict=True))
    # Learnt from every other document, tried on the rest.
    right = (1 + np.sign(tables[1 - half, a, b]) * sign) / 2
    assert len(right) > 2000
    assert right.mean() < 0.5 + 3 * 0.5 / np.sqrt(len(right))


def test_random_second_segments_are_cut_like_true_ones():
    documents = prose_like()
    between = set(documents.paragraphs.offsets.tolist())
    examples = nsp_pairs(documents, max_tokens=64, seed=0, epoch=0)
    inside, borders, titles = {0: [], 1: []}, set(documents.token_borders.tolist()), 0
    for (_, b), label in zip(spans(examples), examples.labels.tolist(), strict=True):
        inside[label].append([place not in between for place in b])
        titles += b[0] in borders
    assert titles < 0.02 * len(examples)  # a true B never begins a document
    true, random = np.mean(inside[0], axis=0), np.mean(inside[1], axis=0)
    deviation = np.sqrt(true * (1 - true) * (1 / len(inside[0]) + 1 / len(inside[1])))
    assert (true > 0.02).all()  # the law is not empty
    assert (np.abs(true - random) < 4 * deviation).all()


def test_where_a_second_segment_begins_does_not_tell_the_label():
    documents = random_documents(400, longest=30)
    between = set(documents.paragraphs.offsets.tolist())
    inside = {0: [], 1: []}
    for epoch in range(2):
        examples = nsp_pairs(documents, max_tokens=48, seed=0, epoch=epoch)
        for (_, b), label in zip(spans(examples), examples.labels.tolist(), strict=True):
            inside[label].append(b[0] not in between)
    shares, counts = [np.mean(inside[k]) for k in (0, 1)], [len(inside[k]) for k in (0, 1)]
    assert min(shares) > 0.1  # the law is not empty
    # A pair that is cut inside a paragraph is so with either label; a third of a paragraph that is
    # one word cannot be cut there.
    deviation = np.sqrt(sum(p * (1 - p) / n for p, n in zip(shares, counts, strict=True)))
    assert abs(shares[0] - shares[1]) < 4 * deviation


@pytest.mark.parametrize("make", ALL)
def test_a_long_paragraph_is_cut_between_words_but_for_a_last_word_alone(make):
    documents = documents_of([[400], [300], [90]])  # words of 3 tokens
    examples = make(documents, max_tokens=32, seed=0, epoch=0)
    inside = ~documents.word_starts[examples.starts]
    assert examples.sizes[inside].max(initial=0) <= 2
    assert inside.mean() < 0.1
    assert (examples.lengths >= 28).mean() > 0.3


def test_a_word_that_is_longer_than_an_example_is_cut_inside():
    documents = documents_of([[100], [100]], word=100)
    for make in ALL:
        assert make(documents, max_tokens=16, seed=0, epoch=0).lengths.max() <= 16


def test_full_sentences_follow_one_another_and_another_paragraph_would_not_fit():
    documents = random_documents(50)
    examples = spans(full_sentences(documents, max_tokens=48, seed=0, epoch=0))
    offsets, borders = documents.paragraphs.offsets, documents.token_borders
    order = [segment for example in examples for segment in example]
    for (_, end), (start, _) in zip(order[:-1], order[1:], strict=True):
        assert start == end or (start in borders and end in borders)
    for example, following in zip(examples[:-1], examples[1:], strict=True):
        length = 1 + sum(end - start + 1 for start, end in example)
        start = following[0][0]
        next_size = int(offsets[np.searchsorted(offsets, start, side="right")]) - start
        crosses = start != example[-1][1]
        assert length + next_size + crosses > 48
        assert {example[0][0], example[-1][1]} <= set(offsets.tolist())
    firsts = [document_at(documents, start) for start, _ in order if start in borders]
    assert sorted(firsts) == list(range(50)) != firsts


@pytest.mark.parametrize("make", ALL)
def test_an_epoch_is_a_function_of_seed_and_epoch(make):
    documents = random_documents()

    def epoch_of(seed, epoch):
        return spans(make(documents, max_tokens=32, seed=seed, epoch=epoch))

    first = epoch_of(3, 2)
    assert first == epoch_of(3, 2)
    for other in (epoch_of(3, 3), epoch_of(2, 2)):
        assert other != first
        if make is not full_sentences:  # which begins anew where a document does not fit
            assert len({tuple(e) for e in first} & {tuple(e) for e in other}) < 0.5 * len(first)


def test_examples_do_not_depend_on_the_machine():
    # Written down once: what another platform or numpy has to give, too.
    documents = documents_of([[3, 4, 2], [5], [2, 6]])
    arguments = {"max_tokens": 11, "seed": 1, "epoch": 1}
    nsp, sop = nsp_pairs(documents, **arguments), sop_pairs(documents, **arguments)
    assert (spans(nsp), nsp.labels.tolist()) == NSP
    assert (spans(sop), sop.labels.tolist()) == SOP
    assert spans(full_sentences(documents, **arguments)) == FULL


NSP = (
    [
        [(0, 3), (16, 19)],
        [(3, 7), (16, 19)],
        [(7, 8), (8, 9)],
        [(9, 12), (12, 14)],
        [(14, 16), (3, 7)],
        [(16, 19), (19, 22)],
    ],
    [1, 1, 0, 0, 1, 0],
)
SOP = (
    [[(7, 9), (3, 7)], [(0, 1), (1, 3)], [(9, 12), (12, 14)], [(14, 16), (16, 22)]],
    [1, 0, 0, 0],
)
FULL = [[(9, 14), (14, 16)], [(16, 22)], [(0, 9)]]


def test_documents_of_one_sentence_make_pairs():
    documents = documents_of([[9]] * 40)
    nsp = nsp_pairs(documents, max_tokens=32, seed=0, epoch=0)
    assert 0.25 < nsp.labels.mean() < 0.75
    sop = sop_pairs(documents, max_tokens=32, seed=0, epoch=0)
    whole = [sum(end - start for start, end in pair) for pair in spans(sop)]
    assert len(sop) >= 40 and whole.count(9) > 30


def test_one_document_has_no_random_sentences_but_can_be_put_in_order():
    documents = documents_of([[], [4, 5, 6], [0]])
    with pytest.raises(UserError, match="1 of 3 documents have text"):
        nsp_pairs(documents, max_tokens=16, seed=0, epoch=0)
    assert len(sop_pairs(documents, max_tokens=16, seed=0, epoch=0))
    assert len(full_sentences(documents, max_tokens=16, seed=0, epoch=0))


def test_no_text_is_an_error():
    for sizes in ([], [[]], [[0], [0, 0]]):
        for make in ALL:
            with pytest.raises(UserError):
                make(documents_of(sizes), max_tokens=16, seed=0, epoch=0)
    with pytest.raises(UserError, match="two tokens"):
        sop_pairs(documents_of([[1], [1]]), max_tokens=16, seed=0, epoch=0)


def test_an_example_without_room_is_refused():
    documents = documents_of([[4], [4]])
    for make, least in ((nsp_pairs, 5), (sop_pairs, 5), (full_sentences, 4)):
        make(documents, max_tokens=least, seed=0, epoch=0)
        with pytest.raises(ValueError, match=f"needs {least} or more"):
            make(documents, max_tokens=least - 1, seed=0, epoch=0)


def test_documents_hold_what_they_were_made_of():
    documents = Documents.from_lists([[([5, 6], [True, False]), ([], [])], [], [([7], [True])]])
    assert [p.tolist() for p in documents.paragraphs] == [[5, 6], [], [7]]
    assert documents.word_starts.tolist() == [True, False, True]
    assert documents.borders.tolist() == [0, 2, 2, 3]
    assert documents.token_borders.tolist() == [0, 2, 2, 3]
    with pytest.raises(ValueError, match="2 tokens have 1 word starts"):
        Documents.from_lists([[([5, 6], [True])]])

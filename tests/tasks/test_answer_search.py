"""The search for answers against loops over all pairs of tokens, and by hand."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from transformer_jax.data.squad import Window
from transformer_jax.tasks.answer_search import (
    Answer,
    best_answers,
    best_text,
    final_answer,
    null_odds,
)

CONTEXT = "ab cd ab ef"
SPANS = np.array([(0, 2), (3, 5), (6, 8), (9, 11)], np.int64)
LOW = -50.0


def window(begin, end, has_max_context=None, question=2):
    """The tokens begin..end-1 of the context, with a question of some tokens."""
    if has_max_context is None:
        has_max_context = [True] * (end - begin)
    return Window(
        question_ids=np.zeros(question, np.int32),
        context_ids=np.zeros(end - begin, np.int32),
        spans=SPANS[begin:end],
        has_max_context=np.array(has_max_context, bool),
        answer=None,
    )


def logits(values, *, null=LOW, question=2):
    """Of [CLS] question [SEP] context [SEP]."""
    return np.array([null, *[LOW] * (question + 1), *values, LOW], np.float32)


def search(values, *, null=False, **settings):
    """The texts that are found in one window of the whole context."""
    starts, ends = ([logits(side)] for side in values)
    return best_answers([window(0, 4)], starts, ends, CONTEXT, null=null, **settings)


def test_the_best_start_and_end_give_the_text_between_them():
    best = search(([0, 9, 0, 1], [1, 0, 8, 0]))[0]
    assert (best.text, best.start_char, best.end_char, best.score) == ("cd ab", 3, 8, 17.0)
    assert CONTEXT[3:8] == "cd ab"


def test_an_answer_does_not_end_before_it_begins():
    found = search(([0, 1, 5, 0], [0, 9, 0, 0]))
    assert (found[0].text, found[0].score) == ("cd", 10)  # 5 + 9 would go back
    assert {(a.start_char, a.end_char) for a in found} <= {
        (int(a), int(b)) for a in SPANS[:, 0] for b in SPANS[:, 1] if a < b
    }


def test_an_answer_has_at_most_so_many_tokens():
    sides = ([9, 0, 0, 0], [0, 0, 0, 9])
    assert search(sides)[0].text == CONTEXT
    assert search(sides, max_answer_tokens=4)[0].text == CONTEXT
    assert search(sides, max_answer_tokens=3)[0].text == "ab"


def test_the_question_and_special_tokens_are_no_answers_but_take_places():
    start, end = logits([1, 2, 3, 4]), logits([1, 2, 3, 4])
    start[2] = end[2] = 9  # in the question
    found = best_answers([window(0, 4)], [start], [end], CONTEXT, null=False, n_best=2)
    assert [a.text for a in found] == ["ef"]


def test_an_answer_begins_in_the_window_that_shows_most_around_it():
    windows = [window(0, 3, [True, True, False]), window(1, 4, [False, True, True])]
    starts = [logits([0, 0, 7]), logits([7, 1, 0])]
    ends = [logits([0, 0, 7]), logits([0, 2, 0])]
    best = best_answers(windows, starts, ends, CONTEXT, null=False)[0]
    assert (best.text, best.score) == ("ab cd ab", 7.0)  # its end may have less around it
    assert best.start_char == 0


def test_equal_texts_are_one_answer_at_the_best_place():
    found = search(([3, 0, 5, 0], [3, 0, 5, 0]))
    assert [a.text for a in found].count("ab") == 1
    assert found[0][2:] == (6, 8, 10.0)


def test_probabilities_are_the_softmax_of_the_scores():
    found = search(([math.log(6), LOW, LOW, math.log(2)], [0, LOW, LOW, 0]), n_best=2)
    assert [a.text for a in found] == ["ab", "ab cd ab ef"]
    odds = search(([math.log(6), LOW, LOW, math.log(2)], [0, LOW, LOW, LOW]), n_best=1)
    assert odds[0].probability == 1
    assert [a.probability for a in found] == pytest.approx([0.5, 0.5])
    three = search(([math.log(6), LOW, LOW, math.log(4)], [math.log(0.5), LOW, LOW, 0]))[:3]
    assert [a.text for a in three] == ["ab cd ab ef", "ef", "ab"]
    assert [a.probability for a in three] == pytest.approx([6 / 13, 4 / 13, 3 / 13])


def test_the_null_answer_has_its_lowest_score_of_all_windows():
    windows = [window(0, 2), window(2, 4)]
    starts = [logits([1, 0], null=4), logits([0, 1], null=2)]
    ends = [logits([1, 0], null=1), logits([0, 1], null=1.5)]
    found = best_answers(windows, starts, ends, CONTEXT, null=True)
    assert found[0][::4] == ("", 3.5)
    assert null_odds(found) == 1.5
    assert best_text(found) == "ab"
    assert [final_answer(found, t) for t in (0.0, 1.4, 1.5, 2.0)] == ["", "", "ab", "ab"]
    assert final_answer(found) == ""


@pytest.mark.parametrize(
    ("null", "texts"),
    [
        (9, ["", "ab", "ab cd"]),
        (8, ["ab", "", "ab cd"]),
        (7.5, ["ab", "", "ab cd"]),
        (6.5, ["ab", "ab cd", ""]),
        (5, ["ab", "ab cd", "cd", ""]),
    ],
)
def test_the_null_answer_takes_a_place_or_is_one_more(null, texts):
    start, end = logits([4, 3, 0, 0], null=40), logits([4, 3, LOW, LOW], null=null - 40)
    found = best_answers([window(0, 4)], [start], [end], CONTEXT, null=True, n_best=3)
    assert [a.text for a in found] == texts
    assert sum(a.probability for a in found) == pytest.approx(1)


def test_without_a_place_for_an_answer_there_is_none():
    empty = [window(0, 0)]
    assert best_answers(empty, [logits([])], [logits([])], "", null=False) == []
    assert final_answer([]) == best_text([]) == ""
    found = best_answers(empty, [logits([], null=1)], [logits([], null=2)], "", null=True)
    assert found == [Answer("", 1.0, 0, 0, 3.0)]
    assert null_odds(found) == math.inf
    assert final_answer(found, 1e9) == ""


def test_logits_of_other_tokens_are_refused():
    right = logits([0, 0, 0, 0])
    for start, end in [(right[:-1], right[:-1]), (right, right[1:])]:
        with pytest.raises(ValueError, match=r"2 \+ 4 \+ 3 tokens"):
            best_answers([window(0, 4)], [start], [end], CONTEXT, null=False)
    with pytest.raises(ValueError, match="zip"):
        best_answers([window(0, 4)], [right] * 2, [right] * 2, CONTEXT, null=False)


def reference(windows, starts, ends, *, null, n_best, longest):
    """Tries all pairs of each window's tokens; (text, start, end, score) from the best on."""
    found = []
    for window, start, end in zip(windows, starts, ends, strict=True):
        offset = len(window.question_ids) + 2
        ranked = [sorted(range(len(x)), key=lambda i, x=x: (-x[i], i)) for x in (start, end)]
        for i in ranked[0][:n_best]:
            for j in ranked[1][:n_best]:
                a, b = i - offset, j - offset
                if min(a, b) < 0 or max(a, b) >= len(window.context_ids) or not a <= b:
                    continue
                if b - a >= longest or not window.has_max_context[a]:
                    continue
                place = int(window.spans[a][0]), int(window.spans[b][1])
                found.append((CONTEXT[slice(*place)], *place, float(start[i]) + float(end[j])))
    nothing = min(float(s[0]) + float(e[0]) for s, e in zip(starts, ends, strict=True))
    if null:
        found.append(("", 0, 0, nothing))
    found.sort(key=lambda answer: -answer[3])  # equal ones stay in order
    kept = []
    for answer in found:
        if len(kept) < n_best and answer[0] not in [other[0] for other in kept]:
            kept.append(answer)
    if null and "" not in [answer[0] for answer in kept]:
        kept.append(("", 0, 0, nothing))
    return kept


NUMBERS = st.integers(-3, 3) | st.floats(-5, 5, width=32)


@st.composite
def searches(draw):
    windows, sides = [], ([], [])
    for _ in range(draw(st.integers(1, 3))):
        begin = draw(st.integers(0, 3))
        end, question = draw(st.integers(begin, 4)), draw(st.integers(0, 2))
        flags = draw(st.lists(st.booleans(), min_size=end - begin, max_size=end - begin))
        windows.append(window(begin, end, flags, question))
        for side in sides:
            size = end - begin + question + 3
            side.append(np.array(draw(st.lists(NUMBERS, min_size=size, max_size=size)), np.float32))
    return windows, *sides


@given(searches(), st.booleans(), st.integers(1, 9), st.integers(1, 4))
def test_answers_against_loops(question, null, n_best, longest):
    found = best_answers(*question, CONTEXT, null=null, n_best=n_best, max_answer_tokens=longest)
    expected = reference(*question, null=null, n_best=n_best, longest=longest)
    assert [(a.text, *a[2:]) for a in found] == expected
    total = sum(math.exp(answer[3]) for answer in expected)
    assert [a.probability for a in found] == pytest.approx(
        [math.exp(answer[3]) / total for answer in expected]
    )
    if null and len(expected) > 1:
        [none] = [answer[3] for answer in expected if not answer[0]]
        assert null_odds(found) == none - next(answer[3] for answer in expected if answer[0])

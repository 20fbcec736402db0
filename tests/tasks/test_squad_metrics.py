"""Exact match and F1 against references in plain Python, written from their description."""

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from transformer_jax.data.squad import Question
from transformer_jax.tasks.squad_metrics import (
    best_threshold,
    exact_match,
    f1_score,
    normalize_answer,
    squad_scores,
)

PUNCTUATION = "!\"#$%&'()*+,-./:;<=>?@[\\]^_`{|}~"
PARTS = ["the", "a", "An", "cat", "Cat", "theme", "é", " ", " ", ".", "'", "-", "_", "–", "\n", "1"]
ANSWERS = st.lists(st.sampled_from(PARTS), max_size=5).map("".join)


def ask(name, *answers):
    return Question(name, "?", "", tuple((text, 0) for text in answers), not answers)


def bare_words(text):
    """The words without articles; an article is a run of letters, digits or _ of its own."""
    kept = "".join(c for c in text.lower() if c not in PUNCTUATION)
    runs = re.findall(r"\w+|\W+", kept)
    return "".join(" " if run in ("a", "an", "the") else run for run in runs).split()


def overlap(prediction, answer):
    """F1 by crossing out each common word once; of empty lists, whether both are empty."""
    mine, left = bare_words(prediction), bare_words(answer)
    if not mine or not left:
        return 1.0 if mine == left else 0.0
    common, size = 0, len(left)
    for word in mine:
        if word in left:
            left.remove(word)
            common += 1
    if not common:
        return 0.0
    precision, recall = common / len(mine), common / size
    return 2 * precision * recall / (precision + recall)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("The  Eiffel-Tower!", "eiffeltower"),
        ("An apple, a day\n(the end)", "apple day end"),
        ("theme of a-theist and an_other", "theme of atheist and another"),
        ("the", ""),
        ("«A» – the", "« » –"),
        ("U.S.A. $5", "usa 5"),
        ("É a\u0301", "é \u0301"),
    ],
)
def test_what_is_left_of_an_answer(text, expected):
    assert normalize_answer(text) == expected


def test_scores_that_are_known():
    answers = ["the Denver Broncos", "Denver Broncos, of Colorado"]
    assert exact_match("Denver  broncos!", answers) == 1
    assert exact_match("Broncos", answers) == 0
    assert f1_score("Broncos", answers) == pytest.approx(2 / 3)  # 1 of 1, 1 of 2
    assert f1_score("Broncos of Colorado", answers) == pytest.approx(6 / 7)  # 3 of 3, 3 of 4
    assert f1_score("Denver Denver", ["Denver"]) == pytest.approx(2 / 3)  # once only
    assert f1_score("Carolina", answers) == 0


def test_no_answer_is_right_only_if_there_is_none():
    assert [m("", [""]) for m in (exact_match, f1_score)] == [1, 1]
    assert [m("", ["cat"]) for m in (exact_match, f1_score)] == [0, 0]
    assert [m("cat", [""]) for m in (exact_match, f1_score)] == [0, 0]


@given(ANSWERS, st.lists(ANSWERS.filter(bool), min_size=1, max_size=3))
def test_scores_against_the_reference(prediction, answers):
    assert normalize_answer(prediction).split() == bare_words(prediction)
    exact = max(float(bare_words(prediction) == bare_words(answer)) for answer in answers)
    assert exact_match(prediction, answers) == exact
    if bare_words(prediction):  # or else the versions differ, see below
        f1 = max(overlap(prediction, answer) for answer in answers)
        assert f1_score(prediction, answers) == pytest.approx(f1)


def test_an_answer_of_articles_alone_counts_in_the_first_version_only():
    """evaluate-v1.1.py finds no common word there, evaluate-v2.0.py leaves such answers out."""
    first, second = [ask("a", "A")], [ask("a", "A"), ask("b")]
    assert squad_scores(first, {"a": "a"}) == {"exact": 100, "f1": 0, "total": 1}
    scores = squad_scores(second, {"a": "the", "b": ""})
    assert (scores["HasAns_exact"], scores["HasAns_f1"]) == (100, 100)
    more = [ask("a", "A", "cat"), ask("b")]
    assert squad_scores(more, {"a": "the", "b": ""})["HasAns_exact"] == 0
    assert squad_scores(more[:1], {"a": "the"})["exact"] == 100


def test_figures_that_are_known():
    questions = [ask("a", "cat", "a black cat"), ask("b", "dog house"), ask("c"), ask("d")]
    predictions = {"a": "The cat", "b": "house", "c": "", "d": "dog", "other": "x"}
    assert squad_scores(questions, predictions) == pytest.approx(
        {
            "exact": 50,
            "f1": 100 * (1 + 2 / 3 + 1 + 0) / 4,
            "total": 4,
            "HasAns_exact": 50,
            "HasAns_f1": 100 * (1 + 2 / 3) / 2,
            "HasAns_total": 2,
            "NoAns_exact": 50,
            "NoAns_f1": 50,
            "NoAns_total": 2,
        }
    )
    assert squad_scores(questions[:2], predictions) == pytest.approx(
        {"exact": 50, "f1": 100 * 5 / 6, "total": 2}
    )
    alone = squad_scores(questions[3:], predictions)
    assert alone == dict.fromkeys(["exact", "f1", "NoAns_exact", "NoAns_f1"], 0) | {
        "total": 1,
        "NoAns_total": 1,
    }


def test_a_question_without_prediction_or_odds_is_an_error():
    questions = [ask("a", "x"), ask("b")]
    with pytest.raises(ValueError, match="1 questions have no prediction, the first is b"):
        squad_scores(questions, {"a": "x"})
    with pytest.raises(ValueError, match="1 questions have no odds, the first is a"):
        best_threshold(questions, {"a": "x", "b": "x"}, {"b": 0})
    with pytest.raises(ValueError, match="no questions"):
        squad_scores([], {})


def test_a_threshold_that_is_known():
    questions = [ask("a", "cat"), ask("b"), ask("c", "big dog"), ask("d")]
    predictions = {"a": "cat", "b": "x", "c": "dog", "d": "y"}
    odds = {"a": -3.0, "b": 1.0, "c": 0.5, "d": 4.0}
    # None answered: 2 right. With a: 3. With a and c: 3 exactly, 3 + 2/3 by F1. With b: fewer.
    assert best_threshold(questions, predictions, odds) == pytest.approx(
        {
            "best_exact": 75,
            "best_exact_thresh": -3.0,
            "best_f1": 100 * (3 + 2 / 3) / 4,
            "best_f1_thresh": 0.5,
        }
    )


@pytest.mark.parametrize("names", ["ab", "ba"])
def test_questions_of_equal_odds_are_all_answered_or_none(names):
    questions = [ask(names[0], "cat"), ask(names[1]), ask("c", "dog")]
    predictions = {names[0]: "cat", names[1]: "x", "c": "dog"}
    found = best_threshold(questions, predictions, {"a": -1.0, "b": -1.0, "c": -2.0})
    assert found["best_exact"] == found["best_f1"] == pytest.approx(200 / 3)
    assert found["best_exact_thresh"] == found["best_f1_thresh"] == -2


@pytest.mark.parametrize(("lowest", "at_most"), [(0.25, 0.0), (0.0, 0.0), (-2.0, -2.0)])
def test_if_none_should_be_answered_the_threshold_is_below_all_odds(lowest, at_most):
    questions = [ask("a", "cat"), ask("b")]
    found = best_threshold(questions, {"a": "x", "b": "x"}, {"a": lowest, "b": lowest + 1})
    assert found["best_exact"] == found["best_f1"] == 50
    threshold = found["best_exact_thresh"]
    assert threshold < lowest and threshold <= at_most
    assert threshold == pytest.approx(at_most)


EXAMPLES = st.lists(
    st.tuples(
        st.lists(ANSWERS.filter(bool), max_size=2),
        ANSWERS,
        st.integers(-3, 3) | st.floats(-4, 4) | st.just(float("inf")),
    ),
    min_size=1,
    max_size=7,
)


@given(EXAMPLES)
def test_no_threshold_is_better_than_the_best(examples):
    questions = [ask(str(i), *answers) for i, (answers, _, _) in enumerate(examples)]
    texts = {str(i): text for i, (_, text, _) in enumerate(examples)}
    odds = {str(i): number for i, (_, _, number) in enumerate(examples)}

    def at(threshold):
        kept = {name: "" if odds[name] > threshold else texts[name] for name in texts}
        return squad_scores(questions, kept)

    found = best_threshold(questions, texts, odds)
    for name in ("exact", "f1"):
        candidates = [-100.0, *odds.values()]
        best = max(at(threshold)[name] for threshold in candidates)
        assert found[f"best_{name}"] == pytest.approx(best)
        assert at(found[f"best_{name}_thresh"])[name] == pytest.approx(best)
        lower = [t for t in candidates if t < found[f"best_{name}_thresh"]]
        if found[f"best_{name}_thresh"] in odds.values():
            assert all(at(t)[name] <= best - 1e-9 for t in lower)

"""Metrics of classification against SciPy and plain loops over the examples."""

import math

import numpy as np
import pytest
import scipy.stats
from hypothesis import given
from hypothesis import strategies as st

from transformer_jax.data.glue import GLUE_TASKS
from transformer_jax.errors import UserError
from transformer_jax.tasks.classification_metrics import (
    accuracy,
    f1,
    glue_metrics,
    matthews,
    pearson,
    spearman,
)


def pairs_of(elements, least=1):
    """Two arrays of one length."""
    pairs = st.lists(st.tuples(elements, elements), min_size=least, max_size=30)
    return pairs.map(lambda rows: tuple(np.array(side) for side in zip(*rows, strict=True)))


def varies(*sides):
    return all(len(set(side.tolist())) > 1 for side in sides)


BINARY = pairs_of(st.integers(0, 1))
CLASSES = pairs_of(st.integers(0, 3))
# With ties, and far enough from each other for SciPy to be exact.
SCORES = pairs_of(st.integers(-20, 20).map(lambda number: number / 4), least=2)


@given(CLASSES)
def test_accuracy_is_the_share_of_equal_ones(sides):
    right = [p == t for p, t in zip(*sides, strict=True)]
    assert accuracy(*sides) == pytest.approx(right.count(True) / len(right), abs=1e-12)


@given(CLASSES)
def test_f1_is_the_harmonic_mean_of_precision_and_recall_of_class_1(sides):
    pairs = list(zip(*sides, strict=True))
    hits = pairs.count((1, 1))
    found, there = (sum(side == 1) for side in sides)
    precision, recall = hits / found if found else 0, hits / there if there else 0
    both = precision + recall
    expected = 2 * precision * recall / both if both else 0.0
    assert f1(*sides) == pytest.approx(expected, abs=1e-12)


def test_f1_of_nothing_to_find_is_zero():
    assert f1(np.zeros(3, int), np.zeros(3, int)) == 0.0


@given(BINARY)
def test_matthews_of_two_classes_is_their_correlation(sides):
    expected = scipy.stats.pearsonr(*sides).statistic if varies(*sides) else 0.0
    assert matthews(*sides) == pytest.approx(expected, abs=1e-9)


@given(CLASSES)
def test_matthews_of_more_classes_is_the_covariance_of_their_indicators(sides):
    one_hot = [np.eye(4)[side] for side in sides]

    def covariance(a, b):
        return sum(np.cov(a[:, k], b[:, k], bias=True)[0, 1] for k in range(4))

    expected = 0.0
    if varies(*sides):
        spread = covariance(one_hot[0], one_hot[0]) * covariance(one_hot[1], one_hot[1])
        expected = covariance(*one_hot) / math.sqrt(spread)
    assert matthews(*sides) == pytest.approx(expected, abs=1e-9)


def test_matthews_of_many_examples_does_not_overflow():
    sides = np.tile([0, 1, 1, 0], 200_000), np.tile([0, 1, 1, 1], 200_000)
    assert matthews(*sides) == pytest.approx(1 / math.sqrt(3))


@pytest.mark.parametrize("bits", ["int8", "int32", "bool"])
def test_class_numbers_may_have_any_type(bits):
    predictions, labels = np.tile([0, 1, 1, 0], 100), np.tile([0, 1, 1, 1], 100)
    for metric in (accuracy, f1, matthews):
        small = metric(predictions.astype(bits), labels.astype(bits))
        assert small == metric(predictions, labels)


@given(SCORES)
def test_correlations_are_those_of_scipy(sides):
    for ours, theirs in ((pearson, scipy.stats.pearsonr), (spearman, scipy.stats.spearmanr)):
        expected = theirs(*sides).statistic if varies(*sides) else 0.0
        assert ours(*sides) == pytest.approx(expected, abs=1e-9)


@given(SCORES)
def test_spearman_sees_only_the_order(sides):
    predictions, labels = sides
    assert spearman(np.exp(predictions), labels) == pytest.approx(spearman(*sides), abs=1e-12)


@pytest.mark.parametrize("value", [0.0, 0.1, -1e-300, 1e300, 3.3])
@pytest.mark.parametrize("count", [1, 2, 7, 1000])
def test_what_does_not_vary_has_no_correlation(value, count):
    constant, rising = np.full(count, value), np.arange(count) / 7
    for metric in (pearson, spearman):
        assert metric(constant, rising) == metric(rising, constant) == 0.0
        assert metric(constant, constant) == 0.0
    same = np.ones(count, int)
    assert matthews(same, same) == matthews(same, np.arange(count) % 2) == 0.0


@pytest.mark.parametrize("scale", [1e-300, 1e-30, 1.0, 1e300])
def test_pearson_does_not_depend_on_the_scale(scale):
    predictions, labels = np.array([1.0, 2.0, 4.0, 3.0]), np.array([1.0, 3.0, 2.0, 5.0])
    expected = scipy.stats.pearsonr(predictions, labels).statistic
    assert pearson(scale * predictions, labels) == pytest.approx(expected, abs=1e-12)


def test_predictions_that_are_not_finite_do_not_get_a_score():
    labels = np.arange(4.0)
    for bad in (math.nan, math.inf):
        predictions = np.array([0.0, 1.0, 2.0, bad])
        assert math.isnan(pearson(predictions, labels))
        assert math.isnan(spearman(predictions, labels))


@pytest.mark.parametrize("metric", [accuracy, f1, matthews, pearson, spearman])
def test_shapes_that_do_not_match_are_refused(metric):
    for predictions, labels in (([], []), ([1], [1, 0]), ([[1]], [[1]]), ([1, 0], [[1, 0]])):
        with pytest.raises(ValueError, match="shape"):
            metric(np.array(predictions), np.array(labels))


# The benchmark's table 1; "m/mm acc." of MNLI is one for each of its two names.
OFFICIAL = {
    "cola": {"matthews": matthews},
    "sst2": {"accuracy": accuracy},
    "mrpc": {"accuracy": accuracy, "f1": f1},
    "stsb": {"pearson": pearson, "spearman": spearman},
    "qqp": {"accuracy": accuracy, "f1": f1},
    "mnli": {"accuracy": accuracy},
    "mnli_mismatched": {"accuracy": accuracy},
    "qnli": {"accuracy": accuracy},
    "rte": {"accuracy": accuracy},
    "wnli": {"accuracy": accuracy},
    "ax": {"matthews": matthews},
}


@pytest.mark.parametrize("name", GLUE_TASKS)
def test_each_task_has_its_official_metrics(name):
    predictions, labels = np.array([0, 1, 1, 0, 1]), np.array([0, 1, 0, 1, 1])
    expected = {key: metric(predictions, labels) for key, metric in OFFICIAL[name].items()}
    assert glue_metrics(name, predictions, labels) == expected


def test_an_unknown_task_is_an_error():
    with pytest.raises(UserError, match="no task 'mrcp', only cola"):
        glue_metrics("mrcp", np.array([1]), np.array([1]))

"""Entities against what the package `seqeval` 1.2.2 gives, and against all spans, one by one."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from transformer_jax.errors import UserError
from transformer_jax.tasks.entity_metrics import entities, entity_scores

# Between two words of one type there is a border unless their prefixes are among these.
_TOGETHER = {("B", "I"), ("B", "E"), ("I", "I"), ("I", "E")}

TAGS = st.lists(
    st.builds("{}-{}".format, st.sampled_from("BIES"), st.sampled_from(["PER", "A-B"]))
    | st.sampled_from(["O", "O", "B", "I"]),
    max_size=8,
)


def all_spans(tags):
    """Tries each span: it begins and ends at borders, and has none inside."""
    parsed = [(tag[0], tag[2:] or "_") if tag != "O" else ("O", None) for tag in tags]
    edges = {0, len(tags)} | {
        i
        for i in range(1, len(tags))
        if parsed[i - 1][1] != parsed[i][1] or (parsed[i - 1][0], parsed[i][0]) not in _TOGETHER
    }
    return {
        (parsed[a][1], a, b - 1)
        for a in edges
        for b in edges
        if a < b and not any(a < edge < b for edge in edges) and parsed[a][0] != "O"
    }


@pytest.mark.parametrize(
    ("tags", "expected"),
    [
        ("B-PER I-PER O B-LOC", {("PER", 0, 1), ("LOC", 3, 3)}),  # IOB2
        ("I-PER I-PER O I-LOC B-LOC", {("PER", 0, 1), ("LOC", 3, 3), ("LOC", 4, 4)}),  # IOB1
        ("B-PER I-PER E-PER S-LOC", {("PER", 0, 2), ("LOC", 3, 3)}),  # IOBES
        ("B-PER I-LOC I-LOC", {("PER", 0, 0), ("LOC", 1, 2)}),
        ("E-PER I-PER", {("PER", 0, 0), ("PER", 1, 1)}),
        ("S-PER I-PER E-PER E-PER", {("PER", 0, 0), ("PER", 1, 2), ("PER", 3, 3)}),
        ("B-PER S-PER B-PER B-PER", {("PER", 0, 0), ("PER", 1, 1), ("PER", 2, 2), ("PER", 3, 3)}),
        ("O E-PER O I-A-B I-A-B", {("PER", 1, 1), ("A-B", 3, 4)}),
        ("B I O I B-PER", {("_", 0, 1), ("_", 3, 3), ("PER", 4, 4)}),
        ("", set()),
        ("O O", set()),
    ],
)
def test_entities_that_are_known(tags, expected):
    assert entities(tags.split()) == expected


@given(TAGS)
def test_entities_against_all_spans(tags):
    assert entities(tags) == all_spans(tags)


def test_scores_that_are_known():
    truth = [
        "O B-MISC I-MISC O B-PER I-PER".split(),
        "B-PER I-PER O B-ORG B-LOC".split(),
        "O".split(),
    ]
    predictions = [
        "B-MISC I-MISC I-MISC O B-PER I-PER".split(),
        "I-PER I-PER O I-LOC B-LOC".split(),
        "B-DATE".split(),
    ]
    scores = entity_scores(truth, predictions)
    types = scores.pop("types")
    assert scores == pytest.approx({"precision": 0.5, "recall": 0.6, "f1": 6 / 11, "support": 5})
    nothing = {"precision": 0.0, "recall": 0.0, "f1": 0.0}
    assert list(types) == ["DATE", "LOC", "MISC", "ORG", "PER"]
    assert types["DATE"] == nothing | {"support": 0}
    assert types["LOC"] == pytest.approx({"precision": 0.5, "recall": 1, "f1": 2 / 3, "support": 1})
    assert types["MISC"] == types["ORG"] == nothing | {"support": 1}
    assert types["PER"] == {"precision": 1.0, "recall": 1.0, "f1": 1.0, "support": 2}


def test_no_entity_at_all_scores_nothing():
    nothing = {"precision": 0.0, "recall": 0.0, "f1": 0.0, "support": 0, "types": {}}
    assert entity_scores([["O"]], [["O"]]) == entity_scores([], []) == nothing


PAIRS = st.lists(st.lists(st.tuples(*[TAGS.map(lambda t: (t or ["O"])[0])] * 2)), max_size=4)


@given(PAIRS)
def test_scores_against_counting(sentences):
    truth, predictions = ([[pair[i] for pair in s] for s in sentences] for i in (0, 1))
    scores = entity_scores(truth, predictions)
    true = guessed = right = 0
    for a, b in zip(truth, predictions, strict=True):
        for entity in all_spans(a):
            true += 1
            right += entity in all_spans(b)
        guessed += len(all_spans(b))
    precision, recall = right / max(guessed, 1), right / max(true, 1)
    f1 = 2 * precision * recall / (precision + recall) if right else 0
    got = [scores[name] for name in ("precision", "recall", "f1", "support")]
    assert got == pytest.approx([precision, recall, f1, true])
    alone = entity_scores([*truth, ["B-LAST"]], [*predictions, ["O"]])["types"]
    assert alone.pop("LAST")["support"] == 1
    assert alone == scores["types"]
    for kind, of_type in scores["types"].items():
        only = [
            [[tag if (tag[2:] or "_") == kind else "O" for tag in s] for s in side]
            for side in (truth, predictions)
        ]
        assert entity_scores(*only)["types"] == {kind: of_type}


def test_entities_of_different_sentences_are_different():
    truth = [["B-PER"], ["O"]]
    assert entity_scores(truth, [["O"], ["B-PER"]])["f1"] == 0


@pytest.mark.parametrize("tag", ["NNP", "U-PER", "B-", "", "b-PER", "O-PER", "PER-B"])
def test_tags_of_other_schemes_are_refused(tag):
    with pytest.raises(UserError, match=f"The tag '{tag}' marks no entity"):
        entities(["O", tag])


@pytest.mark.parametrize("predictions", [[], [["O"]], [["O"], ["O", "O"]], [["O", "O"]]])
def test_predictions_for_other_words_are_refused(predictions):
    with pytest.raises(ValueError, match="not for the sentences and words"):
        entity_scores([["O", "O"], ["O"]], predictions)

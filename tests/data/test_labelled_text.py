"""Labelled texts: which columns are read, and what is said of bad lines."""

import numpy as np
import pytest

from transformer_jax.data.labelled_text import (
    LabelledText,
    label_ids,
    label_names,
    read_labelled,
    scores,
)
from transformer_jax.errors import UserError


def read(folder, content, split="train"):
    content = content if isinstance(content, bytes) else content.encode()
    (folder / f"{split}.tsv").write_bytes(content)
    return read_labelled(folder, split)


def labelled(*labels):
    return LabelledText(["x"] * len(labels), None, list(labels))


@pytest.mark.parametrize(
    "content",
    [
        "text\tlabel\ngood\t1\nbad\u2028film\x0c\t0\n",
        "text\tlabel\r\ngood\t1\r\nbad\u2028film\x0c\t0\r\n",
        "\ufefftext\tlabel\ngood\t1\nbad\u2028film\x0c\t0",
        "text\tlabel\ngood\t1\nbad\u2028film\x0c\t0\n\n\r\n  \n",
    ],
)
def test_crlf_a_bom_and_blank_lines_at_the_end_do_not_matter(tmp_path, content):
    text = read(tmp_path, content)
    assert (text.first, text.second, text.labels) == (
        ["good", "bad\u2028film\x0c"],
        None,
        ["1", "0"],
    )
    assert (len(text), text.lines) == (2, [2, 3])


def test_a_quote_is_a_character_like_any_other(tmp_path):
    text = read(tmp_path, 'text\tlabel\n"a "" b\tyes\n"\tno\n')
    assert (text.first, text.labels) == (['"a "" b', '"'], ["yes", "no"])


@pytest.mark.parametrize(
    ("header", "first", "second"),
    [
        ("text", "text", None),
        ("sentence", "sentence", None),
        ("text_b text_a", "text_a", "text_b"),
        ("text text_b", "text", "text_b"),
        ("sentence1 sentence2", "sentence1", "sentence2"),
        ("premise hypothesis", "premise", "hypothesis"),
        ("question1 question2", "question1", "question2"),
        ("question sentence", "question", "sentence"),
        ("sentence question", "question", "sentence"),
        ("index genre sentence2 sentence1", "sentence1", "sentence2"),
    ],
)
@pytest.mark.parametrize("label", ["label", "score"])
def test_columns_are_found_by_their_names_wherever_they_stand(
    tmp_path, header, first, second, label
):
    names = [*header.split(), label]
    names = names[-1:] + names[:-1]
    text = read(tmp_path, "\t".join(names) + "\n" + "\t".join(f"a {n}" for n in names) + "\n")
    assert text.first == [f"a {first}"]
    assert text.second == (None if second is None else [f"a {second}"])
    assert text.labels == [f"a {label}"]


def test_only_test_may_lack_the_labels(tmp_path):
    assert read(tmp_path, "text\na\n", "test").labels is None
    assert read(tmp_path, "text\tlabel\na\t1\n", "test").labels == ["1"]
    for split in ("train", "valid"):
        with pytest.raises(UserError, match=rf"{split}\.tsv:1 .*label, only 'text'.* label, score"):
            read(tmp_path, "text\na\n", split)


@pytest.mark.parametrize(
    ("content", "complaint"),
    [
        ("text\tlabel\na\t1\nb\n", r"train\.tsv:3 has 1 fields where it needs 2: text, label"),
        ("text\tlabel\na\tb\t1\n", r"train\.tsv:2 has 3 fields"),
        ("text\tlabel\na\t1\n\nb\t1\n", r"train\.tsv:3 has 1 fields"),
        ("text\tlabel\na\t1\n \t1\n", r"train\.tsv:3 has an empty text"),
        ("text\ttext_b\tlabel\na\tb\t1\nc\t\t1\n", r"train\.tsv:3 has an empty text_b"),
        ("text\tlabel\na\t1\nb\t\n", r"train\.tsv:3 has an empty label"),
        ("words\tlabel\na\t1\n", r"train\.tsv:1 .* text, only 'words', 'label'.*text, text_a"),
        ("text\ttext\tlabel\na\tb\t1\n", r"train\.tsv:1 names two columns 'text'"),
        (b"text\tlabel\na\t1\n\xe4\t1\n", r"train\.tsv:3 is not UTF-8"),
        ("text\tlabel\na\t1\n".encode("utf-16"), r"train\.tsv:1 is not UTF-8"),
        ("text\tlabel\n", r"train\.tsv has no examples, only a header"),
        ("", r"train\.tsv is empty. .*header"),
        ("\n \r\n", r"train\.tsv is empty"),
    ],
)
def test_a_bad_line_is_named_with_its_number(tmp_path, content, complaint):
    with pytest.raises(UserError, match=complaint):
        read(tmp_path, content)


def test_a_missing_split_folder_or_file_is_an_error(tmp_path):
    with pytest.raises(UserError, match=r"valid\.tsv is missing.*train\.tsv.*text<TAB>label"):
        read_labelled(tmp_path, "valid")
    with pytest.raises(UserError, match=r"no existing folder.*train\.tsv"):
        read_labelled(tmp_path / "absent", "train")
    with pytest.raises(UserError, match="'dev' is none of train, valid, test"):
        read_labelled(tmp_path, "dev")


@pytest.mark.parametrize(
    ("labels", "names"),
    [
        (["10", "9", "9", "-1"], ["-1", "9", "10"]),
        (["10", "9", "b"], ["10", "9", "b"]),
        (["2.5", "10", "nan"], ["10", "2.5", "nan"]),
        (["1", "1.0", "0"], ["0", "1", "1.0"]),
        (["no", "yes", "maybe"], ["maybe", "no", "yes"]),
    ],
)
def test_classes_are_sorted_and_numbers_as_numbers(labels, names):
    assert label_names(labelled(*labels)) == names
    assert label_names(labelled(*reversed(labels))) == names


def test_ids_are_places_in_the_names(tmp_path):
    ids = label_ids(labelled("b", "a", "c", "a"), ["c", "a", "b"], "x")
    np.testing.assert_array_equal(ids, np.array([2, 1, 0, 1], np.int32), strict=True)


def test_scores_are_the_numbers(tmp_path):
    values = scores(labelled("3.8", "0", "-1e3", " 5 "), "x")
    np.testing.assert_array_equal(values, np.array([3.8, 0, -1000, 5], np.float32), strict=True)


@pytest.mark.parametrize("bad", ["high", "nan", "inf", "-Infinity", "1e39", "1,5"])
def test_what_is_no_finite_number_is_refused_with_its_line(tmp_path, bad):
    text = read(tmp_path, f"text\tscore\na\t1\nb\t{bad}\n")
    with pytest.raises(UserError, match=rf"f\.tsv:3 has the score '{bad}'"):
        scores(text, "f.tsv")


def test_a_label_that_is_no_class_is_refused_with_its_line(tmp_path):
    text = read(tmp_path, "text\tlabel\na\t1\nb\tyes\n")
    with pytest.raises(UserError, match=r"f\.tsv:3 has the label 'yes', .* 0, 1\."):
        label_ids(text, ["0", "1"], "f.tsv")
    with pytest.raises(UserError, match=r"there, example 2, has the label 'yes'"):
        label_ids(labelled("1", "yes"), ["0", "1"], "there")
    with pytest.raises(UserError, match=r"none of 0, 1, 2, 3, 4, 5, 6, 7, 8, 9, \.\.\.\."):
        label_ids(text, [*map(str, range(100))], "f.tsv")


def test_a_split_without_labels_has_neither_ids_nor_scores(tmp_path):
    text = read(tmp_path, "text\na\n", "test")
    for use in (lambda: label_ids(text, ["0"], "f.tsv"), lambda: scores(text, "f.tsv")):
        with pytest.raises(UserError, match=r"f\.tsv has no labels"):
            use()
    with pytest.raises(ValueError, match="without labels"):
        label_names(text)


def test_columns_of_other_lengths_are_no_examples():
    with pytest.raises(ValueError, match="1 labels for 2 examples"):
        LabelledText(["a", "b"], None, ["1"])

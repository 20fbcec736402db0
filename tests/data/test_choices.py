"""SWAG's official files, and what is said of bad rows."""

import csv

import numpy as np
import pytest

from transformer_jax.data.choices import read_swag
from transformer_jax.errors import UserError

FILES = {"train": "train.csv", "valid": "val.csv", "test": "test.csv"}
HEADER = (
    ",video-id,fold-ind,startphrase,sent1,sent2,gold-source,ending0,ending1,ending2,ending3,label"
)


def row(number, label="2", **changed):
    """A row of the official file as {column: text}."""
    values = {name: f"{name} {number}" for name in HEADER.split(",")}
    values |= {"ending1": f'says, "no {number}".', "label": label} | changed
    return values


def write(folder, rows, split="train", drop=(), end="\n"):
    with (folder / FILES[split]).open("w", encoding="utf-8", newline="") as file:
        names = [name for name in HEADER.split(",") if name not in drop]
        writer = csv.DictWriter(file, names, extrasaction="ignore", lineterminator=end)
        writer.writeheader()
        writer.writerows(rows)
    return folder


@pytest.mark.parametrize("end", ["\n", "\r\n"])
@pytest.mark.parametrize("split", FILES)
def test_columns_are_found_by_their_names(tmp_path, split, end):
    rows = [row(0), row(1, "0"), row(2, "3", ending3="line\nbreak", sent1="Ça, \u2028 va.")]
    choices = read_swag(write(tmp_path, rows, split, end=end), split)
    assert len(choices) == 3
    assert choices.contexts == ["sent1 0", "sent1 1", "Ça, \u2028 va."]
    assert choices.starts == ["sent2 0", "sent2 1", "sent2 2"]
    assert choices.endings[0] == ("ending0 0", 'says, "no 0".', "ending2 0", "ending3 0")
    assert choices.endings[2][3] == "line\nbreak"
    np.testing.assert_array_equal(choices.labels, np.array([2, 0, 3], np.int32), strict=True)


def test_only_test_may_lack_the_labels(tmp_path):
    assert read_swag(write(tmp_path, [row(0)], "test", drop=["label"]), "test").labels is None
    with pytest.raises(UserError, match=r"val\.csv:1 names 0 columns 'label'"):
        read_swag(write(tmp_path, [row(0)], "valid", drop=["label"]), "valid")


def test_a_bom_and_blank_lines_at_the_end_do_not_matter(tmp_path):
    file = write(tmp_path, [row(0)], drop=["", "video-id", "fold-ind", "startphrase"]) / "train.csv"
    file.write_bytes(b"\xef\xbb\xbf" + file.read_bytes() + b"\r\n\n")
    assert read_swag(tmp_path, "train").contexts == ["sent1 0"]


@pytest.mark.parametrize(
    ("bad", "complaint"),
    [
        ({"label": "4"}, r"train\.csv:4 has the label '4', none of 0, 1, 2, 3"),
        ({"label": ""}, r"train\.csv:4 has the label ''"),
        ({"label": "1.0"}, r"train\.csv:4 has the label '1\.0'"),
        ({"sent1": " "}, r"train\.csv:4 has an empty sent1"),
        ({"sent2": "", "ending2": " "}, r"train\.csv:4 has an empty sent2 and an empty ending2"),
    ],
)
def test_a_bad_row_is_named_with_the_line_where_it_begins(tmp_path, bad, complaint):
    before = row(0, ending0="over\ntwo lines")
    with pytest.raises(UserError, match=complaint):
        read_swag(write(tmp_path, [before, row(1, **bad), row(2)]), "train")


def test_a_start_or_an_ending_may_be_empty_if_the_other_is_not(tmp_path):
    rows = [row(0, sent2=""), row(1, ending0="")]
    assert read_swag(write(tmp_path, rows), "train").starts == ["", "sent2 1"]


@pytest.mark.parametrize(
    ("content", "complaint"),
    [
        (f"{HEADER}\n0,a,b\n", r"train\.csv:2 has 3 fields where it needs 12"),
        (f"{HEADER}\n\n0,a,b\n", r"train\.csv:2 has 0 fields"),
        (f'{HEADER}\n0,"never closed\n', r"train\.csv:2 is not CSV"),
        (f"{HEADER}\n", r"train\.csv has no questions"),
        (f"{HEADER},label\n0\n", r"train\.csv:1 names 2 columns 'label'"),
        (HEADER.replace("sent1", "context") + "\n0\n", r"train\.csv:1 names 0 columns 'sent1'"),
        ("", r"train\.csv is empty"),
        (HEADER.encode() + b"\n0,\xe4\n", r"train\.csv:2 is not UTF-8"),
    ],
)
def test_a_bad_file_is_refused_with_the_line(tmp_path, content, complaint):
    content = content if isinstance(content, bytes) else content.encode()
    (tmp_path / "train.csv").write_bytes(content)
    with pytest.raises(UserError, match=complaint):
        read_swag(tmp_path, "train")


def test_a_missing_file_or_split_is_an_error(tmp_path):
    with pytest.raises(UserError, match=r"val\.csv is missing\. SWAG is in the files train\.csv"):
        read_swag(tmp_path, "valid")
    with pytest.raises(UserError, match="'val' is none of train, valid, test"):
        read_swag(tmp_path, "val")

"""Attention maps: what they refuse, and that their file keeps every bit and every character."""

import json
import os
from pathlib import Path

import numpy as np
import pytest

from transformer_jax.errors import UserError
from transformer_jax.visualize.maps import (
    AttentionMaps,
    AttentionPart,
    printable,
    token_label,
    write_whole,
)

WEIGHTS = np.random.default_rng(0).dirichlet(np.ones(3), (2, 2, 2)).astype(np.float32)  # [2,2,2,3]


def part(weights=WEIGHTS, name="cross", queries=("a", "b"), keys=("c", "d", "e")):
    return AttentionPart(name, weights, queries, keys)


def changed(value, place=(0, 0, 0, 0)):
    weights = WEIGHTS.copy()
    weights[place] = value
    return weights


@pytest.mark.parametrize(
    ("attributes", "message"),
    [
        ({"weights": WEIGHTS[0]}, "must be"),
        ({"weights": WEIGHTS.swapaxes(2, 3)}, "must be"),
        ({"queries": ("a",)}, "must be"),
        ({"keys": ("c", "d")}, "must be"),
        ({"weights": WEIGHTS[:0]}, "not empty"),
        ({"weights": WEIGHTS.astype(int)}, "float"),
        ({"weights": changed(np.nan)}, "nan"),
        ({"weights": changed(np.inf)}, "inf"),
        ({"weights": changed(-1e-6)}, "lie in"),
        ({"weights": changed(1.002)}, "lie in"),
        ({"name": "not a name"}, "identifier"),
    ],
)
def test_what_is_no_attention_is_refused(attributes, message):
    with pytest.raises(ValueError, match=message):
        part(**attributes)


def test_a_weight_may_be_above_one_by_what_rounding_adds():
    part(changed(1.0005))


@pytest.mark.parametrize("names", [[], ["cross", "cross"]])
def test_parts_are_there_and_have_different_names(names):
    with pytest.raises(ValueError, match="different names"):
        AttentionMaps("title", tuple(part(name=name) for name in names))


TOKENS = ("", "\0", "a\0", "▁x", "\u2028", "\ud800", "'\"\\", "👩‍👧", "c", "\n")


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
def test_a_file_keeps_every_bit_and_every_character(tmp_path, dtype):
    square = np.full((1, 1, len(TOKENS), len(TOKENS)), 1 / 3, dtype)
    maps = AttentionMaps("a\0 title \ud800\0", (part(), part(square, "file", TOKENS, TOKENS)))
    maps.save_arrays(tmp_path / "maps")
    loaded = AttentionMaps.load_arrays(tmp_path / "maps")
    assert loaded.title == maps.title
    for read, written in zip(loaded.parts, maps.parts, strict=True):
        assert (read.name, read.query_tokens, read.key_tokens) == (
            written.name,
            written.query_tokens,
            written.key_tokens,
        )
        assert read.weights.dtype == written.weights.dtype
        np.testing.assert_array_equal(read.weights, written.weights)


def test_the_arrays_are_read_without_this_library(tmp_path):
    AttentionMaps("title", (part(),)).save_arrays(tmp_path / "maps.npz")
    with np.load(tmp_path / "maps.npz", allow_pickle=False) as file:
        np.testing.assert_array_equal(file["cross.weights"], WEIGHTS)
        assert json.loads(str(file["about"]))["parts"][0]["query_tokens"] == ["a", "b"]


def save(path, **arrays):
    with path.open("wb") as file:
        np.savez(file, **arrays)


def about(**changes):
    content = {"name": "cross", "query_tokens": ["a", "b"], "key_tokens": ["c", "d", "e"]}
    return np.array(json.dumps({"title": "", "parts": [content | changes]}))


@pytest.mark.parametrize(
    "spoil",
    [
        lambda path: path.write_bytes(b""),
        lambda path: path.write_bytes(b"no such thing"),
        lambda path: path.write_bytes(path.read_bytes()[:-100]),
        lambda path: save(path, weights=WEIGHTS),
        lambda path: save(path, about=np.array("{"), **{"cross.weights": WEIGHTS}),
        lambda path: save(path, about=np.array("[]"), **{"cross.weights": WEIGHTS}),
        lambda path: save(path, about=about(name="other"), **{"cross.weights": WEIGHTS}),
        lambda path: save(path, about=about(key_tokens=[]), **{"cross.weights": WEIGHTS}),
        lambda path: save(path, about=about(), **{"cross.weights": WEIGHTS.astype(object)}),
    ],
)
def test_a_file_that_holds_something_else_is_refused_by_name(tmp_path, spoil):
    path = tmp_path / "maps.npz"
    AttentionMaps("title", (part(),)).save_arrays(path)
    spoil(path)
    with pytest.raises(UserError, match="maps.npz does not hold attention maps.*save_arrays"):
        AttentionMaps.load_arrays(path)


@pytest.mark.parametrize("name", [".", "missing.npz"])
def test_what_cannot_be_read_is_named(tmp_path, name):
    with pytest.raises(UserError, match="cannot be read"):
        AttentionMaps.load_arrays(tmp_path / name)


@pytest.mark.parametrize("name", [".", "", "/", "missing/file", "x" * 300, "file/below", "a\0b"])
def test_what_cannot_be_written_is_a_users_error_and_leaves_nothing(tmp_path, monkeypatch, name):
    monkeypatch.chdir(tmp_path)
    Path("file").touch()
    with pytest.raises(UserError, match="cannot be written"):
        write_whole(name, b"new")
    assert os.listdir() == ["file"]


def test_a_write_that_fails_half_way_leaves_the_old_file(tmp_path, monkeypatch):
    def half(path, data):
        with path.open("wb") as file:
            file.write(data[:2])
        raise OSError(28, "No space left on device")

    path = tmp_path / "file"
    write_whole(path, b"old")
    monkeypatch.setattr(Path, "write_bytes", half)
    with pytest.raises(UserError, match="No space left"):
        write_whole(path, b"new content")
    assert path.read_bytes() == b"old"
    assert os.listdir(tmp_path) == ["file"]


@pytest.mark.parametrize(
    ("token", "label"),
    [
        ("▁the", "␣the"),
        ("▁", "␣"),
        (" a b", "␣a␣b"),
        ("", "∅"),
        ("\n", "\\n"),
        ("a\u2028b", "a\\u2028b"),
        ("\u202eabc", "\\u202eabc"),  # it would turn what follows around
        ("\xa0", "\\xa0"),
        ("\ud800", "\\ud800"),
        ("\u200d", "\\u200d"),
        ("👩‍👧", "👩‍👧"),
        ("\u0301", "◌\u0301"),
        ("e\u0301", "e\u0301"),
        ("<b>", "<b>"),
        ("مرحبا", "مرحبا"),
    ],
)
def test_a_label_can_be_seen(token, label):
    assert token_label(token) == label


def test_a_title_keeps_its_spaces():
    assert printable("two words,\ntwo lines") == "two words,\\ntwo lines"

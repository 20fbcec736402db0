"""The picture of one attention map: it shows what was asked for, or says what there is."""

import dataclasses
import struct
import sys

import numpy as np
import pytest

from transformer_jax.errors import UserError
from transformer_jax.visualize.maps import AttentionMaps, AttentionPart
from transformer_jax.visualize.picture import write_png

QUERIES, KEYS = ("<s>", "▁le", "chat"), ("▁the", "cat")


def weights(*shape, seed=0):
    return np.random.default_rng(seed).dirichlet(np.ones(shape[-1]), shape[:-1]).astype(np.float32)


def make_maps(cross):
    encoder = AttentionPart("encoder", weights(2, 2, 2, 2), KEYS, KEYS)
    return AttentionMaps("The cat", (encoder, AttentionPart("cross", cross, QUERIES, KEYS)))


@pytest.fixture
def draw(tmp_path):
    def draw(maps, **choice):
        write_png(maps, tmp_path / "map.png", **choice)
        return (tmp_path / "map.png").read_bytes()

    return draw


CROSS = weights(2, 2, 3, 2)


@pytest.mark.parametrize(
    ("choice", "shown"),
    [
        ({"layer": 0, "head": 1}, (0, 1)),
        ({"layer": -2, "head": -1}, (0, 1)),
        ({"head": 0}, (1, 0)),
        ({"layer": 0}, (0, slice(None))),
        ({}, (1, slice(None))),
    ],
)
def test_a_picture_shows_the_chosen_layer_and_head_and_nothing_else(draw, choice, shown):
    picture = draw(make_maps(CROSS), **choice)
    assert picture.startswith(b"\x89PNG")
    same, other = weights(2, 2, 3, 2, seed=1), CROSS.copy()
    same[shown] = CROSS[shown]
    other[shown] = weights(2, 2, 3, 2, seed=1)[shown]
    assert draw(make_maps(same), **choice) == picture
    assert draw(make_maps(other), **choice) != picture


def test_without_a_head_the_mean_over_heads_is_drawn(draw):
    mean = CROSS.mean(axis=1, keepdims=True)
    assert draw(make_maps(CROSS)) == draw(make_maps(mean))


def test_the_part_is_chosen_by_its_name(draw):
    maps = make_maps(CROSS)
    renamed = dataclasses.replace(maps.parts[0], name="cross")
    only = AttentionMaps(maps.title, (renamed,))
    assert draw(maps, part="cross") != draw(maps, part="encoder")
    assert draw(maps, part="cross") != draw(only, part="cross")


@pytest.mark.parametrize(
    ("choice", "message"),
    [
        ({"part": "decoder"}, "no attention 'decoder' here, only encoder, cross"),
        ({"layer": 2}, "no layer 2: layers are numbered 0 to 1"),
        ({"layer": -3}, "no layer -3: layers are numbered 0 to 1"),
        ({"head": 2}, "no head 2: heads are numbered 0 to 1"),
    ],
)
def test_what_is_not_there_is_refused_with_what_is(draw, choice, message):
    with pytest.raises(UserError, match=message):
        draw(make_maps(CROSS), **choice)


def test_a_picture_that_cannot_be_written_is_a_users_error(tmp_path):
    with pytest.raises(UserError, match="missing/map.png cannot be written"):
        write_png(make_maps(CROSS), tmp_path / "missing" / "map.png")


def test_no_token_is_taken_for_a_formula_or_for_markup(draw):
    tokens = ("$x^{$", "\\frac", "\n", "👩‍👧", "你好", "مرحبا", "\ud800", "\u0301", "x" * 99, "")
    part = AttentionPart("cross", weights(1, 1, 10, 10), tokens, tokens)
    assert draw(AttentionMaps("$\\alpha^{$ " + "long " * 60, (part,)))


def test_a_map_of_zeros_can_be_drawn(draw):
    assert draw(make_maps(np.zeros_like(CROSS)))


@pytest.mark.parametrize(("T", "S"), [(1, 1), (3, 60), (60, 3), (200, 200)])
def test_a_picture_has_a_size_that_one_can_print(draw, T, S):
    tokens = ("▁token" * 50,) * 200
    part = AttentionPart("cross", weights(1, 1, T, S), tokens[:T], tokens[:S])
    width, height = struct.unpack(">II", draw(AttentionMaps("", (part,)))[16:24])
    assert 150 < width < 2400 and 150 < height < 2400


def test_drawing_does_not_touch_pyplot(draw, monkeypatch):
    monkeypatch.delitem(sys.modules, "matplotlib.pyplot", raising=False)
    draw(make_maps(CROSS))
    assert "matplotlib.pyplot" not in sys.modules

"""Topologies as people write them, and which of their dimensions are rings."""

import pytest

from transformer_jax.errors import UserError
from transformer_jax.planning.chips import CHIPS, Topology, parse_topology


def test_a_topology_says_kind_shape_and_number_of_chips():
    found = parse_topology("v5p:8x8x16")
    assert found == Topology("v5p", (8, 8, 16)) and found.num_chips == 1024
    assert found.name == "v5p:8x8x16"
    assert parse_topology("v5e:16x16", slices=4).num_chips == 1024


@pytest.mark.parametrize("text", ["v5e", "v5e:16", "v9:2x2", "v5e:2x2x2x2", "v5e-16", "16x16"])
def test_what_is_no_topology_is_refused_with_the_kinds(text):
    with pytest.raises(UserError, match="as v5e:16x16.*kinds are v4, v5e"):
        parse_topology(text)


@pytest.mark.parametrize("text", ["v5p:4x4", "v5e:2x2x2", "v5e:32x32", "v6e:0x4", "v4:16x16x32"])
def test_grids_that_the_chips_are_not_built_in_are_refused(text):
    with pytest.raises(UserError, match="a slice of .* with at most .* chips"):
        parse_topology(text)


def test_no_slices_are_refused():
    with pytest.raises(UserError, match="--slices 0"):
        parse_topology("v5e:2x2", slices=0)


@pytest.mark.parametrize(
    ("text", "rings"),
    [
        ("v5e:16x16", [True, True]),
        ("v5e:8x16", [False, True]),
        ("v5e:4x4", [False, False]),
        ("v5p:4x4x4", [True, True, True]),
        ("v5p:2x2x4", [False, False, False]),  # no whole cube, so no switch closes it
        ("v4:4x4x8", [True, True, True]),
    ],
)
def test_rings_are_those_of_the_table(text, rings):
    found = parse_topology(text)
    assert [found.is_ring(dimension) for dimension in range(len(found.shape))] == rings


def test_every_chip_names_its_source_and_its_bounds_are_plausible():
    for kind, chip in CHIPS.items():
        assert chip.source.startswith("https://") and kind in chip.source
        # Products of 100 to 1,000 numbers a byte, links slower than memory: a slip of a power of
        # ten would show.
        assert 100 < chip.flops / chip.hbm_bandwidth < 1000
        assert 10 < chip.hbm_bandwidth / chip.link_bandwidth < 50

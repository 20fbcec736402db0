"""Collectives in programs written by hand: kinds, bytes, groups, and each counted once."""

import pytest

from transformer_jax.planning.collectives import BETWEEN, Collective, find_collectives, summary
from transformer_jax.planning.hlo import parse_program

GROUPS = "channel_id={}, replica_groups={{{{0,1,2,3}},{{4,5,6,7}}}}, to_apply=%add"


def program(*lines, other=""):
    body = "".join(f"  {line}\n" for line in lines)
    return parse_program(f"{other}ENTRY %main (x: f32[8]) -> f32[8] {{\n{body}}}\n")


def find(*lines, devices=8, other=""):
    return find_collectives(program(*lines, other=other), devices)


def test_an_all_reduce_has_the_bytes_of_all_its_arrays():
    (one,) = find(f"%r = (f32[100]{{0}}, bf16[6]{{0}}) all-reduce(%a, %b), {GROUPS.format(1)}")
    assert (one.kind, one.dtype, one.bytes, one.runs) == ("all-reduce", "bf16+f32", 412, 1)
    assert one.group == (0, 1, 2, 3) and not one.hidden
    assert one.sent == 2 * 412 * 3 / 4


def test_an_all_gather_counts_what_a_device_ends_up_with():
    pair = (
        f"%s = (f32[10]{{0}}, f32[40]{{0}}) all-gather-start(%a), dimensions={{0}}, "
        f"{GROUPS.format(1)}",
        "%d = f32[40]{0} all-gather-done(%s)",
    )
    (one,) = find(*pair)  # start and end are one
    assert (one.kind, one.bytes, one.hidden) == ("all-gather", 160, True)
    assert one.sent == 160 * 3 / 4


def test_a_reduce_scatter_counts_what_a_device_begins_with():
    (one,) = find(f"%r = f32[10]{{0}} reduce-scatter(%a), dimensions={{0}}, {GROUPS.format(1)}")
    assert (one.kind, one.bytes, one.sent) == ("reduce-scatter", 160, 120)


def test_a_sum_of_which_each_keeps_a_part_is_a_reduce_scatter():
    fused = (
        "%all-reduce-scatter.1 (p: f32[40]) -> f32[10] {\n"
        "  %p = f32[40]{0} parameter(0)\n"
        f"  %r = f32[40]{{0}} all-reduce(%p), {GROUPS.format(1)}\n"
        "  ROOT %s = f32[10]{0} dynamic-slice(%r, %i), dynamic_slice_sizes={10}\n}\n"
    )
    line = "%f = f32[10]{0} fusion(%a), kind=kCustom, calls=%all-reduce-scatter.1"
    (one,) = find(line, other=fused)
    assert (one.kind, one.bytes) == ("reduce-scatter", 160)


def test_a_permutation_sends_its_bytes_once():
    (one,) = find(
        "%s = (f32[10]{0}, f32[10]{0}, u32[], u32[]) collective-permute-start(%a), channel_id=3, "
        "source_target_pairs={{0,1},{1,0}}",
        "%d = f32[10]{0} collective-permute-done(%s)",
    )
    assert (one.kind, one.bytes, one.sent, one.group) == ("collective-permute", 40, 40, (0, 1))


def test_the_parts_of_one_hidden_collective_count_once():
    parts = [
        f"%g{i} = f32[40]{{0}} all-gather(%a), dimensions={{0}}, {GROUPS.format(7)}, "
        f'frontend_attributes={{chain_id="0"}}'
        for i in range(3)
    ]
    other = f"%h = f32[40]{{0}} all-gather(%a), dimensions={{0}}, {GROUPS.format(8)}"
    found = find(*parts, other)
    assert [one.hidden for one in found] == [True, False]


def test_two_of_one_channel_are_two():
    name = 'metadata={op_name="attend/all_to_all"}'
    pair = [
        f"%g{i} = f32[40]{{0}} all-to-all(%a{i}), dimensions={{0}}, {GROUPS.format(1)}, {name}"
        for i in range(2)
    ]
    assert len(find(*pair)) == 2


def test_a_collective_in_a_loop_runs_as_often():
    loop = (
        "%body (b: (s32[], f32[8])) -> (s32[], f32[8]) {\n"
        f"  %r = f32[8]{{0}} all-reduce(%x), {GROUPS.format(1)}\n}}\n"
        "%until (c: (s32[], f32[8])) -> pred[] {\n"
        "  %n = s32[] constant(24)\n"
        "  ROOT %l = pred[] compare(%i, %n), direction=LT\n}\n"
    )
    found = find("%w = (s32[], f32[8]) while(%t), condition=%until, body=%body", other=loop)
    assert summary(found) == {"all-reduce": {"count": 24, "bytes": 24 * 32}}


def test_a_collective_of_one_device_is_none():
    assert not find("%r = f32[8]{0} all-reduce(%x), channel_id=1, replica_groups={{0},{1}}")


@pytest.mark.parametrize(
    ("groups", "first"),
    [
        ("{{0,2},{1,3}}", (0, 2)),
        ("[4,2]<=[8]", (0, 1)),
        ("[4,2]<=[2,4]T(1,0)", (0, 4)),
        ("mesh['a'=2,'b'=4] {'b'}", (0, 1, 2, 3)),
        ("mesh['a'=2,'b'=4] {'a'}", (0, 4)),
        ("mesh['a'=2,'b'=4] {'a','b'}", tuple(range(8))),
        ("mesh['a'=2,'b'=4] {'b':(2)2}", (0, 1)),
        ("mesh['a'=2,'b'=4] {'b':(1)2}", (0, 2)),
        ("mesh['a'=4,'b'=2], device_ids=([2,4]T(1,0)) {'b'}", (0, 4)),
    ],
)
def test_groups_are_read_however_they_are_written(groups, first):
    (one,) = find(f"%r = f32[8]{{0}} all-reduce(%x), channel_id=1, replica_groups={groups}, x=y")
    assert one.group == first


def test_without_groups_all_devices_take_part():
    (one,) = find("%r = f32[8]{0} all-reduce(%x), channel_id=1, replica_groups={}, to_apply=%add")
    assert one.group == tuple(range(8))


def test_what_a_ring_sends_in_an_all_to_all():
    one = Collective("all-to-all", "f32", 800.0, 1, (0, 1, 2, 3), False, "")
    assert one.sent == 800 * 3 / 4 / 4  # a quarter of an all-gather's, as both ways are used


def test_what_runs_apart_is_counted_at_its_start_only():
    wrapped = (
        "%apart (p: f32[40]) -> f32[10] {\n"
        "  %p = f32[40]{0} parameter(0)\n"
        f"  ROOT %r = f32[10]{{0}} reduce-scatter(%p), {GROUPS.format(1)}\n}}\n"
    )
    (one,) = find(
        "%s = ((f32[40]{0}), f32[10]{0}, u32[]) async-start(%a), calls=%apart",
        "%u = ((f32[40]{0}), f32[10]{0}, u32[]) async-update(%s), calls=%apart",
        "%d = f32[10]{0} async-done(%u), calls=%apart",
        other=wrapped,
    )
    assert (one.kind, one.runs, one.hidden) == ("reduce-scatter", 1, True)


def test_what_a_chip_sends_to_other_slices_is_found():
    lines = (
        "%s = (f32[32,8]{1,0}, u32[], token[]) send(%a, %t), channel_id=5, is_host_transfer=true, "
        'frontend_attributes={_xla_megascale_transfer_type="ALL_REDUCE"}',
        "%d = token[] send-done(%s), channel_id=5, is_host_transfer=true",
    )
    (one,) = find_collectives(program(*lines), 8, slices=2)
    assert (one.kind, one.bytes, one.group, one.hidden) == (BETWEEN, 1024, (0, 4), True)
    assert one.sent == 1024  # twice the half of it: there and back

"""Seconds of a step, worked out by hand."""

import itertools

import pytest

from transformer_jax.planning.chips import CHIPS, DCN_BANDWIDTH, HOP_SECONDS, Topology
from transformer_jax.planning.collectives import BETWEEN, Collective
from transformer_jax.planning.roofline import roofline, seconds_of
from transformer_jax.planning.work import Work

POD, CORNER = Topology("v5e", (16, 16)), Topology("v5e", (4, 4))
CHIP = CHIPS["v5e"]


def places(topology):
    """Devices in the order of their coordinates."""
    return dict(enumerate(itertools.product(*map(range, topology.shape))))


def gather(size, group, hidden=False, runs=1):
    return Collective("all-gather", "bf16", size, runs, tuple(group), hidden, "")


def work(flops, size, ahead=False, runs=1):
    return Work(flops, size, 0, ahead, runs)


def test_each_instruction_takes_the_longer_of_computing_and_moving():
    slow, wide = work(CHIP.flops, 0.5 * CHIP.hbm_bandwidth), CHIP.hbm_bandwidth
    found = roofline([slow, work(0.5 * CHIP.flops, wide, runs=2)], [], POD, places(POD))
    assert found.work == pytest.approx(3) and found.step == pytest.approx(3)
    assert found.compute == pytest.approx(2) and found.memory == pytest.approx(2.5)


def test_what_is_fetched_for_later_counts_only_when_memory_is_the_limit():
    fetch = work(0.0, CHIP.hbm_bandwidth, ahead=True)
    hidden = roofline([work(3 * CHIP.flops, 0.0), fetch], [], POD, places(POD))
    assert hidden.step == pytest.approx(3)
    shown = roofline([work(0.5 * CHIP.flops, 0.0), fetch], [], POD, places(POD))
    assert shown.step == pytest.approx(1)


def test_a_gather_over_a_ring_uses_both_ways():
    row = range(16)  # the last dimension, which is a ring of 16
    found = seconds_of(gather(1e9, row), POD, places(POD))
    assert found == pytest.approx(1e9 * 15 / 16 / (2 * CHIP.link_bandwidth))


def test_a_gather_over_the_whole_pod_uses_both_dimensions():
    found = seconds_of(gather(1e9, range(256)), POD, places(POD))
    assert found == pytest.approx(1e9 * 255 / 256 / (4 * CHIP.link_bandwidth))


def test_a_gather_over_a_line_uses_one_way():
    found = seconds_of(gather(1e9, range(4)), CORNER, places(CORNER))
    assert found == pytest.approx(1e9 * 3 / 4 / CHIP.link_bandwidth)
    part = seconds_of(gather(1e9, range(8)), POD, places(POD))  # half of a ring is a line, too
    assert part == pytest.approx(1e9 * 7 / 8 / CHIP.link_bandwidth)


def test_a_small_sum_takes_the_time_of_its_hops():
    assert seconds_of(gather(4, range(256)), POD, places(POD)) == 16 * HOP_SECONDS
    assert seconds_of(gather(4, range(16)), CORNER, places(CORNER)) == 6 * HOP_SECONDS


def test_between_slices_a_chip_has_its_share_of_the_network():
    one = Collective(BETWEEN, "f32", 1e6, 1, (0, 256), True, "")
    found = seconds_of(one, Topology("v5e", (16, 16), slices=2), places(POD))
    assert found == pytest.approx(2 * 1e6 / 2 / DCN_BANDWIDTH["v5e"])


def test_hidden_collectives_are_waited_for_only_beyond_the_work():
    one = gather(1e9, range(16), hidden=True)
    time = seconds_of(one, POD, places(POD))
    busy = roofline([work(CHIP.flops, 0.0)], [one], POD, places(POD))
    assert busy.exposed == 0 and busy.interconnect == pytest.approx(time)
    short = roofline([work(time / 4 * CHIP.flops, 0.0)], [one], POD, places(POD))
    assert short.exposed == pytest.approx(time * 3 / 4)
    shown = roofline([work(CHIP.flops, 0.0)], [gather(1e9, range(16))], POD, places(POD))
    assert shown.step == pytest.approx(1 + time) and shown.limit == "compute"

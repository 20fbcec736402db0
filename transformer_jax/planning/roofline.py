"""How long a step takes at least: by what a chip can compute, read and send in a second."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence

from transformer_jax.planning.chips import DCN_BANDWIDTH, HOP_SECONDS, Topology
from transformer_jax.planning.collectives import BETWEEN, Collective
from transformer_jax.planning.work import Work

# Where each device sits in its slice.
Places = Mapping[int, tuple[int, ...]]


@dataclasses.dataclass(frozen=True)
class Roofline:
    """Seconds of a step on one chip.

    Attributes:
      compute: the products, at the peak.
      memory: all bytes between memory and core, at the full bandwidth.
      work: instruction after instruction, the longer of both for each.
      interconnect: all collectives.
      exposed: those that nothing else can hide.
      compiler: the compiler's estimate of the work; None where the clock is not known.
    """

    compute: float
    memory: float
    work: float
    interconnect: float
    exposed: float
    compiler: float | None

    @property
    def step(self) -> float:
        """The time of a step."""
        return max(self.work, self.memory) + self.exposed

    @property
    def limit(self) -> str:
        """What takes most of it."""
        waits = self.work - self.compute  # in instructions that are bound by memory
        parts = {"compute": self.compute, "memory": waits, "interconnect": self.exposed}
        return max(parts, key=lambda name: parts[name])


def roofline(
    work: Sequence[Work], collectives: Sequence[Collective], topology: Topology, places: Places
) -> Roofline:
    """Adds up the instructions and the collectives of a compiled step."""
    chip = topology.chip
    compute = sum(one.runs * one.flops for one in work) / chip.flops
    memory = sum(one.runs * one.bytes for one in work) / chip.hbm_bandwidth
    longer = sum(
        one.runs * max(one.flops / chip.flops, one.bytes / chip.hbm_bandwidth)
        for one in work
        if not one.ahead
    )
    times = {True: 0.0, False: 0.0}
    for one in collectives:
        times[one.hidden] += one.runs * seconds_of(one, topology, places)
    cycles = sum(one.runs * one.cycles for one in work)
    return Roofline(
        compute=compute,
        memory=memory,
        work=longer,
        interconnect=times[True] + times[False],
        exposed=times[False] + max(0.0, times[True] - longer),
        compiler=None if chip.hertz is None else cycles / chip.hertz + times[False],
    )


def seconds_of(one: Collective, topology: Topology, places: Places) -> float:
    """Seconds of one run of a collective.

    Bytes over the links of the dimensions that the group spans, both ways where a dimension is a
    ring and all of it is in the group, and not less than the time that a signal takes: the formulas
    of https://jax-ml.github.io/scaling-book/sharding. Between slices, a chip has its share of the
    network.
    """
    if one.kind == BETWEEN:
        return one.sent / DCN_BANDWIDTH[topology.kind]
    coordinates = [places[device] for device in one.group]
    links, hops = 0, 0
    for dimension in range(len(topology.shape)):
        extent = len({place[dimension] for place in coordinates})
        if extent == 1:
            continue
        ring = topology.is_ring(dimension) and extent == topology.shape[dimension]
        links += 2 if ring else 1
        hops += extent // 2 if ring else extent - 1
    return max(one.sent / (max(links, 1) * topology.chip.link_bandwidth), hops * HOP_SECONDS)

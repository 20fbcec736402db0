"""The collectives of a compiled program: which, how many, of how many bytes, among whom."""

from __future__ import annotations

import dataclasses
import math
import re

import numpy as np

from transformer_jax.planning.hlo import Instruction, Program

KINDS = ("all-reduce", "all-gather", "reduce-scatter", "all-to-all", "collective-permute")

BETWEEN = "between-slices"  # a sum over the network of the data centre

_MESH = re.compile(
    r"replica_groups=mesh\[(?P<axes>[^\]]*)\]"
    r"(?:, device_ids=\((?P<order>\[.*?\](?:T\([\d,]*\))?)\))? \{(?P<split>[^}]*)\}"
)
_IOTA = re.compile(r"replica_groups=(\[[\d,]+\]<=\[[\d,]+\](?:T\([\d,]+\))?)")
# What the parts of a collective that the compiler hides behind other work have in common.
_CHAIN = re.compile(r'(?:chain_id|async_collective_name)="?[^",}]*')
_AXIS = re.compile(r"'([^']+)'(?::\((\d+)\)(\d+))?")


@dataclasses.dataclass(frozen=True)
class Collective:
    """One collective of the program.

    Attributes:
      kind: one of `KINDS`, or `BETWEEN`.
      dtype: of its elements; of arrays that go together, all of them.
      bytes: of the whole array that a device ends up with (all-gather) or begins with (others).
      runs: how often it runs in a step.
      group: the devices of one group, as numbers in the order of the mesh.
      hidden: whether other work can go on in the meantime.
      name: what the model calls it, to read.
    """

    kind: str
    dtype: str
    bytes: float
    runs: int
    group: tuple[int, ...]
    hidden: bool
    name: str

    @property
    def sent(self) -> float:
        """Bytes that a device sends in one run, by a ring: section "How fast are collectives" of
        https://jax-ml.github.io/scaling-book/sharding.
        """
        size = len(self.group)
        if self.kind == "collective-permute":
            return self.bytes
        passes = 2.0 if self.kind in ("all-reduce", BETWEEN) else 1.0
        if self.kind == "all-to-all":
            passes = 1 / 4 if size > 2 else 1 / 2  # of a ring in both directions
        return passes * self.bytes * (size - 1) / size


def find_collectives(program: Program, num_devices: int, slices: int = 1) -> list[Collective]:
    """The collectives of a program that really connect devices.

    A collective that the compiler hides behind other work stands in several places, one for each
    part of that work, all with its channel, name and chain: it counts once. A channel alone does
    not tell them apart: those of a shard_map may share one.
    What goes over several slices is summed in each of them first; then each chip sends its part of
    the sum by its host.
    """
    found: dict[tuple[str, str, str | None], dict[str, list[Collective]]] = {}
    between: list[Collective] = []
    apart = {
        name
        for instructions in program.computations.values()
        for instruction in instructions.values()
        if instruction.opcode == "async-start"
        for name in instruction.called
    }
    for computation, instructions in program.computations.items():
        runs = program.runs[computation]
        for instruction in instructions.values():
            if instruction.opcode == "send" and "megascale_transfer_type" in instruction.attributes:
                between.append(_between(instruction, runs, num_devices, slices))
            kind = instruction.opcode.removesuffix("-start")
            if kind not in KINDS or not runs:
                continue
            one = _collective(kind, instruction, computation, runs, num_devices)
            if computation in apart:
                one = dataclasses.replace(one, hidden=True)
            if len(one.group) > 1:
                channel = instruction.attribute("channel_id") or instruction.name
                chain = _CHAIN.search(instruction.attributes)
                places = found.setdefault((channel, one.name, chain and chain[0]), {})
                ones = places.setdefault(computation, [])
                if chain is None or not ones:
                    ones.append(one)
    most = [max(places.values(), key=_total_runs) for places in found.values()]
    return [one for ones in most for one in ones] + between


def _total_runs(ones: list[Collective]) -> int:
    return sum(one.runs for one in ones)


def summary(collectives: list[Collective]) -> dict[str, dict[str, float]]:
    """Count and bytes a step of each kind, and of all."""
    table = {kind: {"count": 0, "bytes": 0.0} for kind in (*KINDS, BETWEEN)}
    for one in collectives:
        table[one.kind]["count"] += one.runs
        table[one.kind]["bytes"] += one.runs * one.bytes
    return {kind: row for kind, row in table.items() if row["count"]}


def _collective(
    kind: str,
    instruction: Instruction,
    computation: str,
    runs: int,
    num_devices: int,
) -> Collective:
    shapes = instruction.shapes
    if instruction.opcode in ("all-gather-start", "collective-permute-start"):
        shapes = shapes[len(instruction.operands) : 2 * len(instruction.operands)]  # the results
    size = sum(shape.bytes for shape in shapes)
    group = _group(instruction.attributes, num_devices)
    if kind == "reduce-scatter":
        size *= len(group)
    elif kind == "all-reduce" and computation.startswith("all-reduce-scatter"):
        kind = (
            "reduce-scatter"  # so the compiler writes it: a sum of which each device keeps a part
        )
    hidden = instruction.opcode.endswith("-start") or bool(_CHAIN.search(instruction.attributes))
    name = re.search(r'op_name="([^"]*)"', instruction.attributes)
    dtype = "+".join(sorted({shape.type for shape in shapes}))
    return Collective(kind, dtype, size, runs, group, hidden, name[1] if name else "")


def _between(instruction: Instruction, runs: int, num_devices: int, slices: int) -> Collective:
    sent = instruction.shapes[0]
    group = tuple(range(0, num_devices, num_devices // slices))  # one chip of each slice
    return Collective(BETWEEN, sent.type, sent.bytes, runs, group, True, "")


def _group(attributes: str, num_devices: int) -> tuple[int, ...]:
    """The first group of devices, however the compiler writes the groups."""
    if found := re.search(r"source_target_pairs=\{\{(\d+),(\d+)\}", attributes):
        return int(found[1]), int(found[2])
    if found := re.search(r"replica_groups=\{\{([\d,]+)\}", attributes):
        return tuple(map(int, found[1].split(",")))
    if found := _IOTA.search(attributes):
        return tuple(map(int, _iota(found[1])[0]))
    if found := _MESH.search(attributes):
        return _mesh_group(found["axes"], found["order"], found["split"], num_devices)
    return tuple(range(num_devices))  # no groups: all of them


def _iota(text: str) -> np.ndarray:
    """[4,2]<=[2,4]T(1,0): the numbers 0..7 as an array [2,4], transposed, as an array [4,2]."""
    shape, _, order = text.partition("<=")
    sizes = _numbers(order.split("T")[0])
    devices = np.arange(math.prod(sizes)).reshape(sizes)
    if "T" in order:
        devices = devices.transpose(_numbers(order.split("T")[1]))
    return devices.reshape(_numbers(shape))


def _mesh_group(axes: str, order: str | None, split: str, num_devices: int) -> tuple[int, ...]:
    """mesh['a'=2,'b'=4], device_ids=([4,2]T(1,0)) {'b'}: the first group along axis b.

    An axis may be cut: 'b':(2)2 is the part of size 2 behind a part of size 2.
    """
    sizes = {name: int(size) for name, size in re.findall(r"'([^']+)'=(\d+)", axes)}
    devices = np.arange(num_devices)
    if order:
        first = _numbers(order.split("T")[0])
        devices = devices.reshape(first)
        if "T" in order:
            devices = devices.transpose(_numbers(order.split("T")[1]))
    parts: dict[str, tuple[int, int]] = {
        name: (int(before or 1), int(size or sizes[name]))
        for name, before, size in _AXIS.findall(split)
    }
    index: list[slice | int] = []
    shape: list[int] = []
    for name, size in sizes.items():
        before, middle = parts.get(name, (1, 1))
        shape += [before, middle, size // (before * middle)]
        index += [0, slice(None), 0]
    return tuple(int(device) for device in devices.reshape(shape)[tuple(index)].reshape(-1))


def _numbers(text: str) -> tuple[int, ...]:
    return tuple(int(number) for number in re.findall(r"\d+", text))

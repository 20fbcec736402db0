"""Reads the text of a compiled program: its computations, and how often each of them runs."""

from __future__ import annotations

import collections
import dataclasses
import functools
import math
import re
from collections.abc import Iterator

_ITEM_BYTES = {
    "pred": 1, "s4": 0.5, "u4": 0.5, "s8": 1, "u8": 1, "s16": 2, "u16": 2, "s32": 4, "u32": 4,
    "s64": 8, "u64": 8, "bf16": 2, "f16": 2, "f32": 4, "f64": 8, "c64": 8, "c128": 16,
    "f8e4m3fn": 1, "f8e5m2": 1,
}  # fmt: skip
_HEADER = re.compile(r"(?P<entry>ENTRY )?%?(?P<name>[\w.\-]+) \(.*\{")
_END = re.compile(r'\}(, execution_thread="\w+")?')
_ARRAY = re.compile(r"(?P<type>[a-z]\w*)\[(?P<sizes>[\d,]*)\](?P<layout>\{[^{}]*\})?")
_CALLED = re.compile(r"(?:calls|body|true_computation|false_computation)=%?([\w.\-]+)")
_BRANCHES = re.compile(r"branch_computations=\{([^{}]*)\}")


@dataclasses.dataclass(frozen=True)
class Shape:
    """One array of a program.

    Attributes:
      type: of its elements, as f32.
      sizes: its dimensions.
      layout: as the compiler writes it: "{1,0:T(8,128)S(1)}" has its last dimension innermost, in
        tiles of 8 x 128, in memory space 1.
    """

    type: str
    sizes: tuple[int, ...]
    layout: str = ""

    @property
    def bytes(self) -> float:
        """Of its elements; 0 for what holds no data."""
        return _ITEM_BYTES.get(self.type, 0) * math.prod(self.sizes)

    @property
    def in_hbm(self) -> bool:
        """False if the compiler keeps it in the core's own memory."""
        space = re.search(r"S\((\d+)\)", self.layout)
        return space is None or space[1] == "0"

    @functools.cached_property
    def padded_bytes(self) -> float:
        """What it takes in memory, where tiles are whole: [512,4] in tiles of 8 x 128 takes as much
        as [512,128].
        """
        found = re.match(r"\{([\d,]*):T\(([\d,]+)\)", self.layout)
        if found is None or not found[1]:
            return self.bytes
        sizes = list(self.sizes)
        innermost = [int(dimension) for dimension in found[1].split(",")]
        tile = [int(size) for size in reversed(found[2].split(","))]
        for dimension, size in zip(innermost, tile, strict=False):
            sizes[dimension] = -(-sizes[dimension] // size) * size
        return _ITEM_BYTES.get(self.type, 0) * math.prod(sizes)


@dataclasses.dataclass(frozen=True)
class Instruction:
    """One line: `name = shapes opcode(operands), attributes`."""

    name: str
    is_root: bool
    shapes: tuple[Shape, ...]
    opcode: str
    operands: tuple[str, ...]
    inside: str  # what stands in the parentheses
    attributes: str

    @property
    def bytes(self) -> float:
        """Of the result, as it lies in memory."""
        return sum(shape.padded_bytes for shape in self.shapes)

    @functools.cached_property
    def called(self) -> list[str]:
        """The computations that it runs, without those that are applied to single elements."""
        if self.opcode.endswith(("-done", "-update")):
            return []  # names what its start has run
        found = _CALLED.findall(self.attributes)
        if branches := _BRANCHES.search(self.attributes):
            found += [name.strip().lstrip("%") for name in branches[1].split(",")]
        return found

    def attribute(self, name: str) -> str | None:
        """The word behind `name=`."""
        found = re.search(rf"(?<![\w.]){name}=%?([^\s,]+)", self.attributes)
        return found[1] if found else None


Computation = dict[str, Instruction]


@dataclasses.dataclass(frozen=True, eq=False)
class Program:
    """A compiled program.

    Attributes:
      computations: by their names.
      entry: the name of the first.
    """

    computations: dict[str, Computation]
    entry: str

    @functools.cached_property
    def runs(self) -> dict[str, int]:
        """How often each computation runs in one call of the program."""
        counts: collections.Counter[str] = collections.Counter()

        def enter(name: str, times: int) -> None:
            counts[name] += times
            for instruction in self.computations[name].values():
                loops = self.trip_count(instruction) or 1
                for called in instruction.called:
                    enter(called, times * loops)
                if condition := instruction.attribute("condition"):
                    enter(condition, times * (loops + 1))

        enter(self.entry, 1)
        return counts

    def trip_count(self, instruction: Instruction) -> int | None:
        """How often a loop runs; None if it is no loop, or if its data decides.

        Loops over layers and microbatches count from 0 up to a constant, which their condition
        compares with; those that the compiler makes of a product and its collective may count in
        steps of 2.
        """
        if instruction.opcode != "while":
            return None
        if known := re.search(r'"known_trip_count":\{"n":"(\d+)"', instruction.attributes):
            return int(known[1])
        condition = self.computations[instruction.attribute("condition") or ""]
        root = next(i for i in condition.values() if i.is_root)
        if root.opcode != "compare" or root.attribute("direction") != "LT":
            return None
        bound = condition.get(root.operands[1])
        if bound is None or bound.opcode != "constant":
            return None
        counter = condition.get(root.operands[0])
        place = counter.attribute("index") if counter is not None else None
        step = 1 if place is None else self._step(instruction, int(place))
        return -(-int(bound.inside) // step)

    def _step(self, loop: Instruction, place: int) -> int:
        """What a turn of a loop adds to its counter."""
        body = self.computations[loop.attribute("body") or ""]
        root = next(i for i in body.values() if i.is_root)
        following = body.get(root.operands[place]) if root.opcode == "tuple" else None
        if following is None or following.opcode != "add":
            return 1
        added = [body[n].inside for n in following.operands if n in body]
        return next((int(text) for text in added if text.isdigit()), 1)

    @property
    def unknown_loops(self) -> int:
        """Loops whose number of turns only the data decides; they are counted as one turn."""
        instructions = (i for c in self.computations.values() for i in c.values())
        return sum(i.opcode == "while" and self.trip_count(i) is None for i in instructions)


def parse_program(text: str) -> Program:
    """Reads what `compiled.as_text()` gives."""
    computations: dict[str, Computation] = {}
    entry, current = "", None
    for line in _lines(text):
        if not line.startswith(" "):
            header = _HEADER.fullmatch(line.rstrip())
            current = None if header is None else computations.setdefault(header["name"], {})
            if header is not None and header["entry"]:
                entry = header["name"]
        elif current is not None and " = " in line:
            instruction = _instruction(line.strip())
            current[instruction.name] = instruction
    if not entry:
        raise ValueError("the text has no ENTRY computation")
    return Program(computations, entry)


def _lines(text: str) -> Iterator[str]:
    """Lines, those of an instruction whose attributes have several as one."""
    waiting: list[str] = []  # an instruction that may go on
    for line in text.splitlines():
        if waiting and not line.startswith(" ") and not _END.fullmatch(line):
            waiting.append(line)
            continue
        if waiting:
            yield "".join(waiting)
        waiting = [line] if line.startswith(" ") else []
        if not waiting:
            yield line
    if waiting:
        yield "".join(waiting)


def parse_shapes(text: str) -> tuple[Shape, ...]:
    """The arrays of a type, which may be a tuple of them, in their order."""
    found = []
    for part in _ARRAY.finditer(text):
        sizes = tuple(int(size) for size in part["sizes"].split(",") if size)
        found.append(Shape(part["type"], sizes, part["layout"] or ""))
    return tuple(found)


def _instruction(line: str) -> Instruction:
    name, rest = line.split(" = ", 1)
    end = _closing(rest, 0) + 1 if rest.startswith("(") else rest.index(" ")
    shapes, rest = rest[:end], rest[end:].lstrip()
    opening = rest.index("(")
    closing = _closing(rest, opening)
    inside = rest[opening + 1 : closing]
    return Instruction(
        name=name.removeprefix("ROOT ").lstrip("%"),
        is_root=name.startswith("ROOT "),
        shapes=parse_shapes(shapes),
        opcode=rest[:opening],
        operands=tuple(re.findall(r"%([\w.\-]+)", inside)),
        inside=inside,
        attributes=rest[closing + 1 :],
    )


def _closing(text: str, opening: int) -> int:
    """Where the parenthesis closes that opens there."""
    depth = 0
    for place in range(opening, len(text)):
        depth += (text[place] == "(") - (text[place] == ")")
        if depth == 0:
            return place
    raise ValueError(f"a parenthesis does not close: {text[opening : opening + 60]}")

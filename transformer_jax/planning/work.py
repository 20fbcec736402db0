"""What a compiled program does beside its collectives: products and traffic, instruction by
instruction.
"""

from __future__ import annotations

import dataclasses
import math
import re

from transformer_jax.planning.hlo import Computation, Instruction, Program, Shape

# These move nothing: they rename, or the instructions that they run are counted by themselves.
_FREE = {
    "parameter", "constant", "tuple", "get-tuple-element", "bitcast", "while", "conditional",
    "call", "call-start", "call-done", "iota", "after-all", "partition-id", "replica-id",
    "opt-barrier", "async-start",
    "copy-done", "slice-done", "async-done", "async-update", "all-reduce", "all-gather",
    "reduce-scatter", "all-to-all", "collective-permute", "all-gather-start", "all-gather-done",
    "send", "send-done", "recv", "recv-done",
    "all-reduce-start", "all-reduce-done", "collective-permute-start", "collective-permute-done",
}  # fmt: skip
_AHEAD = {"copy-start", "slice-start"}  # fetch for later, while other instructions run
_RENAMES = {"bitcast", "reshape"}
_CYCLES = re.compile(r'"estimated_cycles":"(\d+)"')
_COST = re.compile(r'"cost_estimate":\{"flops":"?(\d+)"?')
# The kernels of splash attention and their products of queries with keys, of which the backward
# ones compute the weights again (arXiv:2205.14135, algorithm 4, in two passes).
_SPLASH = re.compile(r"splash_m[hq]a_(fwd|dq|dkv)_")
_SPLASH_PRODUCTS = {"fwd": 2, "dq": 3, "dkv": 4}


@dataclasses.dataclass(frozen=True)
class Work:
    """What one instruction does each time.

    Attributes:
      flops: of its products; elementwise operations are not counted.
      bytes: between memory and core.
      cycles: the compiler's own estimate of its time; 0 where it gives none.
      ahead: whether it only fetches for later.
      runs: how often it runs in a step.
    """

    flops: float
    bytes: float
    cycles: int
    ahead: bool
    runs: int


def list_work(program: Program) -> list[Work]:
    """The instructions of a program that compute or move something."""
    fused = {
        called
        for computation in program.computations.values()
        for instruction in computation.values()
        if instruction.opcode == "fusion"
        for called in instruction.called
    }
    found = []
    for name, runs in program.runs.items():
        if name in fused:
            continue  # counted as a whole where it is called
        computation = program.computations[name]
        for instruction in computation.values():
            if instruction.opcode in _FREE or "AllocateBuffer" in instruction.attributes:
                continue
            cycles = _CYCLES.search(instruction.attributes)
            found.append(
                Work(
                    flops=_flops(program, computation, instruction),
                    bytes=_bytes(program, computation, instruction),
                    cycles=int(cycles[1]) if cycles else 0,
                    ahead=instruction.opcode in _AHEAD,
                    runs=runs,
                )
            )
    return found


def _flops(program: Program, computation: Computation, instruction: Instruction) -> float:
    """Of the products that it is, or that are fused into it."""
    if instruction.opcode == "fusion":
        return sum(
            _flops(program, program.computations[called], inner)
            for called in instruction.called
            for inner in program.computations[called].values()
        )
    if instruction.opcode == "dot":
        return dot_flops(computation, instruction)
    if instruction.opcode == "convolution":
        return convolution_flops(computation, instruction)
    if cost := _COST.search(instruction.attributes):  # a kernel that says it itself
        return float(cost[1])
    if (kernel := _SPLASH.match(instruction.name)) and instruction.opcode == "custom-call":
        return _SPLASH_PRODUCTS[kernel[1]] * _splash_flops(computation, instruction)
    return 0.0


def _splash_flops(computation: Computation, instruction: Instruction) -> float:
    """Of one product of all queries [...,T,H] with all keys [...,S,H], the first two of floats.

    Blocks that a causal mask skips are counted too.
    """
    arrays = [computation[name].shapes[0] for name in instruction.operands if name in computation]
    queries, keys = [x.sizes for x in arrays if x.type in ("bf16", "f32")][:2]
    return 2.0 * math.prod(queries) * keys[-2]


def dot_flops(computation: Computation, instruction: Instruction) -> float:
    """2 x the elements of the result x the size that is summed over."""
    left = computation[instruction.operands[0]].shapes[0]
    dims = instruction.attribute("lhs_contracting_dims")
    found = re.search(r"lhs_contracting_dims=\{([\d,]*)\}", instruction.attributes)
    if dims is None or found is None:
        return 0.0
    summed = math.prod(left.sizes[int(d)] for d in found[1].split(",") if d)
    return 2.0 * math.prod(instruction.shapes[0].sizes) * summed


def convolution_flops(computation: Computation, instruction: Instruction) -> float:
    """2 x the pairs of numbers that are multiplied; XLA writes products for a TPU so.

    A dimension of a batch of products becomes a dimension of space, dilated so that each place of
    the result meets one place of the input. What falls on padding or into a hole is not counted,
    as in XLA's own HloCostAnalysis::HandleConvolution.
    """
    labels = re.search(r"dim_labels=(\w+)_(\w+)->(\w+)", instruction.attributes)
    if labels is None:
        return 0.0
    inputs, kernels, results = labels.groups()
    kernel = computation[instruction.operands[1]].shapes[0]
    source, result = computation[instruction.operands[0]].shapes[0], instruction.shapes[0]
    window = re.search(r"window=\{([^}]*)\}", instruction.attributes)
    settings = dict(re.findall(r"(\w+)=(\S+)", window[1])) if window else {}
    pairs = 1
    for place, label in enumerate(sorted(set(results) - {"b", "f"}, key=int)):
        pairs *= _valid_pairs(
            size=source.sizes[inputs.index(label)],
            window=kernel.sizes[kernels.index(label)],
            result=result.sizes[results.index(label)],
            stride=_nth(settings, "stride", place, 1),
            low=int(settings["pad"].split("x")[place].split("_")[0]) if "pad" in settings else 0,
            holes=_nth(settings, "lhs_dilate", place, 1),
            spread=_nth(settings, "rhs_dilate", place, 1),
        )
    batch, features = (result.sizes[results.index(label)] for label in "bf")
    return 2.0 * batch * features * kernel.sizes[kernels.index("i")] * pairs


def _valid_pairs(
    size: int, window: int, result: int, stride: int, low: int, holes: int, spread: int
) -> int:
    """Pairs of a place of the result and one of the window that meet a number of the input."""
    count, last = 0, (size - 1) * holes
    for w in range(window):
        base = w * spread - low
        # Places r with 0 <= r stride + base <= last, on a number and not in a hole between two.
        first = max(0, math.ceil(-base / stride))
        end = min(result - 1, (last - base) // stride)
        if holes == 1:
            count += max(0, end - first + 1)
        else:
            count += sum((r * stride + base) % holes == 0 for r in range(first, end + 1))
    return count


def _nth(settings: dict[str, str], name: str, place: int, default: int) -> int:
    return int(settings[name].split("x")[place]) if name in settings else default


def _bytes(program: Program, computation: Computation, instruction: Instruction) -> float:
    """What it reads from memory and writes to it."""
    if instruction.opcode in ("copy-start", "slice-start"):
        moved = instruction.shapes[0] if instruction.opcode == "copy-start" else None
        shapes = [moved] if moved else instruction.shapes[1:2]
        in_hbm = sum(shape.in_hbm for shape in instruction.shapes[:2])
        return sum(shape.padded_bytes for shape in shapes) * min(in_hbm, 2)
    if instruction.opcode in ("dynamic-slice", "slice", "gather"):
        return _in_hbm(instruction.shapes) * 2
    if instruction.opcode == "dynamic-update-slice":
        return _in_hbm(computation[instruction.operands[1]].shapes) * 2
    if instruction.opcode == "fusion":
        return _fusion_bytes(program, computation, instruction)
    operands = {name for name in instruction.operands if name in computation}
    read = sum(_in_hbm(computation[name].shapes) for name in operands)
    return read + _in_hbm(instruction.shapes)


def _fusion_bytes(program: Program, computation: Computation, instruction: Instruction) -> float:
    """Each operand once, or the slices that are taken of it; each result, or the slice that is
    written; without what is handed through.
    """
    inner = program.computations[instruction.called[0]]
    through_out, through_in = _handed_through(instruction)
    total = 0.0
    for place, name in enumerate(instruction.operands):
        if place in through_in or name not in computation:
            continue
        part = _read_of(program, inner, _parameter(inner, place))
        whole = _in_hbm(computation[name].shapes)
        total += whole if part is None else min(whole, part)
    for place, shape in enumerate(instruction.shapes):
        if place not in through_out and shape.in_hbm:
            total += min(shape.padded_bytes, _written(program, inner, place))
    return total


def _parameter(inner: Computation, place: int) -> Instruction:
    wanted = str(place)
    return next(i for i in inner.values() if i.opcode == "parameter" and i.inside == wanted)


def _read_of(program: Program, inner: Computation, operand: Instruction) -> float | None:
    """Bytes that a fusion reads of an operand, if it takes slices of it only; None: all of it."""
    total = 0.0
    for reader in inner.values():
        if operand.name not in reader.operands:
            continue
        part: float | None = None
        if reader.opcode in ("dynamic-slice", "slice", "gather"):
            if reader.operands[0] == operand.name:
                part = reader.bytes
        elif reader.opcode == "dynamic-update-slice":
            part = 0.0 if reader.operands[0] == operand.name else None  # is written in place
        elif reader.opcode == "bitcast":
            part = _read_of(program, inner, reader)
        elif reader.opcode == "fusion":  # one in the other
            nested = program.computations[reader.called[0]]
            place = reader.operands.index(operand.name)
            part = _read_of(program, nested, _parameter(nested, place))
        if part is None:
            return None
        total += part
    return total


def _written(program: Program, inner: Computation, place: int) -> float:
    """Bytes that a fusion writes of its result of that place: of a slice, if it updates one."""
    root = next(one for one in inner.values() if one.is_root)
    writer = inner[root.operands[place]] if root.opcode == "tuple" else root
    while writer.opcode in _RENAMES and writer.operands[0] in inner:
        writer = inner[writer.operands[0]]
    if writer.opcode == "dynamic-update-slice":
        return inner[writer.operands[1]].bytes
    if writer.opcode == "fusion" and len(writer.shapes) == 1:
        return _written(program, program.computations[writer.called[0]], 0)
    return math.inf


def _handed_through(instruction: Instruction) -> tuple[set[int], set[int]]:
    """Results and operands of a fusion that share their memory and only wait beside it."""
    found = re.search(r"output_to_operand_aliasing=\{(.*?\))\}", instruction.attributes)
    pairs = re.findall(r"\{([\d, ]*)\}: \((\d+),", found[1]) if found else []
    if len(instruction.shapes) < 2:
        return set(), set()  # it is updated in place, which its own instructions tell
    out = {int(where) for where, _ in pairs if where.isdigit()}
    return out, {int(operand) for _, operand in pairs}


def _in_hbm(shapes: tuple[Shape, ...]) -> float:
    return sum(shape.padded_bytes for shape in shapes if shape.in_hbm)

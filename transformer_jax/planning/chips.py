"""What the TPUs can do, by their makers' tables, and how their chips are wired."""

from __future__ import annotations

import dataclasses
import math
import re

from transformer_jax.errors import UserError

GIB = 2**30

_SHAPE = re.compile(r"(?P<kind>[a-z0-9]+):(?P<shape>\d+(x\d+){1,2})")


@dataclasses.dataclass(frozen=True)
class Chip:
    """One chip, which is one device of JAX on all kinds that stand in `CHIPS`.

    Attributes:
      flops: bfloat16 operations a second.
      hbm_bytes: memory, of which the compiler keeps some for itself.
      hbm_bandwidth: bytes a second between memory and core.
      link_bandwidth: bytes a second over one link to a neighbour, in one direction.
      ring: chips of a dimension from which on it closes to a ring; on shorter ones it is a line.
      ring_multiple: a dimension closes only if it is a multiple of this.
      dimensions: of the grid of a slice.
      most: chips of the largest slice.
      hertz: cycles a second, for the compiler's estimates; None where we found no source.
      source: the page that says so.
    """

    flops: float
    hbm_bytes: float
    hbm_bandwidth: float
    link_bandwidth: float
    ring: int
    ring_multiple: int
    dimensions: int
    most: int
    hertz: float | None
    source: str


# Peak, memory and its bandwidth: the "Key specifications" of each kind's page. Links: the table
# "ICI BW/link (one-way)" of https://jax-ml.github.io/scaling-book/tpus, 10 % below what the pages
# of the kinds say of a whole chip (400, 800 and 1,200 GB/s over 4, 4 and 6 links, both directions).
# Rings, dimensions and largest slices ("Pod size"): the same page, section "TPU Networking" and its
# tables. The clock of v5e stands there, too.
CHIPS = {
    "v4": Chip(
        275e12, 32 * GIB, 1.2e12, 4.5e10, 4, 4, 3, 4096, None,
        "https://docs.cloud.google.com/tpu/docs/v4",
    ),
    "v5e": Chip(
        197e12, 16 * GIB, 8.19e11, 4.5e10, 16, 16, 2, 256, 1.5e9,
        "https://docs.cloud.google.com/tpu/docs/v5e",
    ),
    "v5p": Chip(
        459e12, 95 * GIB, 2.765e12, 9e10, 4, 4, 3, 8960, None,
        "https://docs.cloud.google.com/tpu/docs/v5p",
    ),
    "v6e": Chip(
        918e12, 32 * GIB, 1.6e12, 9e10, 16, 16, 2, 256, None,
        "https://docs.cloud.google.com/tpu/docs/v6e",
    ),
}  # fmt: skip

# The same page, worked problem 5: "the per-hop latency is 1 us".
HOP_SECONDS = 1e-6
# The same page, "PCIe bandwidth ...": DCN a chip, which slices talk over; v6e has twice as much.
DCN_BANDWIDTH = {"v4": 6.25e9, "v5e": 3.125e9, "v5p": 6.25e9, "v6e": 12.5e9}
LINKS_SOURCE = "https://jax-ml.github.io/scaling-book/tpus"


@dataclasses.dataclass(frozen=True)
class Topology:
    """Chips that are wired as a grid, perhaps several such slices.

    Attributes:
      kind: of the chips, as in `CHIPS`.
      shape: chips of each dimension.
      slices: grids, which are connected by the network of the data centre.
    """

    kind: str
    shape: tuple[int, ...]
    slices: int = 1

    def __str__(self) -> str:
        several = f" x {self.slices} slices" if self.slices > 1 else ""
        return f"{self.name}{several}"

    @property
    def name(self) -> str:
        """One slice, as the compiler calls it."""
        return f"{self.kind}:{'x'.join(map(str, self.shape))}"

    @property
    def chip(self) -> Chip:
        """What one of the chips can do."""
        return CHIPS[self.kind]

    @property
    def num_chips(self) -> int:
        """Chips of all slices."""
        return math.prod(self.shape) * self.slices

    def is_ring(self, dimension: int) -> bool:
        """Whether the last chip of a dimension is wired to the first."""
        size, chip = self.shape[dimension], self.chip
        closes = size >= chip.ring and size % chip.ring_multiple == 0
        # The optical switches that close the rings of v4 and v5p connect whole cubes.
        cubes = len(self.shape) < 3 or all(n % chip.ring_multiple == 0 for n in self.shape)
        return closes and cubes


def parse_topology(text: str, slices: int = 1) -> Topology:
    """Reads v5e:16x16 or v5p:8x8x8.

    Raises:
      UserError: it is not written so, or of a kind that we have no numbers of.
    """
    found = _SHAPE.fullmatch(text)
    if found is None or found["kind"] not in CHIPS:
        raise UserError(
            f"--topology {text} is not known. Write KIND:AxB or KIND:AxBxC, as v5e:16x16 or "
            f"v5p:8x8x8; the kinds are {', '.join(CHIPS)}."
        )
    if slices < 1:
        raise UserError(f"--slices {slices} must be at least 1.")
    topology = Topology(found["kind"], tuple(map(int, found["shape"].split("x"))), slices)
    chip, size = topology.chip, math.prod(topology.shape)
    if len(topology.shape) != chip.dimensions or not 0 < size <= chip.most:
        form = "x".join("ABC"[: chip.dimensions])
        raise UserError(
            f"--topology {text}: a slice of {found['kind']} is {found['kind']}:{form} with at most "
            f"{chip.most:,} chips. More of them are several slices: --slices N."
        )
    return topology

"""A plan: what a config's train step takes on a topology, as a prediction."""

from __future__ import annotations

import dataclasses
from typing import Any

import jax

from transformer_jax.parallel.mesh import make_mesh
from transformer_jax.planning.abstract import abstract_step
from transformer_jax.planning.chips import LINKS_SOURCE, Topology
from transformer_jax.planning.collectives import Collective, find_collectives, summary
from transformer_jax.planning.compiler import Compiled, compile_step, devices_of
from transformer_jax.planning.flops import model_flops, plain
from transformer_jax.planning.hlo import Program, parse_program
from transformer_jax.planning.roofline import Places, Roofline, roofline
from transformer_jax.planning.work import list_work
from transformer_jax.training.config import ExperimentConfig

ASSUMPTIONS = (
    "Every product runs at the peak of the matrix unit, and every byte at the full bandwidth: real "
    "steps take longer. An instruction takes the longer of both; one follows the other.",
    "What is elementwise costs its bytes alone; arrays that the compiler keeps in the core cost "
    "nothing.",
    "A collective that the compiler starts and ends apart is hidden behind other work; any other "
    "one is waited for. Links carry their full bandwidth, with no traffic of others.",
    "Loops whose turns only the data decides, as in masking, are counted as one turn.",
    "Between slices, a chip has its share of the network, and sends its part of a sum behind other "
    "work.",
    "The input is there when the step begins; checkpoints and validations are left out.",
)


@dataclasses.dataclass(frozen=True)
class Plan:
    """What a step takes; bytes and seconds of one chip.

    Attributes:
      topology: where.
      mesh: devices of each axis.
      batch_size: rows of all chips; microbatches: parts that it is cut into.
      flops: of the products that the model asks for, of all chips.
      fits: whether the step can run there at all.
      compiled: what the compiler made of it.
      hardware_flops: of the products that all chips run, what is computed again included.
      collectives: of one device.
      times: None if it does not fit.
      unknown_loops: that were counted as one turn.
    """

    topology: Topology
    mesh: dict[str, int]
    batch_size: int
    microbatches: int
    flops: float
    fits: bool
    compiled: Compiled
    hardware_flops: float | None = None
    collectives: tuple[Collective, ...] = ()
    times: Roofline | None = None
    unknown_loops: int = 0

    @property
    def mfu(self) -> float | None:
        """Model FLOPs utilisation (arXiv:2204.02311, appendix B): the model's own operations, as a
        share of what the chips could do in the time.
        """
        if self.times is None:
            return None
        return self.flops / (self.times.step * self.topology.num_chips * self.topology.chip.flops)

    def to_json(self) -> dict[str, Any]:
        """As numbers for machines; None where a step that does not fit has none."""
        times, chip, memory = self.times, self.topology.chip, self.compiled.memory
        return {
            "prediction": True,
            "topology": str(self.topology),
            "chips": self.topology.num_chips,
            "mesh": self.mesh,
            "batch_size": self.batch_size,
            "microbatches": self.microbatches,
            "fits": self.fits,
            "memory_gb": _gb(memory.total),
            "arguments_gb": _gb(memory.arguments),
            "temporaries_gb": _gb(memory.temporaries),
            "hbm_gb": _gb(chip.hbm_bytes),
            "mfu": None if self.mfu is None else round(self.mfu, 4),
            "step_seconds": None if times is None else times.step,
            "compute_seconds": None if times is None else times.compute,
            "memory_seconds": None if times is None else times.memory,
            "interconnect_seconds": None if times is None else times.interconnect,
            "exposed_interconnect_seconds": None if times is None else times.exposed,
            "compiler_seconds": None if times is None else times.compiler,
            "limit": "memory" if times is None else times.limit,
            "flops": self.flops,
            "hardware_flops": self.hardware_flops,
            "collectives": None if times is None else summary(list(self.collectives)),
            "compile_seconds": round(self.compiled.seconds, 1),
            "loops_counted_once": self.unknown_loops,
            "complaint": self.compiled.complaint,
            "constants": {
                "peak_flops": chip.flops,
                "hbm_bytes": chip.hbm_bytes,
                "hbm_bandwidth": chip.hbm_bandwidth,
                "link_bandwidth": chip.link_bandwidth,
                "source": chip.source,
                "links_source": LINKS_SOURCE,
            },
            "assumptions": list(ASSUMPTIONS),
        }


def make_plan(config: ExperimentConfig, topology: Topology) -> Plan:
    """Compiles the config's step for the topology, and predicts its memory and time.

    Raises:
      UserError: the topology is not known, or the config does not fit its mesh.
    """
    mesh = make_mesh(config.mesh, devices_of(topology))
    step = abstract_step(config, mesh)
    compiled = compile_step(step)
    memory = compiled.memory.total
    plan = Plan(
        topology=topology,
        mesh=dict(mesh.shape),
        batch_size=config.train.batch_size,
        microbatches=config.train.microbatches,
        flops=_flops(config, step.mesh),
        fits=compiled.text is not None and memory <= topology.chip.hbm_bytes,
        compiled=compiled,
    )
    if compiled.text is None:
        return plan
    places = {number: tuple(device.coords) for number, device in enumerate(mesh.devices.flat)}
    return read_program(plan, parse_program(compiled.text), places)


def read_program(plan: Plan, program: Program, places: Places) -> Plan:
    """The plan with the work and the time of its compiled program."""
    work, topology = list_work(program), plan.topology
    collectives = tuple(find_collectives(program, topology.num_chips, topology.slices))
    return dataclasses.replace(
        plan,
        hardware_flops=sum(one.runs * one.flops for one in work) * topology.num_chips,
        collectives=collectives,
        times=roofline(work, collectives, topology, places),
        unknown_loops=program.unknown_loops,
    )


def _flops(config: ExperimentConfig, mesh: jax.sharding.Mesh) -> float:
    """Of the model on the whole batch."""
    step = abstract_step(plain(config), mesh)
    state, batch, key = step.arguments
    with jax.set_mesh(mesh):
        coefficients = dict(step.task.coefficients)
        return model_flops(step.task.loss_terms, coefficients, state.params, batch, key)


def _gb(count: float) -> float:
    return round(count / 1e9, 3)

"""Compiles a step for TPUs that are not there, by libtpu's compiler."""

from __future__ import annotations

import importlib.util
import math
import os
import re
import time
from typing import Any, NamedTuple

import jax
from jax.experimental import topologies

from transformer_jax.errors import UserError
from transformer_jax.planning.abstract import AbstractStep
from transformer_jax.planning.chips import GIB, Topology

# "Used 20.70G of 15.75G hbm", "the total memory required for HLO temporaries (38.48G) exceeds".
_USED = re.compile(r"Used ([\d.]+)([KMGT]) of [\d.]+[KMGT] hbm")
_TEMPORARIES = re.compile(r"temporaries \(([\d.]+)([KMGT])\) exceeds")
_UNITS = {"K": 2**10, "M": 2**20, "G": GIB, "T": 2**40}


class Memory(NamedTuple):
    """Bytes of one chip."""

    arguments: float  # state and batch, which the step updates in place
    temporaries: float
    program: float

    @property
    def total(self) -> float:
        """All that has to fit."""
        return self.arguments + self.temporaries + self.program


class Compiled(NamedTuple):
    """What the compiler made of a step.

    Attributes:
      memory: of a chip.
      text: the program; None if it did not fit.
      seconds: of processor time for tracing and compiling.
      complaint: why it did not fit, in the compiler's words.
    """

    memory: Memory
    text: str | None
    seconds: float
    complaint: str | None = None


def devices_of(topology: Topology) -> list[jax.Device]:
    """The devices of a topology, none of which is here.

    Raises:
      UserError: libtpu is not installed, or refuses the topology.
    """
    if importlib.util.find_spec("libtpu") is None:
        raise UserError(
            "The compiler for TPUs is not installed: pip install 'transformer-jax[plan]'."
        )
    os.environ["TPU_SKIP_MDS_QUERY"] = "1"  # there is no host that it could ask
    os.environ["ALLOW_MULTIPLE_LIBTPU_LOAD"] = "1"  # no TPU is used, so two may compile at a time
    several = {"num_slices": topology.slices} if topology.slices > 1 else {}
    try:
        found = topologies.get_topology_desc(platform="tpu", topology_name=topology.name, **several)
    except jax.errors.JaxRuntimeError as error:
        reason = str(error).splitlines()[0]
        raise UserError(
            f"--topology {topology.name} is none that the compiler knows: {reason}"
        ) from error
    return list(found.devices)


def compile_step(step: AbstractStep) -> Compiled:
    """Compiles; a step that needs more memory than a chip has is a result, too."""
    begin = time.process_time()
    lowered = step.lower()
    try:
        compiled = lowered.compile()
    except jax.errors.JaxRuntimeError as error:
        complaint = str(error)
        if "RESOURCE_EXHAUSTED" not in complaint:
            raise
        seconds = time.process_time() - begin
        return Compiled(needed(complaint, bytes_of(step.arguments)), None, seconds, complaint)
    stats = compiled.memory_analysis()
    # At the moment that needs most. The sum of arguments and temp_size_in_bytes is larger, and was
    # beyond what a chip has for steps that the compiler did fit into it.
    memory = Memory(
        arguments=stats.argument_size_in_bytes,
        temporaries=stats.peak_memory_in_bytes - stats.argument_size_in_bytes,
        program=stats.generated_code_size_in_bytes,
    )
    return Compiled(memory, compiled.as_text(), time.process_time() - begin)


def needed(complaint: str, arguments: float) -> Memory:
    """The memory that a complaint of the compiler tells of; it speaks of GiB and writes G."""
    if used := _USED.search(complaint):
        total = float(used[1]) * _UNITS[used[2]]
        return Memory(arguments, max(0.0, total - arguments), 0.0)
    if found := _TEMPORARIES.search(complaint):
        return Memory(arguments, float(found[1]) * _UNITS[found[2]], 0.0)
    return Memory(arguments, math.nan, 0.0)


def bytes_of(arguments: Any) -> float:
    """What one device holds of arrays with layouts."""

    def one(x: Any) -> float:
        if jax.dtypes.issubdtype(x.dtype, jax.dtypes.prng_key):
            return 0.0  # a few words
        return math.prod(x.sharding.shard_shape(x.shape)) * x.dtype.itemsize

    return sum(one(x) for x in jax.tree.leaves(arguments))

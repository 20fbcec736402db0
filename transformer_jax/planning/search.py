"""Looks for the mesh, sums, microbatches, recomputation and kernel with the best predicted step."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable
from typing import Any, NamedTuple, get_args, get_type_hints

from transformer_jax.errors import UserError
from transformer_jax.planning.chips import Topology
from transformer_jax.planning.plan import Plan
from transformer_jax.training.config import ExperimentConfig


class Candidate(NamedTuple):
    """A config of the search, and its plan.

    Attributes:
      config: what was tried.
      flags: how to get there from the config that one began with.
      plan: what it takes.
    """

    config: ExperimentConfig
    flags: str
    plan: Plan


def search(
    config: ExperimentConfig,
    topology: Topology,
    judge: Callable[[ExperimentConfig, Topology], Plan],
) -> list[Candidate]:
    """Tries changes one after the other, each from the best so far; best first.

    The mesh comes first, then when copies sum their gradients, the kernel, what is recomputed, and
    the microbatches, which are halved or doubled as long as that helps; then all of it again, until
    nothing helps any more. Each try is a compilation.

    Args:
      config: where to begin.
      topology: where it shall run.
      judge: makes a plan.

    Raises:
      UserError: of the config itself; what only a change would raise is left out.
    """
    tried: dict[str, Candidate] = {}

    def attempt(changed: ExperimentConfig) -> Candidate | None:
        flags = _flags(config, changed)
        if flags not in tried:
            try:
                tried[flags] = Candidate(changed, flags, judge(changed, topology))
            except UserError:
                if changed == config:
                    raise
                return None  # a mesh or a kernel that does not go with this model
        return tried[flags]

    best = attempt(config)
    assert best is not None
    before = None
    while best is not before:  # a change may help only after another one
        before = best
        for moves in (_meshes(topology), _SUMS, _kernels(config), _remats(config)):
            for part, change in moves:
                changed = _apply(best.config, part, change)
                found = None if changed is None else attempt(changed)
                if found is not None and _rank(found.plan) < _rank(best.plan):
                    best = found
        for factor in (2, 0.5):
            while (changed := _microbatches(best.config, factor)) is not None:
                found = attempt(changed)
                if found is None or _rank(found.plan) >= _rank(best.plan):
                    break
                best = found
    return sorted(tried.values(), key=lambda one: _rank(one.plan))


def _rank(plan: Plan) -> tuple[bool, float]:
    """What fits comes first, the fastest of it; of the rest, what needs least memory."""
    if plan.fits and plan.times is not None:
        return False, plan.times.step
    memory = plan.compiled.memory.total
    return True, math.inf if math.isnan(memory) else memory


# A part of the config, and what to change in it.
Move = tuple[str, dict[str, Any]]

_SUMS: list[Move] = [("train", {"sum_once": once}) for once in (True, False)]


def _meshes(topology: Topology) -> list[Move]:
    """All devices for data, for fsdp, fsdp within the last dimension, and a few for the model."""
    chips, row = topology.num_chips, topology.shape[-1]
    sizes = [(1, 1), (row, 1), (chips, 1), (1, 2), (1, 4), (row, 2)]
    fitting = dict.fromkeys(s for s in sizes if chips % math.prod(s) == 0)
    one = {"data": None, "context": 1}
    return [("mesh", one | {"fsdp": fsdp, "model": model}) for fsdp, model in fitting]


def _kernels(config: ExperimentConfig) -> list[Move]:
    return [("model", {"attention": name}) for name in _choices(config.model, "attention")]


def _remats(config: ExperimentConfig) -> list[Move]:
    return [("model", {"remat": name}) for name in _choices(config.model, "remat")]


def _choices(settings: Any, field: str) -> tuple[str, ...]:
    """The values that a field may have, by its type."""
    hints = get_type_hints(type(settings))
    return get_args(hints[field]) if field in hints else ()


def _apply(config: ExperimentConfig, part: str, change: dict[str, Any]) -> ExperimentConfig | None:
    try:
        changed = dataclasses.replace(getattr(config, part), **change)
    except ValueError:  # the config refuses it
        return None
    return dataclasses.replace(config, **{part: changed})


def _microbatches(config: ExperimentConfig, factor: float) -> ExperimentConfig | None:
    count = config.train.microbatches * factor
    return None if count < 1 else _apply(config, "train", {"microbatches": int(count)})


def _flags(before: ExperimentConfig, after: ExperimentConfig) -> str:
    """The overrides that lead from one config to the other."""
    found = []
    for part in ("mesh", "model", "train"):
        old, new = getattr(before, part), getattr(after, part)
        for field in dataclasses.fields(new):
            value = getattr(new, field.name)
            if value == getattr(old, field.name):
                continue
            name = field.name.replace("_", "-")
            if isinstance(value, bool):
                found.append(f"--{part}.{name if value else f'no-{name}'}")
            else:
                found.append(f"--{part}.{name} {value}")
    return " ".join(found) or "as it is"

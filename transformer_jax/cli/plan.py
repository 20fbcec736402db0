"""Predicts what a config takes on TPUs that are not here:
`python -m transformer_jax.cli.plan --config FILE --topology v5e:16x16 [overrides]`.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path

import jax

from transformer_jax.cli.config_file import change_config, load_config
from transformer_jax.errors import UserError
from transformer_jax.planning.apart import make_plan_apart
from transformer_jax.planning.chips import parse_topology
from transformer_jax.planning.plan import Plan
from transformer_jax.planning.search import search

USAGE = """usage: plan --config FILE --topology KIND:SHAPE [--slices N] [--json] [--search]
            [overrides]

Compiles the train step of the config for TPUs that are not here, and predicts whether it fits,
how long a step takes and what limits it. Overrides are those of train.py, as --mesh.fsdp 16.
`plan --config FILE --help` lists them."""


def main(argv: Sequence[str] | None = None) -> int:
    """Parses the command line and prints a plan.

    Returns:
      0, also for a plan that does not fit; 1 after an error of the user's; 2 without a config.
    """
    jax.config.update("jax_platforms", "cpu")  # no device is used
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    parser.add_argument("--config", type=Path)
    parser.add_argument("--topology")
    parser.add_argument("--slices", type=int, default=1)
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--search", action="store_true")
    known, overrides = parser.parse_known_args(argv)
    wants_help = {"-h", "--help"} & set(overrides)
    if known.config is None or (known.topology is None and not wants_help):
        print(USAGE, file=sys.stdout if wants_help else sys.stderr)
        return 0 if wants_help else 2
    try:
        config = change_config(load_config(known.config), overrides, "plan --config FILE", USAGE)
        topology = parse_topology(known.topology, known.slices)
        if not known.search:
            plan = make_plan_apart(config, topology)
            print(json.dumps(plan.to_json(), indent=2) if known.json else table(plan))
            return 0
        found = search(config, topology, make_plan_apart)
        if known.json:
            print(json.dumps([{"changes": c.flags} | c.plan.to_json() for c in found], indent=2))
        else:
            print("\n".join(f"{line(c.plan)}  {c.flags}" for c in found))
    except UserError as error:
        print(f"plan: {error}", file=sys.stderr)
        return 1
    return 0


def table(plan: Plan) -> str:
    """A plan to read."""
    p = plan.to_json()
    mesh = " x ".join(f"{name} {size}" for name, size in plan.mesh.items() if size > 1)
    parts = f" in {plan.microbatches} microbatches" if plan.microbatches > 1 else ""
    lines = [
        f"A prediction for {plan.topology}: {plan.topology.num_chips} chips, mesh {mesh or '1'}, "
        f"{plan.batch_size:,} rows a step{parts}",
        "",
        f"  fits            {'yes' if plan.fits else 'NO'}",
        f"  memory a chip   {p['memory_gb']:.2f} GB of {p['hbm_gb']:.2f} (state and batch "
        f"{p['arguments_gb']:.2f}, temporaries {p['temporaries_gb']:.2f})",
        f"  model FLOPs     {plan.flops:.4g} a step",
    ]
    if plan.times is not None and plan.mfu is not None and plan.hardware_flops is not None:
        t = plan.times
        lines += [
            f"  run FLOPs       {plan.hardware_flops:.4g}, {plan.hardware_flops / plan.flops:.3f} "
            f"of the model's",
            f"  step            {_time(t.step)}: instructions {_time(t.work)}, waiting for "
            f"collectives {_time(t.exposed)}",
            f"  by itself       compute {_time(t.compute)}, memory {_time(t.memory)}, "
            f"interconnect {_time(t.interconnect)}",
            f"  limited by      {t.limit}",
            f"  predicted MFU   {plan.mfu:.1%}",
        ]
        if t.compiler is not None:
            share = plan.mfu * t.step / t.compiler
            lines.append(f"  compiler says   {_time(t.compiler)}, MFU {share:.1%}")
        for kind, row in (p["collectives"] or {}).items():
            lines.append(f"  {kind:<16}{row['count']:,} of {row['bytes'] / 1e6:,.1f} MB in all")
    else:
        lines.append(f"  compiler says   {(plan.compiled.complaint or '').splitlines()[0][:160]}")
    chip = plan.topology.chip
    lines += [
        f"  compiled in     {plan.compiled.seconds:.0f} s of processor time",
        "",
        f"A chip: {chip.flops / 1e12:g} TFLOP/s, {chip.hbm_bytes / 2**30:g} GiB at "
        f"{chip.hbm_bandwidth / 1e9:g} GB/s ({chip.source}); {chip.link_bandwidth / 1e9:g} GB/s a "
        f"link and direction ({p['constants']['links_source']}).",
        "Assumptions:",
        *(f"- {text}" for text in p["assumptions"]),
    ]
    return "\n".join(lines)


def line(plan: Plan) -> str:
    """A plan in one line, to compare."""
    memory = f"{plan.compiled.memory.total / 1e9:7.2f} GB"
    if plan.times is None or not plan.fits or plan.mfu is None:
        return f"does not fit  {memory}"
    return f"MFU {plan.mfu:6.1%}  step {_time(plan.times.step):>9}  {memory}"


def _time(seconds: float) -> str:
    return f"{seconds:.3f} s" if seconds >= 1 else f"{seconds * 1e3:.2f} ms"


if __name__ == "__main__":
    sys.exit(main())

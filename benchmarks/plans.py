"""Plans for TPUs that are not here, as tables: those of docs/scale.md.

Each row is one `python -m transformer_jax.cli.plan`, in a process of its own. Needs the extra
`plan` and no data. From the root of the repository:

    python -m benchmarks.plans [TABLE ...] [--jobs 2]
"""

import argparse
import dataclasses
import json
import math
import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor

# Without it each chip draws the random bits of all chips.
FLAGS = "--xla_tpu_spmd_rng_bit_generator_unsafe=true"

LARGE = "configs/bert_large_512.py --model.attention-dropout-rate 0 --train.sum-once"
BASE = (
    "configs/bert_base.py --data.row-length 512 --model.attention-dropout-rate 0 --train.sum-once"
)
BIG = (
    "configs/transformer_big_wmt.py --train.dropout-bits rbg --model.attention-dropout-rate 0 "
    "--train.sum-once"
)
FAST = "--model.remat dots --model.attention splash"
# MaxText's models of global_parameter_scale 32 and 64 (github.com/AI-Hypercomputer/maxtext,
# MaxText/configs/base.yml and pyconfig.py): width 8,192, 64 heads of 128, and gated networks of
# 28,672, which are here plain ones of 1.5 times the width: as many parameters and products.
PUBLISHED = (
    "configs/bert_base.py --model.width 8192 --model.num-heads 64 --model.feed-forward-dim 43008 "
    "--model.vocab-size 32000 --model.max-positions 2048 --data.row-length 2048 "
    "--model.activation swish --model.attention splash --model.dropout-rate 0 "
    "--model.attention-dropout-rate 0 --model.remat full --mesh.fsdp 256"
)


@dataclasses.dataclass(frozen=True)
class Row:
    """One plan: what the table calls it, where, and the arguments behind --config."""

    name: str
    topology: str
    arguments: str
    slices: int = 1
    published: float | None = None  # MFU


def scaled(model, name, rows, microbatches, places):
    """A model with so many rows a chip on several topologies."""
    for topology, slices in places:
        chips = slices * math.prod(map(int, topology.partition(":")[2].split("x")))
        more = f"--train.batch-size {rows * chips} --train.microbatches {microbatches}"
        yield Row(name, topology, f"{model} {more}", slices)


PLACES = (
    *(("v5e:4x4", 1), ("v5e:16x16", 16)),
    *(("v5p:2x2x4", 1), ("v5p:16x16x16", 1)),
    *(("v6e:4x4", 1), ("v6e:16x16", 16)),
)
POD, ROWS = "v5e:16x16", "--train.batch-size 8192"
TABLES = {
    "published": [
        Row("32B", POD, f"{PUBLISHED} --model.num-layers 32 --train.batch-size 1024",
            published=0.6686),
        Row("32B", POD, f"{PUBLISHED} --model.num-layers 32 --train.batch-size 16384",
            16, published=0.6226),
        Row("64B", POD, f"{PUBLISHED} --model.num-layers 64 --train.batch-size 512",
            published=0.5990),
        Row("64B", POD, f"{PUBLISHED} --model.num-layers 64 --train.batch-size 8192",
            16, published=0.5329),
    ],
    "scaling": [
        *scaled(f"{BIG} {FAST}", "Transformer big, 256", 64, 2, PLACES),
        *scaled(f"{BASE} {FAST}", "BERT base, 512", 64, 2, PLACES),
        *scaled(f"{LARGE} {FAST}", "BERT large, 512", 32, 4, PLACES),
    ],
    "axes": [
        Row(name, POD, f"{LARGE} --model.remat dots {ROWS} --train.microbatches 8 {mesh}")
        for name, mesh in (
            ("data 256", ""),
            ("data 256, sums by microbatch", "--train.no-sum-once"),
            ("fsdp 16 x data 16", "--mesh.fsdp 16 --train.no-sum-once"),
            ("fsdp 256", "--mesh.fsdp 256"),
            ("model 2 x data 128", "--mesh.model 2"),
            ("model 4 x data 64, vocabulary 30,720", "--mesh.model 4 --model.vocab-size 30720"),
            ("context 2 x data 128", "--mesh.context 2"),
            ("fsdp 16 x model 2 x data 8", "--mesh.fsdp 16 --mesh.model 2 --train.no-sum-once"),
            ("context 2 x model 2 x data 64",
             "--mesh.context 2 --mesh.model 2 --train.no-sum-once"),
        )
    ],
    "choices": [
        Row(name, POD, f"{LARGE} {ROWS} {flags}")
        for name, flags in (
            ("1 microbatch", "--model.remat dots --train.microbatches 1"),
            ("2 microbatches", "--model.remat dots --train.microbatches 2"),
            ("4 microbatches", "--model.remat dots --train.microbatches 4"),
            ("8 microbatches", "--model.remat dots --train.microbatches 8"),
            ("16 microbatches", "--model.remat dots --train.microbatches 16"),
            ("8, remat none", "--model.remat none --train.microbatches 8"),
            ("8, remat full", "--model.remat full --train.microbatches 8"),
            ("8, chunked", "--model.remat dots --train.microbatches 8 --model.attention chunked"),
            ("8, splash", "--model.remat dots --train.microbatches 8 --model.attention splash"),
            ("8, dropout of weights .1",
             "--model.remat dots --train.microbatches 8 --model.attention-dropout-rate 0.1"),
        )
    ],
    "length": [
        Row(f"{length:,}, context {context}", POD,
            f"{LARGE} --model.remat full --model.attention splash --data.row-length {length} "
            f"--model.max-positions {length} --train.batch-size {256 * 8192 // length} "
            f"--train.microbatches 1 --mesh.context {context}")
        for length, context in (
            (2048, 1), (4096, 1), (16_384, 2), (65_536, 8)
        )
    ],
    "compilation": [
        Row(f"{layers} layers", POD,
            f"{LARGE} --model.remat dots {ROWS} --train.microbatches 8 --model.num-layers {layers}")
        for layers in (12, 24, 48)
    ],
    "memory": [
        Row(name, "v5p:2x2x4", f"{LARGE} --train.batch-size 256 --train.microbatches 1 {flags}")
        for name, flags in (
            ("unrolled", "--model.unroll"),
            ("scan", ""),
            ("scan, remat dots", "--model.remat dots"),
            ("scan, remat full", "--model.remat full"),
        )
    ],
}  # fmt: skip

HEAD = (
    "name", "topology", "chips", "mesh", "rows", "parts", "GB", "temporaries", "step, ms",
    "waiting, ms", "MFU", "by the compiler", "limit", "compiled, s",
)  # fmt: skip


def plan(row):
    """Runs one; its JSON, or the last line of what went wrong."""
    command = [sys.executable, "-m", "transformer_jax.cli.plan", "--json", "--config"]
    command += [*row.arguments.split(), "--topology", row.topology, "--slices", str(row.slices)]
    given = os.environ.get("LIBTPU_INIT_ARGS", FLAGS)
    done = subprocess.run(
        command, env=os.environ | {"LIBTPU_INIT_ARGS": given}, capture_output=True, text=True
    )
    if done.returncode:
        said = [line for line in done.stderr.splitlines() if line.startswith("plan: ")]
        return said[-1] if said else f"the compiler ended with {done.returncode}"
    return json.loads(done.stdout)


def cells(row, p):
    """What the table shows of a plan."""
    if isinstance(p, str):
        return [row.name, row.topology, p]
    where = row.topology + (f" x {row.slices}" if row.slices > 1 else "")
    mesh = ", ".join(f"{k} {v}" for k, v in p["mesh"].items() if v > 1)
    left = [row.name, where, f"{p['chips']:,}", mesh, f"{p['batch_size']:,}", p["microbatches"]]
    left += [f"{p['memory_gb']:.2f}", f"{p['temporaries_gb']:.2f}"]
    if not p["fits"]:
        return [*left, "does not fit", "", "", "", "", f"{p['compile_seconds']:.0f}"]
    step, other = p["step_seconds"], p["compiler_seconds"]
    mfu = f"{p['mfu']:.1%}"
    if row.published:
        mfu += f" ({p['mfu'] / row.published:.2f} of the published {row.published:.1%})"
    return [
        *left,
        f"{step * 1e3:,.1f}",
        f"{p['exposed_interconnect_seconds'] * 1e3:,.1f}",
        mfu,
        f"{p['mfu'] * step / other:.1%}" if other else "",
        p["limit"],
        f"{p['compile_seconds']:.0f}",
    ]


def main():
    """Runs the tables and prints each as Markdown."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("tables", nargs="*", metavar="TABLE", help=f"of {', '.join(TABLES)}")
    parser.add_argument("--jobs", type=int, default=1, help="compilations at a time (1)")
    args = parser.parse_args()
    if unknown := set(args.tables) - set(TABLES):
        parser.error(f"{', '.join(sorted(unknown))}: no such table; there are {', '.join(TABLES)}")
    for name in args.tables or TABLES:
        print(f"\n{name}\n\n| {' | '.join(HEAD)} |\n|{'---|' * len(HEAD)}", flush=True)
        with ThreadPoolExecutor(args.jobs) as pool:
            for row, found in zip(TABLES[name], pool.map(plan, TABLES[name]), strict=True):
                print(f"| {' | '.join(map(str, cells(row, found)))} |", flush=True)


if __name__ == "__main__":
    main()

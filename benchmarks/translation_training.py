"""Trains a peer and us on the same pairs, one after the other, and compares their BLEU on test.

The peer is a program that is called as `PYTHON PEER DATA OUT MINUTES`, trains for so many minutes
and prints a line with "tok/s X BLEU Y". We train configs/transformer_small.py, whose steps are
chosen to take no longer, and evaluate it. Both have beam 4 and sacreBLEU.

    python benchmarks/translation_training.py --data FOLDER --peer train_marian.py \
        --peer-python PEER_ENV/bin/python --minutes 25 --output runs/against [overrides of train.py]
"""

import argparse
import json
import re
import resource
import statistics
import subprocess
import sys
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]


def timed(command):
    """Runs a command; its stdout, and its wall and CPU seconds."""

    def cpu():
        usage = resource.getrusage(resource.RUSAGE_CHILDREN)
        return usage.ru_utime + usage.ru_stime

    wall, before = time.perf_counter(), cpu()
    done = subprocess.run([str(part) for part in command], stdout=subprocess.PIPE, text=True)
    if done.returncode:
        sys.exit(f"failed with {done.returncode}: {' '.join(map(str, command))}\n{done.stdout}")
    return done.stdout, time.perf_counter() - wall, cpu() - before


def run_peer(args):
    """The peer's figures; its wall time includes its own decoding of the test set."""
    command = [args.peer_python, args.peer, args.data, args.output / "peer", args.minutes]
    printed, wall, cpu = timed(command)
    found = re.search(r"tok/s (\d+) BLEU ([\d.]+)", printed)
    if found is None:
        sys.exit(f"the peer printed no tok/s and BLEU:\n{printed}")
    return {"tokens/s": float(found[1]), "BLEU": float(found[2]), "wall s": wall, "CPU s": cpu}


def run_ours(args, overrides):
    """Our figures; start, compilation, validation and evaluation are in the times."""
    workdir = args.output / "ours"
    config = ROOT / "configs" / "transformer_small.py"
    common = ["--config", config, "--workdir", workdir, "--data.path", args.data]
    _, wall, cpu = timed([sys.executable, ROOT / "train.py", *common, *overrides])
    printed, more_wall, more_cpu = timed([sys.executable, ROOT / "eval.py", "--workdir", workdir])
    lines = map(json.loads, (workdir / "metrics.jsonl").read_text().splitlines())
    return {
        "tokens/s": statistics.median(line["tokens_per_second"] for line in lines),
        "BLEU": json.loads(printed.splitlines()[-1])["bleu"],
        "wall s": wall + more_wall,
        "CPU s": cpu + more_cpu,
    }


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--peer", type=Path, required=True)
    parser.add_argument("--peer-python", type=Path, required=True)
    parser.add_argument("--minutes", type=float, default=25)
    parser.add_argument("--output", type=Path, required=True)
    args, overrides = parser.parse_known_args()
    args.output.mkdir(parents=True, exist_ok=True)
    peer, ours = run_peer(args), run_ours(args, overrides)
    print(f"{'':10} {'peer':>10} {'ours':>10} {'ours/peer':>10}")
    for name in peer:
        ratio = ours[name] / peer[name] if peer[name] else float("nan")
        print(f"{name:10} {peer[name]:10.2f} {ours[name]:10.2f} {ratio:10.2f}")


if __name__ == "__main__":
    main()

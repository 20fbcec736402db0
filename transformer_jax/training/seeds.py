"""The same run with several seeds, for results that fine-tuning on little data does not blur."""

from __future__ import annotations

import dataclasses
import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from transformer_jax.training.config import ExperimentConfig
from transformer_jax.training.loop import Programs, train


def train_seeds(
    config: ExperimentConfig, workdir: Path, count: int, allow: Sequence[str] = ()
) -> list[dict[str, float]]:
    """Trains runs that differ in nothing but their seed, with one compilation.

    Args:
      config: of the first run; the next ones have the next seeds.
      workdir: gets a folder for each run, see `seed_folders`.
      count: how many.
      allow: as of `train`.

    Returns:
      What the last validation of each found; nothing for a run that was finished before.

    Raises:
      UserError, Stopped: of `train`.
    """
    programs: Programs | None = None
    results = []
    for seed in range(config.train.seed, config.train.seed + count):
        elsewhere = config.train.checkpoint_dir
        settings = dataclasses.replace(
            config.train,
            seed=seed,
            checkpoint_dir=None if elsewhere is None else f"{elsewhere}/seed_{seed}",
        )
        one = dataclasses.replace(config, train=settings)
        programs, valid = train(one, workdir / f"seed_{seed}", programs=programs, allow=allow)
        results.append(valid)
    return results


def seed_folders(workdir: Path) -> list[Path]:
    """The runs that `train_seeds` left in a folder, by their seeds."""
    found = [path for path in workdir.glob("seed_*") if path.name[5:].isdigit()]
    return sorted(found, key=lambda path: int(path.name[5:]))


def spread(results: Sequence[Mapping[str, Any]]) -> dict[str, float]:
    """The median, the least and the most over runs of each number that all of them have."""
    found: dict[str, float] = {"seeds": len(results)}
    for name, first in results[0].items():
        if type(first) in (int, float) and all(name in result for result in results):
            values = [result[name] for result in results]
            found[name] = statistics.median(values)
            found |= {f"{name}_least": min(values), f"{name}_most": max(values)}
    return found


def spread_table(found: Mapping[str, float]) -> str:
    """What `spread` found, a line for each number."""
    lines = [f"over {found['seeds']} seeds: median (least to most)"]
    for name in found:
        if f"{name}_least" in found:
            least, most = found[f"{name}_least"], found[f"{name}_most"]
            lines.append(f"{name}: {found[name]:.4g} ({least:.4g} to {most:.4g})")
    return "\n".join(lines)

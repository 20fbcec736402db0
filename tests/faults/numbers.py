"""Batches that give NaN."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from pathlib import Path
from random import Random

import numpy as np

from tests.faults.cases import REFUSED, SURVIVED, Case, Failed, Silent, check
from tests.faults.commands import call
from tests.faults.lab import STEPS, Lab, read_metrics
from transformer_jax.cli import train as train_cli

# A task of the user's own, in the config file: some batches bring a NaN into the loss.
CONFIG = """
import dataclasses
import numpy as np
import jax.numpy as jnp
from transformer_jax.tasks.translation import Translation, TranslationConfig
from {base} import get_config as tiny

@dataclasses.dataclass(frozen=True)
class PoisonedConfig(TranslationConfig):
    first: int = 0
    last: int = 0

    def build(self, *, model, data, batch_size, seed, workdir, mesh):
        return Poisoned(self, model, data, batch_size, seed, workdir, mesh)

class Poisoned(Translation):
    def train_batches(self, start, index, count):
        number = start.epoch * 5 + start.batch
        for batch, position in super().train_batches(start, index, count):
            number += 1
            bad = self.config.first <= number <= self.config.last
            poison = np.full(len(batch["source"]), np.nan if bad else 0, np.float32)
            yield batch | {{"poison": poison}}, position

    def loss_terms(self, params, batch, key):
        terms = super().loss_terms(params, batch, key)
        if key is not None:
            total, weight = terms["cross_entropy"]
            terms["cross_entropy"] = total + jnp.sum(batch["poison"]), weight
        return terms

def get_config():
    config = tiny()
    task = PoisonedConfig(beam_size=1, first={first}, last={last})
    return dataclasses.replace(config, task=task)
"""
_ALLOWED = 3  # batches in a row that may be skipped


def numbers(lab: Lab, random: Random, short: bool) -> Sequence[Case]:
    """One bad batch, a few, and too many in a row."""
    first = random.randint(2, STEPS - _ALLOWED - 2)
    cases = [
        Case("one bad batch", functools.partial(_skipped, first, 1)),
        Case(f"{_ALLOWED} bad batches", functools.partial(_skipped, first, _ALLOWED)),
        Case("bad batches without end", functools.partial(_aborted, first)),
    ]
    return cases[2:] if short else cases


def _skipped(first: int, count: int, lab: Lab, random: Random, folder: Path) -> str:
    flags, workdir = _flags(lab, folder, first, first + count - 1), folder / "run"
    call(train_cli.main, flags).check(0)
    lines = read_metrics(workdir)
    bad = [line["step"] for line in lines if line["loss"] is None]
    check(bad == list(range(first, first + count)), f"the steps {bad} have no loss")
    found = lines[-1].get("skipped")
    check(found == count, f"{count} batches were skipped, and {found} are counted")
    for name, array in lab.read(workdir, STEPS).arrays.items():
        if not np.all(np.isfinite(array.astype(np.float64))):
            raise Silent(f"{name} is not finite")
    return SURVIVED


def _aborted(first: int, lab: Lab, random: Random, folder: Path) -> str:
    flags, workdir = _flags(lab, folder, first, 10**9), folder / "run"
    done = call(train_cli.main, [*flags, "--train.max_skipped", str(_ALLOWED)])
    if done.code == 0:
        raise Silent("went to its end")
    done.check(1, "bad_batch_")
    saved = list(workdir.glob("bad_batch_*.npz"))
    if len(saved) != 1:
        raise Failed(f"{len(saved)} batches are saved")
    number = int(saved[0].stem.rpartition("_")[2])
    check(first <= number <= first + _ALLOWED, f"step {number} is saved, the first was {first}")
    with np.load(saved[0], allow_pickle=False) as batch:
        check(bool(np.isnan(batch["poison"]).all()), "the batch that is saved is another one")
    return REFUSED


def _flags(lab: Lab, folder: Path, first: int, last: int) -> list[str]:
    path = lab.folder / f"poisoned_{folder.name}.py"
    path.write_text(CONFIG.format(base=lab.config.stem, first=first, last=last))
    return lab.train_flags(folder / "run", "--config", str(path))

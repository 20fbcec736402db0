"""The tiny run that every fault meets, what it ends in undisturbed, and copies of it."""

from __future__ import annotations

import functools
import itertools
import json
import os
import re
import shutil
import socket
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from random import Random
from typing import Any

import jax

from tests.faults.cases import Failed, Silent, check
from tests.faults.commands import ROOT, Command, environment
from tests.faults.state import Reader, State
from transformer_jax.training.checkpoint import Checkpoints

STEPS = 24  # of the run; an epoch has 5
EVERY = 6  # steps between checkpoints
# The rates of a schedule of 250 steps; the run stops after 24, and keeps each checkpoint.
FLAGS = f"--train.stop_at {STEPS} --train.checkpoint_every {EVERY} --train.log_every 1".split()
WORDS = dict(
    red="rouge", green="vert", blue="bleu", cat="chat", dog="chien", house="maison", sees="voit"
)
CONFIG = """
from transformer_jax.models.transformer import TransformerConfig
from transformer_jax.tasks.translation import TranslationConfig
from transformer_jax.tasks.translation_data import TranslationData
from transformer_jax.training.config import ExperimentConfig, TrainConfig
from transformer_jax.training.optimizer import OptimizerConfig
from transformer_jax.training.schedules import WarmupLinear

def get_config():
    return ExperimentConfig(
        TranslationConfig(beam_size=1),
        TransformerConfig(32, 32, 2, 64, 1, 1, dropout_rate=0.1),
        TranslationData(FOLDER, row_length=48),
        OptimizerConfig(WarmupLinear(1e-2, 20), clip_norm=1.0),
        TrainConfig(steps=250, batch_size=16, keep=4),
    )
"""
_CLOCKS = ("tokens_per_second", "step_seconds", "seconds_left")  # no two runs agree in these


class Lab:
    """The folder of one `make faults`: data, config, cache, the undisturbed run."""

    def __init__(self, folder: Path, seed: int) -> None:
        self.folder, self.seed = folder, seed
        self.env = environment(folder / "cache")
        jax.config.update("jax_platforms", "cpu")  # the same for commands that are called here
        jax.config.update("jax_disable_most_optimizations", True)
        jax.config.update("jax_compilation_cache_dir", str(folder / "cache"))
        jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.1)
        self.pairs = write_pairs(folder / "pairs")
        self.config = folder / "config.py"
        self.config.write_text(CONFIG.replace("FOLDER", repr(str(self.pairs))))
        self._lock = threading.RLock()
        self.counts: dict[str, list[bool]] = {}

    def random(self, *names: object) -> Random:
        """Draws that depend on the seed and these names alone."""
        return Random(" ".join(map(str, (self.seed, *names))))

    def train_flags(self, workdir: Path, *more: str) -> list[str]:
        """The arguments of train.py for the tiny run; what is said later counts."""
        return ["--config", str(self.config), "--workdir", str(workdir), *FLAGS, *more]

    def train(self, workdir: Path, *more: str, devices: int = 1) -> Command:
        """Starts train.py."""
        arguments = [str(ROOT / "train.py"), *self.train_flags(workdir, *more)]
        return Command(arguments, self.env, workdir.parent, devices=devices)

    def train_two(self, workdir: Path, *more: str, second: Sequence[str] = ()) -> list[Command]:
        """Starts train.py as two processes; the second gets more flags."""
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        where = f"--distributed.coordinator 127.0.0.1:{port} --distributed.processes 2".split()
        ranks = [["--distributed.rank", "0"], ["--distributed.rank", "1", *second]]
        return [self.train(workdir, *more, *where, *rank) for rank in ranks]

    def count(self, what: str, happened: bool) -> None:
        """Counts something to be told beside the table, as "2 of 3 ..."."""
        with self._lock:
            self.counts.setdefault(what, []).append(happened)

    def evaluate(self, workdir: Path, *more: str) -> Command:
        """Starts eval.py."""
        arguments = [str(ROOT / "eval.py"), "--workdir", str(workdir), *more]
        return Command(arguments, self.env, workdir.parent)

    @property
    def reference(self) -> Path:
        """The folder of the run that nothing befell."""
        with self._lock:
            return self._reference[0]

    @functools.cached_property
    def _reference(self) -> tuple[Path, float]:
        warm = self.folder / "warm"  # fills the cache, so that the next one's time is typical
        self.train(warm, "--train.stop_at", str(EVERY)).succeed()
        workdir = self.folder / "reference"
        command = self.train(workdir)
        command.until(workdir.is_dir, "its folder")
        began = time.monotonic()
        command.succeed()
        seconds = time.monotonic() - began
        found = [line["step"] for line in read_metrics(workdir)]
        check(found == list(range(1, STEPS + 1)), f"the undisturbed run logged the steps {found}")
        return workdir, seconds

    @property
    def seconds(self) -> float:
        """What the undisturbed run took, from the first file on."""
        with self._lock:
            return self._reference[1]

    @property
    def final(self) -> State:
        """All that the undisturbed run's last checkpoint holds."""
        with self._lock:
            return self._final

    @functools.cached_property
    def _final(self) -> State:
        return self.read(self.reference, STEPS)

    def read(self, workdir: Path, step: int) -> State:
        """All that a step of a run of this model holds; raises what the library raises."""
        with self._lock:
            return self._reader.read(workdir, step)

    @functools.cached_property
    def _reader(self) -> Reader:
        return Reader(self.reference)

    def copy(self, folder: Path, *, until: int = STEPS) -> Path:
        """A copy of the undisturbed run, as it was after the checkpoint of step `until`."""
        workdir = folder / "run"
        shutil.copytree(self.reference, workdir)
        for step in checkpoint_steps(workdir):
            if step > until:
                shutil.rmtree(workdir / "checkpoints" / str(step))
        log = workdir / "metrics.jsonl"
        lines = log.read_text().splitlines(keepends=True)
        log.write_text("".join(lines[:until]))
        return workdir

    def check_equal(self, workdir: Path, *, since: int = 1) -> None:
        """Raises where a run that went to its end differs from the undisturbed one in one bit.

        Args:
          workdir: the run.
          since: the first step whose losses are compared; the fault befell the log before it.
        """
        found = self.read(workdir, STEPS)
        if different := self.final.differences(found):
            raise Silent(f"step {STEPS} differs from an undisturbed run: {different}")
        lines = STEPS + 1 - since
        losses, wanted = losses_of(workdir, lines), losses_of(self.reference, lines)
        if losses.keys() != wanted.keys():
            raise Failed(f"metrics.jsonl has the steps {sorted(losses)}")
        for step, line in wanted.items():
            # Which steps are validated depends on where the run was stopped.
            validated = "valid_loss" in line and "valid_loss" in losses[step]
            pair = [_without_validation(x) if not validated else x for x in (losses[step], line)]
            if pair[0] != pair[1]:
                raise Silent(f"step {step} logged {pair[0]}, undisturbed {pair[1]}")
        check("valid_loss" in losses[STEPS], "the last step was not validated")
        self.check_tidy(workdir)

    def check_tidy(self, workdir: Path) -> None:
        """Raises where a run's folder holds a file that the undisturbed run's has not."""
        more = sorted(kinds_of_files(workdir) - kinds_of_files(self.reference))
        check(not more, f"left over: {more[:3]}")

    def check_close(self, workdir: Path, relative: float = 1e-6) -> None:
        """Raises where the losses of a run on other devices differ from the undisturbed one's."""
        losses, wanted = losses_of(workdir), losses_of(self.reference)
        check(losses.keys() == wanted.keys(), f"metrics.jsonl has the steps {sorted(losses)}")
        for step, line in wanted.items():
            for name in ("loss", "valid_loss"):
                here, there = losses[step].get(name), line.get(name)
                if name == "valid_loss" and None in (here, there):
                    continue  # which steps are validated depends on where the run was stopped
                if here is None or there is None or not abs(here - there) <= relative * abs(there):
                    raise Silent(f"step {step} has {name} {here}, undisturbed {there}")


def write_pairs(folder: Path, words: dict[str, str] = WORDS) -> Path:
    """Writes train.tsv, valid.tsv and test.tsv: word-by-word translations."""
    folder.mkdir()
    chosen = [given for n in (2, 3) for given in itertools.permutations(words, n)]
    pairs = [f"{' '.join(given)}\t{' '.join(words[word] for word in given)}\n" for given in chosen]
    splits = {"valid": pairs[::10], "test": pairs[1::10]}
    splits["train"] = [pair for i, pair in enumerate(pairs) if i % 10 > 1]
    for split, lines in splits.items():
        (folder / f"{split}.tsv").write_text("".join(lines))
    return folder


def checkpoint_steps(workdir: Path) -> list[int]:
    """The steps that the names in checkpoints/ promise, finished or not."""
    folder = workdir / "checkpoints"
    names = os.listdir(folder) if folder.is_dir() else []
    return sorted(int(name) for name in names if name.isdigit())


def finished_steps(workdir: Path) -> list[int]:
    """The steps that the library counts as finished."""
    checkpoints = Checkpoints(workdir, read_only=True)
    try:
        return list(checkpoints.steps())
    finally:
        checkpoints.close()


def read_metrics(workdir: Path, lines: int | None = None) -> list[dict[str, Any]]:
    """The whole lines of metrics.jsonl, or the last few; none if there is no file."""
    try:
        found = (workdir / "metrics.jsonl").read_bytes().splitlines(keepends=True)
    except FileNotFoundError:
        return []
    whole = [line for line in found if line.endswith(b"\n")]
    return [json.loads(line) for line in whole[-(lines or len(whole)) :]]


def last_step(workdir: Path) -> int:
    """The newest step in metrics.jsonl; 0 before the first."""
    lines = read_metrics(workdir)
    return lines[-1]["step"] if lines else 0


def losses_of(workdir: Path, lines: int | None = None) -> dict[int, dict[str, Any]]:
    """What metrics.jsonl says of each step, without the clocks."""
    found: dict[int, dict[str, Any]] = {}
    for line in read_metrics(workdir, lines):
        check(line["step"] not in found, f"metrics.jsonl has step {line['step']} twice")
        found[line["step"]] = {name: line[name] for name in line if name not in _CLOCKS}
    return found


def _without_validation(line: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in line.items() if not name.startswith("valid_")}


def kinds_of_files(workdir: Path) -> set[str]:
    """The files of a run, with N for the number of a step; without TensorBoard's, one a start."""
    found = set()
    for path in workdir.rglob("*"):
        name = path.relative_to(workdir).as_posix()
        if not name.startswith("tensorboard"):
            found.add(re.sub(r"^checkpoints/\d+(?=/|$)", "checkpoints/N", name))
    return found

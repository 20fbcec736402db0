"""Where the numbers of a run go: metrics.jsonl, TensorBoard, and the terminal."""

from __future__ import annotations

import contextlib
import json
import math
import os
import sys
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn

from transformer_jax.errors import UserError
from transformer_jax.parsing import parse_json
from transformer_jax.training.tensorboard import ScalarBoard


class MetricsLog:
    """Appends one JSON object a log step to metrics.jsonl, and the same to TensorBoard.

    A resumed run first drops the lines of steps after its checkpoint: it will write them again.

    Raises:
      UserError: something cannot be written; so do all methods.
    """

    def __init__(self, workdir: Path, *, resumed_at: int, quiet: bool = False) -> None:
        self._quiet = quiet
        if quiet:
            return
        self._path = path = workdir / "metrics.jsonl"
        kept = [line for line, found in _read_lines(path) if found["step"] <= resumed_at]
        partial = path.with_suffix(".tmp")
        with self._naming_errors():
            partial.write_text("".join(kept), encoding="utf-8")
            os.replace(partial, path)
            self._file = path.open("a", encoding="utf-8")
            self._board = ScalarBoard(workdir / "tensorboard", resumed_at + 1)

    def write(self, step: int, metrics: Mapping[str, float]) -> None:
        """Writes the metrics of one step."""
        if self._quiet:
            return
        with self._naming_errors():
            self._file.write(to_line({"step": step, **metrics}) + "\n")
            self._file.flush()
            for name, value in metrics.items():
                self._board.write(name, value, step)

    def close(self) -> None:
        """Ends both files."""
        if self._quiet:
            return
        with self._naming_errors():
            self._file.close()
            self._board.close()

    @contextlib.contextmanager
    def _naming_errors(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise UserError(
                f"The metrics cannot be written beside {self._path}: {error.strerror}. See to the "
                f"disk and its free space; then the same command goes on from the last checkpoint."
            ) from error


def to_line(metrics: Mapping[str, Any]) -> str:
    """Metrics as one line of JSON; it has no NaN, so null says that a number was none."""

    def finite(value: Any) -> Any:
        return None if isinstance(value, float) and not math.isfinite(value) else value

    return json.dumps({name: finite(value) for name, value in metrics.items()}, allow_nan=False)


def read_metrics(workdir: Path) -> list[dict[str, Any]]:
    """The objects of metrics.jsonl, in order.

    Raises:
      UserError: a line is damaged.
    """
    return [found for _, found in _read_lines(workdir / "metrics.jsonl")]


def _read_lines(path: Path) -> list[tuple[str, dict[str, Any]]]:
    """The lines of a file, and what they say of a step; not a last one that has no end yet.

    Raises:
      UserError: a line is damaged.
    """
    if not path.exists():
        return []
    found = []
    for number, line in enumerate(path.read_bytes().split(b"\n")[:-1], 1):
        try:
            metrics = parse_json(line)
            if not isinstance(metrics, dict) or type(metrics.get("step")) is not int:
                raise ValueError("it has no step")
        except ValueError as error:
            raise UserError(
                f"{path}:{number} is damaged: {error}. Remove the line; a resumed run goes on."
            ) from error
        found.append((line.decode() + "\n", metrics))
    return found


class Clock:
    """Measures tokens a second between log steps, and guesses the time that is left."""

    def __init__(self, step: int, last_step: int) -> None:
        self._first = self._step = step
        self._last_step = last_step
        self._began = self._lap = time.perf_counter()
        self._tokens = 0

    def count(self, tokens: int) -> None:
        """Adds the tokens of one batch."""
        self._tokens += tokens

    @contextlib.contextmanager
    def paused(self) -> Iterator[None]:
        """What is done inside is not training, and its time does not count."""
        before = time.perf_counter()
        yield
        lost = time.perf_counter() - before
        self._began += lost
        self._lap += lost

    def lap(self, step: int) -> dict[str, float]:
        """Tokens a second and seconds a step since the last lap, and seconds of steps left."""
        now = time.perf_counter()
        seconds, steps = max(now - self._lap, 1e-9), step - self._step
        found = {
            "tokens_per_second": self._tokens / seconds,
            "step_seconds": seconds / max(steps, 1),
            "seconds_left": (now - self._began) / (step - self._first) * (self._last_step - step),
        }
        self._lap, self._step, self._tokens = now, step, 0
        return found


class Display:
    """Shows how training goes: a bar on a terminal, a line a log step where there is none."""

    def __init__(self, step: int, last_step: int, *, quiet: bool = False) -> None:
        self._last_step, self._quiet = last_step, quiet
        self._bar: Progress | None = None
        if sys.stdout.isatty() and not quiet:
            columns = (BarColumn(), TextColumn("{task.description}"))
            self._bar = Progress(*columns, console=Console())
            self._task = self._bar.add_task(
                f"step {step}/{last_step}, compiling", total=last_step, completed=step
            )
            self._bar.start()

    def update(self, step: int, metrics: Mapping[str, float]) -> None:
        """Shows the metrics of a log step."""
        line = (
            f"step {step}/{self._last_step}  loss {metrics['loss']:.3f}  "
            f"lr {metrics['learning_rate']:.2e}  {metrics['tokens_per_second']:,.0f} tokens/s  "
            f"ETA {duration(metrics['seconds_left'])}"
        )
        if self._bar is None:
            self.say(line)
        else:
            self._bar.update(self._task, description=line, completed=step)

    def say(self, line: str) -> None:
        """Prints a line, above the bar if there is one."""
        if self._quiet:
            return
        if self._bar is None:
            print(line, flush=True)
        else:
            self._bar.console.print(line, highlight=False, markup=False, soft_wrap=True)

    def close(self) -> None:
        """Leaves the terminal as it was."""
        if self._bar is not None:
            self._bar.stop()


def duration(seconds: float) -> str:
    """1:02:03 or 2:03."""
    minutes, rest = divmod(round(max(seconds, 0)), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"

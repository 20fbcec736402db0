"""Traces of a few steps, for TensorBoard's profile page or Perfetto."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path

import jax


class Tracer:
    """Traces the steps of a range into a folder; an empty range traces nothing."""

    def __init__(self, folder: Path, steps: range) -> None:
        self._folder, self._steps = folder, steps
        self._running = False

    @contextlib.contextmanager
    def step(self, number: int) -> Iterator[None]:
        """Surrounds one step; what it starts on the devices may end in a later one."""
        if number in self._steps and not self._running:
            jax.profiler.start_trace(str(self._folder))
            self._running = True
        elif self._running and number not in self._steps:
            self.close()
        with jax.profiler.StepTraceAnnotation("train", step_num=number):
            yield

    def close(self) -> None:
        """Writes the trace, if one is running."""
        if self._running:
            jax.profiler.stop_trace()
            self._running = False

"""Watches from the host which updates the train step skips; too many in a row end the run."""

from __future__ import annotations

import io
import math
import zipfile
from collections.abc import Callable
from pathlib import Path

import jax
import numpy as np

from transformer_jax.errors import UserError
from transformer_jax.files import write_whole
from transformer_jax.typing import Batch, Metrics

_COUNTS = ("updates", "skipped", "skipped_in_a_row")


class SkipWatch:
    """Says which updates were skipped and why; see `guard`.

    It looks at a step when the next one is already running, so that no device waits for the host.
    """

    def __init__(
        self, workdir: Path, most: int | None, skipped: int, say: Callable[[str], None]
    ) -> None:
        """A watch from some step on.

        Args:
          workdir: gets the last batch of a run that ends here, bad_batch_STEP.npz; of several
            processes each writes its own rows, bad_batch_STEP_RANK.npz.
          most: so many skipped updates in a row end the run; None: they never do.
          skipped: how many were before.
          say: prints a line.
        """
        self._workdir, self._most, self._skipped, self._say = workdir, most, skipped, say
        self._last: tuple[int, Batch, Metrics] | None = None

    def look(self, step: int, batch: Batch, metrics: Metrics) -> None:
        """Takes a step that has just been started, and judges the one before it.

        Args:
          step: its number.
          batch: what this process fed it, as numpy arrays.
          metrics: what it returned, which need not be there yet.

        Raises:
          UserError: too many in a row were skipped.
        """
        self.settle()
        self._last = (step, batch, metrics)

    def settle(self) -> None:
        """Judges the last step too, which it waits for; comes before each save.

        Raises:
          UserError: too many in a row were skipped.
        """
        if self._last is None:
            return
        (step, batch, metrics), self._last = self._last, None
        skipped = int(metrics["skipped"])
        if skipped == self._skipped:
            return
        self._skipped = skipped
        why, in_a_row = _reason(metrics), int(metrics["skipped_in_a_row"])
        self._say(f"step {step}: update skipped, {why}; {skipped:,} skipped so far")
        if self._most is not None and in_a_row >= self._most:
            raise UserError(
                f"Step {step}: {in_a_row} updates in a row were skipped, the last because {why}. "
                f"{self._save(step, batch)} If its data is as it should be, lower the learning "
                f"rate or set --optimizer.clip_norm; against spikes that are none, raise "
                f"--train.spike_sigmas. Skipped updates changed no parameter, so that the "
                f"checkpoints are good. --train.max_skipped None never ends a run for this."
            )

    def _save(self, step: int, batch: Batch) -> str:
        """Writes the batch, and says where it is."""
        rank = f"_{jax.process_index()}" if jax.process_count() > 1 else ""
        path = self._workdir / f"bad_batch_{step}{rank}.npz"
        data = io.BytesIO()
        with zipfile.ZipFile(data, "w") as file:  # as np.savez, which takes no array named "file"
            for name, array in batch.items():
                with file.open(f"{name}.npy", "w", force_zip64=True) as part:
                    np.lib.format.write_array(part, np.asarray(array), allow_pickle=False)
        try:
            write_whole(path, data.getvalue())
        except UserError as error:  # what is wrong with the run matters more
            return f"Its batch could not be kept: {error}"
        return f"Its batch is in {path}, for numpy.load."


def _reason(metrics: Metrics) -> str:
    """Why the update of these metrics was skipped."""
    first = ("loss", "grad_norm")
    names = [*first, *(name for name in metrics if name not in (*first, *_COUNTS))]
    numbers = {name: float(metrics[name]) for name in names}
    wrong = {name: value for name, value in numbers.items() if not math.isfinite(value)}
    if any(name in wrong for name in first):
        return "not finite: " + ", ".join(f"{name} {value}" for name, value in wrong.items())
    return "a spike: " + ", ".join(f"{name} {numbers[name]:.4g}" for name in first)

"""What runs the jobs of `transformer_jax.data.prepare`: processes of this machine, Apache Beam."""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import signal
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool

from transformer_jax.data.prepare import Job, run_job
from transformer_jax.errors import UserError


def run_processes(jobs: Sequence[Job], workers: int, said: Callable[[str], None]) -> None:
    """Runs the jobs in so many processes of this machine; `said` hears of each that is done.

    Raises:
      UserError: of a job; or a process was killed.
    """
    spawn = multiprocessing.get_context("spawn")  # a fork and the threads of JAX do not agree
    with ProcessPoolExecutor(workers, spawn, initializer=_begin) as pool:
        with _uninterrupted():  # a worker that is half begun would complain
            running = {pool.submit(run_job, job): job for job in jobs}
        try:
            for number, done in enumerate(as_completed(running), 1):
                done.result()
                said(f"{running[done].path.name}: {number} of {len(jobs)} shards are done")
        except BrokenProcessPool as error:
            raise UserError(
                "A worker was killed, perhaps for want of memory. The same command goes on where "
                "it stopped; fewer --workers, or a smaller --shard-bytes in another folder, need "
                "less."
            ) from error
        finally:
            pool.shutdown(cancel_futures=True)


def run_beam(jobs: Sequence[Job], arguments: Sequence[str]) -> None:
    """Runs the jobs as a pipeline of Apache Beam with the arguments of its PipelineOptions.

    Corpus and folder must have the same paths on all machines.

    Raises:
      UserError: Beam is not installed or refuses the arguments; or a job failed.
    """
    try:
        import apache_beam
        from apache_beam.options.pipeline_options import PipelineOptions
    except ImportError as error:
        raise UserError(
            f"--engine beam needs Apache Beam ({error}): pip install 'transformer-jax[beam]'."
        ) from error
    try:
        with apache_beam.Pipeline(options=PipelineOptions(list(arguments))) as pipeline:
            made = pipeline | apache_beam.Create(list(jobs))
            made |= apache_beam.Reshuffle()  # or one worker may get all that were made together
            made |= apache_beam.Map(run_job)
    except Exception as error:  # whatever a runner makes of the error of a job
        lines = str(error).strip().splitlines() or [type(error).__name__]
        raise UserError(f"Beam stopped: {lines[-1]}") from error


@contextlib.contextmanager
def _uninterrupted() -> Iterator[None]:
    """Lets Ctrl-C wait until the end; for processes that begin in it, until `_begin`."""
    if threading.current_thread() is not threading.main_thread():  # which no Ctrl-C interrupts
        yield
        return
    came: list[int] = []
    # Any thread may get the signal, so that to block it in this one is for the workers alone.
    before = signal.signal(signal.SIGINT, lambda number, frame: came.append(number))
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT})
        signal.signal(signal.SIGINT, before)
    if came:
        raise KeyboardInterrupt


def _begin() -> None:
    """In a worker: ends it by Ctrl-C without a word, and when its parent is killed."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT})
    parent = multiprocessing.parent_process()

    def wait() -> None:
        if parent is not None:
            parent.join()
            os._exit(1)

    threading.Thread(target=wait, daemon=True).start()

"""What all processes of a run have to know alike, told from one to the others."""

from __future__ import annotations

from collections.abc import Callable

import jax
import numpy as np
from jax.experimental import multihost_utils

from transformer_jax.parallel.hosts import KEYS, client

_BYTES = 4096  # of a text that goes by the devices, at most


def of_first(number: int) -> int:
    """The number that process 0 has; all call it, in the thread that runs the steps."""
    if jax.process_count() == 1:
        return number
    return int(multihost_utils.broadcast_one_to_all(np.int32(number)))


def any_text(text: str) -> str:
    """The text of the first process whose text is not empty; called as `of_first` is."""
    if jax.process_count() == 1:
        return text
    mine = np.zeros(_BYTES, np.uint8)
    data = text.encode()[:_BYTES]
    mine[: len(data)] = np.frombuffer(data, np.uint8)
    texts = np.asarray(multihost_utils.process_allgather(mine))
    found = (bytes(row).rstrip(b"\0").decode(errors="replace") for row in texts)
    return next(filter(None, found), "")


def first_here(key: str, work: Callable[[], None], seconds: int) -> None:
    """Process 0 does the work, the others wait for it; all call it, in any thread.

    Args:
      key: of no other call.
      work: what fails in it is raised in all processes.
      seconds: how long the others wait.

    Raises:
      RuntimeError: in the others, if it failed, or process 0 is late or has ended.
    """
    if jax.process_index():
        if message := told(key, seconds):
            raise RuntimeError(message)
        return
    try:
        work()
    except Exception as error:
        tell(key, str(error) or repr(error))
        raise
    tell(key, "")


def tell(key: str, text: str) -> None:
    """Leaves a text for other processes, by the coordinator: the devices are busy with steps."""
    if jax.process_count() > 1:
        client().key_value_set(f"{KEYS}/{key}", text or " ")  # which knows no empty texts


def told(key: str, seconds: int) -> str:
    """The text that another process left.

    Raises:
      RuntimeError: there is none after so many seconds, or a process has ended.
    """
    return client().blocking_key_value_get(f"{KEYS}/{key}", seconds * 1000).strip()


def forget(key: str) -> None:
    """Removes the texts whose keys begin with this one and a slash."""
    if jax.process_count() > 1:
        client().key_value_delete(f"{KEYS}/{key}")

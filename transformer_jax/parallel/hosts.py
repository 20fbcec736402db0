"""How the processes of a run meet, and whether they agree; who is late is named.

It goes by the key-value store of JAX's coordinator, which process 0 holds, so that no device is
used. With one process, or before `distributed.initialize`, nothing is awaited.
"""

from __future__ import annotations

import itertools
import json
import queue
import re
import threading
from collections.abc import Callable, Sequence
from typing import Any

from transformer_jax.errors import UserError

PATIENCE = 1800  # seconds that processes wait for one another
GOES_ON = "Nothing that was saved is lost: the same command goes on from the last checkpoint."
KEYS = "transformer_jax"  # all keys of ours begin so
_LATE = re.compile(r"timed out task names:\s*\n((?:\S*\d+[ \t]*\n)+)")
_meetings = itertools.count()  # all processes count alike, as they meet in the same order
_patience: float = PATIENCE


def be_patient(seconds: float) -> None:
    """How long processes wait for one another from now on."""
    global _patience
    _patience = seconds


def meet(what: str, timeout: float | None = None) -> None:
    """Waits until all processes are here.

    Args:
      what: what they meet for, for the message.
      timeout: seconds; None: as long as was said to `be_patient`.

    Raises:
      UserError: some have not come in time; it says which.
    """
    if not several():
        return
    timeout = _patience if timeout is None else timeout
    try:
        name = f"{KEYS}/{what} {next(_meetings)}"
        _heeding(lambda: client().wait_at_barrier(name, round(timeout * 1000)))
    except RuntimeError as error:
        raise UserError(_missed(what, timeout, str(error))) from error


def check_alike(
    what: str,
    mine: Any,
    differ: Callable[[Any, Any], Sequence[str]],
    timeout: float | None = None,
) -> None:
    """Ends a run whose processes differ in what must be the same.

    Args:
      what: what is compared, for the message.
      mine: it, of this process, as JSON has it.
      differ: names the fields in which process 0's and this one's differ.
      timeout: seconds that they wait for one another, as of `meet`.

    Raises:
      UserError: in all processes, with the fields of each that differs from process 0; or some
        have not come in time.
    """
    if not several():
        return
    timeout = _patience if timeout is None else timeout
    folder = f"{KEYS}/alike/{next(_meetings)}"
    if rank() == 0:
        client().key_value_set(f"{folder}/first", json.dumps(mine))
    try:
        wait = round(timeout * 1000)
        first = _heeding(lambda: client().blocking_key_value_get(f"{folder}/first", wait))
    except RuntimeError as error:
        raise UserError(_missed(what, timeout, str(error), late=[0])) from error
    if changed := differ(json.loads(first), json.loads(json.dumps(mine))):
        client().key_value_set(f"{folder}/differs/{rank():06}", "\n    ".join(changed))
    meet(what, timeout)
    if found := client().key_value_dir_get(f"{folder}/differs/"):
        lines = [f"process {rank_of(key)}:\n    {text}" for key, text in sorted(found)]
        raise UserError(
            f"The processes of this run differ in {what}; process 0 -> the other:\n  "
            + "\n  ".join(lines)
            + "\nStart all of them with the same command on the same data."
        )


def late_ones(error: str) -> list[int]:
    """The processes that an error of JAX's barrier names as those that have not come."""
    found = _LATE.search(f"{error}\n")
    return sorted(int(re.findall(r"\d+", line)[-1]) for line in found[1].split()) if found else []


def several() -> bool:
    """Whether this process is one of several."""
    return _state().client is not None and _state().num_processes > 1


def rank() -> int:
    """The number of this process, from 0; without any use of a device."""
    return int(_state().process_id)


def client() -> Any:
    """What talks to JAX's coordinator."""
    return _state().client


def rank_of(key: str) -> int:
    """The process whose number a key ends with."""
    return int(key.rpartition("/")[2])


def names(ranks: Sequence[int]) -> str:
    """Process 1 is, or processes 1, 2 are."""
    if len(ranks) == 1:
        return f"process {ranks[0]} is"
    return f"processes {', '.join(map(str, ranks))} are"


def _missed(what: str, timeout: float, error: str, late: Sequence[int] | None = None) -> str:
    """Says who did not come."""
    late = late_ones(error) if late is None else late
    if "DEADLINE_EXCEEDED" not in error or not late:
        return f"Process {rank()} waited for {what} in vain: {error.partition(chr(10))[0]}"
    return (
        f"Process {rank()} waited {timeout:g} seconds for {what}; {names(late)} not there. The "
        f"logs of those that are missing say why. {GOES_ON}"
    )


def _heeding(call: Callable[[], Any]) -> Any:
    """What a call gives or raises that waits outside of Python; meanwhile signals are heeded."""
    done: queue.SimpleQueue[tuple[Any, RuntimeError | None]] = queue.SimpleQueue()

    def wait() -> None:
        try:
            done.put((call(), None))
        except RuntimeError as error:
            done.put((None, error))

    threading.Thread(target=wait, name="wait-for-hosts", daemon=True).start()
    found, error = done.get()
    if error is not None:
        raise error
    return found


def _state() -> Any:
    # Only private parts of JAX give the coordinator's client, as Orbax and others use it.
    from jax._src.distributed import global_state

    return global_state

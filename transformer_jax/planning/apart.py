"""Plans in a process of their own, for a compiler may crash on a program, and takes all with it."""

from __future__ import annotations

import dataclasses
import multiprocessing
import os
import re
import signal
import sys
import tempfile
import warnings
from multiprocessing.connection import Connection

from transformer_jax.errors import UserError
from transformer_jax.planning.chips import Topology
from transformer_jax.planning.plan import Plan, make_plan
from transformer_jax.training.config import ExperimentConfig


def make_plan_apart(config: ExperimentConfig, topology: Topology) -> Plan:
    """As `make_plan`, without the text of the program.

    Raises:
      UserError: as there; or the compiler crashed.
    """
    # A fork, so that a config may have classes of its own file, which cannot be pickled. JAX has
    # computed nothing yet, so that none of its threads is in the middle of something.
    context = multiprocessing.get_context("fork")
    receive, send = context.Pipe(duplex=False)
    with tempfile.TemporaryFile() as said:
        child = context.Process(target=_plan, args=(config, topology, send, said.fileno()))
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", RuntimeWarning)  # of JAX, about forks
            child.start()
        send.close()
        try:
            found: Plan | UserError = receive.recv()
        except EOFError:
            child.join()
            said.seek(0)
            raise _failure(child.exitcode or 0, said.read().decode(errors="replace")) from None
        child.join()
    if isinstance(found, UserError):
        raise found
    return found


def _failure(code: int, said: str) -> Exception:
    """Of a process that ended without a plan."""
    if code >= 0:
        return RuntimeError(f"the plan failed:\n{said}")
    fatal = [line for line in said.splitlines() if re.match(r"F\d{4} ", line)]  # glog's fatal
    reason = f"{signal.Signals(-code).name}{': ' if fatal else ''}{''.join(fatal[:1])[:300]}"
    return UserError(
        f"The compiler for TPUs crashed on this config, by a fault of its own ({reason}). Try "
        f"another number of microbatches, another mesh or kernel."
    )


def _plan(config: ExperimentConfig, topology: Topology, send: Connection, stderr: int) -> None:
    os.dup2(stderr, 2)  # libtpu's account of a crash is long
    sys.stderr = open(2, "w", closefd=False)
    try:
        plan = make_plan(config, topology)
    except UserError as error:
        send.send(error)
        return
    # The text of a program is long, and has been read.
    send.send(dataclasses.replace(plan, compiled=plan.compiled._replace(text=None)))

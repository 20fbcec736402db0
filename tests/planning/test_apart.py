"""A plan in a process of its own: what it finds, and how it fails."""

import os
import signal
import sys

import pytest

from transformer_jax.errors import UserError
from transformer_jax.planning import apart
from transformer_jax.planning.chips import parse_topology

TOPOLOGY = parse_topology("v5e:2x2")


def plan_by(monkeypatch, make):
    monkeypatch.setattr(apart, "make_plan", make)
    return apart.make_plan_apart(None, TOPOLOGY)


def test_a_compiler_that_crashes_is_an_error_with_its_reason(monkeypatch):
    def crash(*_):
        print("F0123 compiler.cc:1] Check failed: odd", file=sys.stderr, flush=True)
        os.kill(os.getpid(), signal.SIGKILL)

    with pytest.raises(UserError, match=r"crashed .* \(SIGKILL: F0123 .* Check failed: odd\)"):
        plan_by(monkeypatch, crash)


def test_errors_of_the_users_and_of_the_program_are_told_apart(monkeypatch):
    def refuse(*_):
        raise UserError("the mesh does not divide")

    def fail(*_):
        raise KeyError("surprise")

    with pytest.raises(UserError, match="the mesh does not divide"):
        plan_by(monkeypatch, refuse)
    with pytest.raises(RuntimeError, match="(?s)Traceback.*KeyError: 'surprise'"):
        plan_by(monkeypatch, fail)

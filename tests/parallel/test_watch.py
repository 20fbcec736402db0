"""Processes look after one another: who ends tells the others, who is behind is named."""

import json
import os
import threading

import pytest

from tests.parallel.test_hosts import Store
from transformer_jax.parallel import watch
from transformer_jax.parallel.watch import UNFINISHED, behind, cut_off


class Ended(Exception):
    """In place of the process."""


@pytest.fixture
def one(monkeypatch):
    """A watch of process 1 that looks when it is told to, its store, and what was said."""
    store, said = Store(2), []

    def end(code):
        raise Ended(code)

    monkeypatch.setattr(watch, "client", lambda: store)
    monkeypatch.setattr(watch, "rank", lambda: 1)
    monkeypatch.setattr(watch, "_say", said.append)
    monkeypatch.setattr(os, "_exit", end)
    monkeypatch.setattr(threading.Thread, "start", lambda _: None)
    monkeypatch.setattr(threading.Thread, "join", lambda *_: None)
    made = watch._Watch(0.0, patience=0.0)
    monkeypatch.setattr(watch, "_watch", made)
    return made, store, said


def test_a_process_ends_as_the_other_does_and_says_why(one):
    made, store, said = one
    made._look()
    store.key_value_set("transformer_jax/ended/000000", json.dumps([143, "it was told to"]))
    with pytest.raises(Ended) as ended:
        made._look()
    assert ended.value.args == (143,)
    assert said == ["process 1 ends, as process 0 has ended: it was told to"]


def test_who_leaves_tells_the_others(one):
    _, store, said = one
    with pytest.raises(Ended):
        watch.leave(3, "a reason")
    assert json.loads(store.values["transformer_jax/ended/000001"]) == [3, "a reason"]


def test_without_progress_for_too_long_all_end_and_it_is_said_who_is_behind(one):
    made, store, said = one
    made._look()  # nothing has begun, and so nothing is late
    store.key_value_set("transformer_jax/at/0", json.dumps([7, "step 7"]))
    watch.moved("step 6")
    with pytest.raises(Ended) as ended:
        made._look()
    assert ended.value.args == (UNFINISHED,)
    assert "process 1 is behind, at step 6; others are at step 7" in said[0]
    assert json.loads(store.values["transformer_jax/ended/000001"])[0] == UNFINISHED
    assert json.loads(store.values["transformer_jax/at/1"]) == [1, "step 6"]


def test_who_rests_is_not_late(one):
    made, store, said = one
    watch.moved("step 6")
    watch.rest()
    made._look()
    assert said == []


def test_those_behind_are_named():
    places = {0: (9, "step 9"), 1: (8, "step 8"), 2: (9, "step 9"), 3: (8, "step 8")}
    text = behind(places, 60)
    assert "for 60 seconds: processes 1, 3 are behind, at step 8; others are at step 9." in text
    assert "all processes are at step 9, so a device or the network" in behind(
        {0: (9, "step 9")}, 60
    )


@pytest.mark.parametrize(
    ("error", "is_cut_off"),
    [
        ("UNKNOWN: Gloo all-reduce failed: [...] Connection closed by peer [127.0.0.1]:1", True),
        ("INTERNAL: NCCL operation ncclGroupEnd() failed: unhandled system error", True),
        ("RESOURCE_EXHAUSTED: Out of memory allocating 17 bytes", False),
        ("shapes (2, 3) and (4,) do not fit", False),
    ],
)
def test_an_error_that_only_says_that_another_is_gone_is_known(one, error, is_cut_off):
    found = cut_off(ValueError(error))
    assert (found is not None) == is_cut_off
    assert found is None or "process 1 has lost another process" in found


def test_one_process_looks_after_nobody():
    watch.moved("step 1")
    watch.rest()
    watch.leave(1, "nothing")
    assert cut_off(ValueError("Gloo")) is None

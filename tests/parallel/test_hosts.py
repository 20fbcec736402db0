"""Processes meet in bounded time and name who is late; those that differ are refused."""

import os
import socket
import subprocess
import sys
import textwrap
import threading
from pathlib import Path

import pytest

from transformer_jax.errors import UserError
from transformer_jax.parallel import hosts
from transformer_jax.parallel.hosts import check_alike, late_ones, meet

ROOT = Path(__file__).parents[2]
# As JAX 0.10 says it; process 0 came, 1 and 12 did not.
LATE = """DEADLINE_EXCEEDED: Barrier timed out. Id: b0::0. This usually happens because a task \
triggered the barrier too early or too slowly.
# of tasks that reached the barrier: 1/3.
The first task at the barrier: 0. Some timed out task names:
1
12


RPC: /xla.coordination.CoordinationService/Barrier [type.googleapis.com/tensorflow.Error='']"""


class Store:
    """The key-value store of a coordinator, and its barriers, for threads."""

    def __init__(self, processes, error=None):
        self.values, self.error = {}, error
        self.changed = threading.Condition()
        self.barrier = threading.Barrier(processes)

    def key_value_set(self, key, value, allow_overwrite=False):
        with self.changed:
            self.values[key] = value
            self.changed.notify_all()

    def key_value_dir_get(self, key):
        return [(k, v) for k, v in self.values.items() if k.startswith(key)]

    def blocking_key_value_get(self, key, timeout_in_ms):
        with self.changed:
            if not self.changed.wait_for(lambda: key in self.values, timeout_in_ms / 1000):
                raise RuntimeError("DEADLINE_EXCEEDED: GetKeyValue() timed out")
            return self.values[key]

    def wait_at_barrier(self, name, timeout_in_ms):
        if self.error:
            raise RuntimeError(self.error)
        self.barrier.wait(timeout_in_ms / 1000)


class CountOfEach(threading.local):
    """Counts the meetings of each thread, as those of a process are."""

    count = 0

    def __next__(self):
        self.count += 1
        return self.count


@pytest.fixture
def one_of(monkeypatch):
    """Makes a test one of several processes."""

    def become(store, rank=lambda: 0):
        monkeypatch.setattr(hosts, "several", lambda: True)
        monkeypatch.setattr(hosts, "rank", rank)
        monkeypatch.setattr(hosts, "client", lambda: store)
        monkeypatch.setattr(hosts, "_meetings", CountOfEach())

    return become


def test_the_late_ones_are_read_from_what_jax_says():
    assert late_ones(LATE) == [1, 12]
    assert late_ones(LATE.replace("1\n12", "/job:jax_worker/replica:0/task:1")) == [1]
    assert late_ones("INTERNAL: Barrier failed because a task is in error") == []


@pytest.mark.parametrize(
    ("error", "message"),
    [
        (LATE, "waited 3 seconds for breakfast; processes 1, 12 are not there"),
        ("INTERNAL: a task\nis in error", "waited for breakfast in vain: INTERNAL: a task$"),
    ],
)
def test_who_does_not_come_is_named(one_of, error, message):
    one_of(Store(1, error))
    with pytest.raises(UserError, match=message):
        meet("breakfast", 3)


def test_one_process_meets_nobody():
    meet("breakfast")
    check_alike("it", object(), lambda *_: 1 / 0)


def together(one_of, values, timeout=20):
    """What check_alike raises in each process, of these values."""
    store, mine, raised = Store(len(values)), threading.local(), [None] * len(values)
    one_of(store, lambda: mine.rank)

    def compare(rank):
        mine.rank = rank
        try:
            check_alike("their config", values[rank], differ, timeout)
        except UserError as error:
            raised[rank] = str(error)

    def differ(first, other):
        return [f"{key}: {first[key]} -> {other[key]}" for key in first if first[key] != other[key]]

    threads = [threading.Thread(target=compare, args=(rank,)) for rank in range(len(values))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return raised


def test_processes_that_are_alike_go_on(one_of):
    assert together(one_of, [{"a": (1, 2)}, {"a": [1, 2]}]) == [None, None]


def test_all_learn_which_process_differs_and_in_what(one_of):
    found = together(one_of, [{"a": 1, "b": 2}, {"a": 1, "b": 2}, {"a": 3, "b": 4}])
    assert found[0] == found[1] == found[2]
    assert "differ in their config" in found[0]
    assert "\n  process 2:\n    a: 1 -> 3\n    b: 2 -> 4\n" in found[0]


def test_a_first_process_that_does_not_come_is_named(one_of):
    one_of(Store(2), lambda: 1)
    with pytest.raises(UserError, match="Process 1 waited 0.1 seconds for it; process 0 is not"):
        check_alike("it", 1, lambda *_: [], 0.1)


def test_jax_itself_says_who_is_late(tmp_path):
    """Two processes of which the second one does not meet the first."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    program = textwrap.dedent(f"""
        import sys
        from transformer_jax.errors import UserError
        from transformer_jax.parallel import hosts, watch
        from transformer_jax.parallel.distributed import DistributedConfig, initialize
        rank = int(sys.argv[1])
        initialize(DistributedConfig("127.0.0.1:{port}", 2, rank))
        hosts.meet("a first time")
        if rank == 0:
            try:
                hosts.meet("breakfast", 1)
            except UserError as error:
                print(error, flush=True)
                watch.leave(1, str(error))
        else:
            sys.stdin.read()
    """)
    command = [sys.executable, "-c", program]
    env = os.environ | {"JAX_PLATFORMS": "cpu"}
    pipes = dict(stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    two = [subprocess.Popen([*command, str(rank)], cwd=ROOT, env=env, **pipes) for rank in range(2)]
    try:
        said, _ = two[0].communicate(timeout=120)
        assert "waited 1 seconds for breakfast; process 1 is not there" in said
        assert two[1].wait(120) == 1  # though it waits for its input
        assert "process 1 ends, as process 0 has ended: Process 0 waited" in two[1].stderr.read()
    finally:
        for process in two:
            process.kill()
            process.communicate()

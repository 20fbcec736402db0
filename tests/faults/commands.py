"""The commands of a user: as processes of their own, or quicker, called here."""

from __future__ import annotations

import contextlib
import io
import os
import re
import signal
import subprocess
import sys
import threading
import time
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path

from tests.faults.cases import REFUSED, Failed, Silent, check

ROOT = Path(__file__).resolve().parents[2]
PATIENCE = 400  # seconds; a tiny run takes some 10 on two quiet cores, and CI may be busy
_running: set[Command] = set()
_closed = threading.Event()
_numbers = iter(range(1 << 30))
_lock = threading.Lock()


def environment(cache: Path) -> dict[str, str]:
    """The environment of all commands: a CPU, quick and shared compilation, no cluster."""
    clusters = ("JAX_", "XLA_", "SLURM_", "OMPI_", "TPU_", "CLOUD_TPU")
    kept = {name: os.environ[name] for name in os.environ if not name.startswith(clusters)}
    return kept | {
        "JAX_PLATFORMS": "cpu",
        "JAX_DISABLE_MOST_OPTIMIZATIONS": "1",
        "JAX_COMPILATION_CACHE_DIR": str(cache),
        "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0.1",
    }


class Done:
    """A command that has ended: its exit code, what it said, whether with a stack trace."""

    def __init__(self, code: int, said: str, crashed: bool) -> None:
        self.code, self.said, self.crashed = code, said, crashed

    def check(self, code: int, *words: str) -> None:
        """Raises unless it ended so, and said these words (each may be several, as "a|b")."""
        check(self.code == code, f"exit code {self.code}, not {code}; it said {self.last_words}")
        self.check_words(*words)

    def check_words(self, *words: str) -> None:
        """Raises unless it said these words, in any case of letters, and showed no stack trace."""
        check(not self.crashed, f"a stack trace: {self.last_words}")
        for word in words:
            found = re.search(word, self.said, re.IGNORECASE)
            check(found is not None, f"no word of {word!r}; it said {self.last_words}")

    def refused(self, *words: str) -> str:
        """REFUSED, if it ended with code 1 and said these words."""
        if self.code == 0:
            raise Silent(f"accepted, without a word of {', '.join(words)}")
        self.check(1, *words)
        return REFUSED

    @property
    def last_words(self) -> str:
        """The end of what it said."""
        return last_words(self.said)


class Command:
    """A process of a user's command; its output goes into a file beside its run."""

    def __init__(
        self,
        arguments: Sequence[str],
        env: Mapping[str, str],
        folder: Path,
        *,
        devices: int = 1,
    ) -> None:
        """Starts Python with these arguments."""
        if _closed.is_set():
            raise Failed("broken off")
        self._log = folder / f"said_{next(_numbers)}.txt"
        count = {"XLA_FLAGS": f"--xla_force_host_platform_device_count={devices}"}
        with self._log.open("wb") as log:
            self._process = subprocess.Popen(
                [sys.executable, *arguments],
                cwd=ROOT,
                env={**env, **count},
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,  # so that what it starts ends with it
            )
        with _lock:
            _running.add(self)

    @property
    def said(self) -> str:
        """What it has said so far."""
        return self._log.read_text(errors="replace")

    def wait(self, seconds: float = PATIENCE) -> Done:
        """Its end. One that does not come in time is brought about, and is a failure."""
        try:
            code = self._process.wait(seconds)
        except subprocess.TimeoutExpired:
            self.kill()
            raise Failed(
                f"still running after {seconds:.0f} s; it said {last_words(self.said)}"
            ) from None
        with _lock:
            _running.discard(self)
        said = self.said
        return Done(code, said, "Traceback (most recent" in said)

    def succeed(self) -> Done:
        """Its end, which has to be a good one."""
        done = self.wait()
        done.check(0)
        return done

    @property
    def ended(self) -> bool:
        """Whether it has ended."""
        return self._process.poll() is not None

    def until(self, condition: Callable[[], object], what: str) -> None:
        """Waits until the condition holds; raises if the command ends before, or takes too long."""
        end = time.monotonic() + PATIENCE
        while not condition():
            if self.ended and not condition():
                done = self.wait()
                raise Failed(f"ended ({done.code}) before {what}; it said {done.last_words}")
            if time.monotonic() > end:
                self.kill()
                raise Failed(f"{what} did not come in {PATIENCE} s")
            time.sleep(0.001)

    def signal(self, *numbers: signal.Signals) -> None:
        """Sends it signals."""
        for number in numbers:
            if not self.ended:
                os.kill(self._process.pid, number)

    def kill(self) -> None:
        """Ends it at once, and all that it has started."""
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()
        with _lock:
            _running.discard(self)


def last_words(said: str) -> str:
    """The last lines of a text as one."""
    return " | ".join(said.strip().splitlines()[-6:])[-900:] or "nothing"


def end_all() -> None:
    """Ends what is still running; no more is started."""
    _closed.set()
    for command in list(_running):
        command.kill()


def call(main: Callable[[Sequence[str]], int], flags: Sequence[str]) -> Done:
    """The same as a command, in this process: quicker, as nothing is imported again."""
    said, crashed = io.StringIO(), False
    with contextlib.redirect_stdout(said), contextlib.redirect_stderr(said), _no_stdin():
        try:
            code = main(list(flags))
        except SystemExit as error:
            code = error.code if isinstance(error.code, int) else 1
        except Exception:  # what a user would see as a stack trace
            traceback.print_exc()
            code, crashed = 1, True
    # A stack trace in the text alone may be of garbage that an earlier command left.
    return Done(code, said.getvalue(), crashed)


@contextlib.contextmanager
def _no_stdin() -> Iterator[None]:
    before = sys.stdin
    with open(os.devnull) as sys.stdin:
        yield
    sys.stdin = before

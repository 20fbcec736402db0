"""A disk that is full, or fails, while a checkpoint is saved in the background."""

from __future__ import annotations

import contextlib
import functools
import shutil
import subprocess
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from random import Random

from tests.faults.cases import SURVIVED, Case, NotTried, Silent, check
from tests.faults.commands import ROOT, Command, Done
from tests.faults.lab import EVERY, Lab, finished_steps, last_step

_SAVE = 60  # the step whose save fails; it must be known before the next, and before the end
_LONG = f"--train.stop_at 200 --train.checkpoint_every {_SAVE}".split()
_PAGE = 4096
# Files of so many bytes at most: less than the largest arrays, more than the run's own files.
_LIMITED = """
import resource, runpy, sys
resource.setrlimit(resource.RLIMIT_FSIZE, (8000, 8000))
sys.argv.pop(0)
runpy.run_path(sys.argv[0], run_name="__main__")
"""


def disks(lab: Lab, random: Random, short: bool) -> Sequence[Case]:
    """Writes that fail, a full disk under the checkpoints, a full disk under the whole run."""
    cases = [
        Case("files larger than a limit", _limit),
        Case("a full disk under checkpoints/", functools.partial(_full, "checkpoints")),
        Case("a full disk under the run", functools.partial(_full, "")),
    ]
    return cases[:1] if short else cases


def _limit(lab: Lab, random: Random, folder: Path) -> str:
    workdir = lab.copy(folder, until=EVERY)
    limited = ["-c", _LIMITED, str(ROOT / "train.py"), *lab.train_flags(workdir, *_LONG)]
    done = Command(limited, lab.env, folder).wait()
    return _goes_on(lab, workdir, done, "too large|cannot be (saved|written)")


def _full(part: str, lab: Lab, random: Random, folder: Path) -> str:
    workdir = lab.copy(folder, until=EVERY)
    with _small_disk(workdir / part if part else workdir) as grow:
        done = lab.train(workdir, *_LONG).wait()
        grow()
        return _goes_on(lab, workdir, done, "space|full")


def _goes_on(lab: Lab, workdir: Path, done: Done, word: str) -> str:
    step = last_step(workdir)
    if done.code == 0:
        raise Silent("the run went to its end, and its checkpoints were not saved")
    done.check(1, word)
    check(step < 2 * _SAVE, f"the failed save of step {_SAVE} was raised behind step {step} only")
    found = finished_steps(workdir)
    check(found == [EVERY], f"the good checkpoint is {EVERY}; the run counts {found}")
    lab.train(workdir).succeed()
    lab.check_equal(workdir)
    return SURVIVED


@contextlib.contextmanager
def _small_disk(folder: Path) -> Iterator[Callable[[], object]]:
    """Puts a folder on a disk with room for half a checkpoint more; the function gives it room."""
    moved = folder.rename(folder.parent / "moved")
    folder.mkdir()
    [checkpoint] = [path for path in moved.rglob(str(EVERY)) if path.is_dir()]
    mount = ["mount", "-t", "tmpfs", "none", str(folder), "-o"]
    room = _size(moved) + _size(checkpoint) // 2
    try:
        subprocess.run([*mount, f"size={room}"], check=True, capture_output=True)
    except (OSError, subprocess.CalledProcessError):
        raise NotTried("only root may mount a small disk") from None
    try:
        shutil.copytree(moved, folder, dirs_exist_ok=True)
        shutil.rmtree(moved)
        yield lambda: subprocess.run([*mount, "remount,size=64m"], check=True)
    finally:
        subprocess.run(["umount", "--lazy", str(folder)], check=False)


def _size(folder: Path) -> int:
    """Bytes that the files of a folder take in whole pages."""
    sizes = [path.stat().st_size for path in folder.rglob("*") if path.is_file()]
    return sum(-(-size // _PAGE) * _PAGE for size in sizes)

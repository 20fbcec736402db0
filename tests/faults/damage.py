"""Damage on disk: bits that flip, files that are cut short or gone."""

from __future__ import annotations

import functools
import re
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from random import Random

from tests.faults.cases import REFUSED, SURVIVED, Case, Failed, Silent, check
from tests.faults.commands import call
from tests.faults.lab import EVERY, STEPS, Lab, checkpoint_steps
from transformer_jax.cli import evaluate as evaluate_cli
from transformer_jax.cli import train as train_cli
from transformer_jax.errors import UserError

_FLIPS = 132
_BEFORE = STEPS - EVERY  # the checkpoint before the last one

Damage = Callable[[Path], None]


def flips(lab: Lab, random: Random, short: bool) -> Sequence[Case]:
    """Single bits of a finished checkpoint: half in its bytes at large, half in a file of many."""
    files = _files_of_checkpoint(lab)
    sizes = [size for _, size in files]
    cases = []
    for i in range(24 if short else _FLIPS):
        names = [name for name, _ in files]
        [name] = random.choices(names, sizes) if i % 2 else random.choices(names)
        at = random.randrange(8 * dict(files)[name])
        damage = functools.partial(_flip, at=at)
        cases.append(Case(f"bit {at} of {name}", functools.partial(_restore, name, damage)))
    return cases


def files(lab: Lab, random: Random, short: bool) -> Sequence[Case]:
    """Each file of a checkpoint, cut short and deleted."""
    cases = []
    for name, size in _files_of_checkpoint(lab):
        length = random.randrange(size)
        cut = functools.partial(_cut, length=length)
        cases += [
            Case(f"cut {name} to {length} bytes", functools.partial(_restore, name, cut)),
            Case(f"delete {name}", functools.partial(_restore, name, Path.unlink)),
        ]
    return random.sample(cases, 12) if short else cases


def runs(lab: Lab, random: Random, short: bool) -> Sequence[Case]:
    """Files of a run, and of its newest checkpoint, met by train.py and eval.py."""
    folder = lab.reference
    own = sorted(path.name for path in folder.iterdir() if path.is_file())
    own += [path.relative_to(folder).as_posix() for path in sorted(folder.glob("tensorboard/*"))]
    largest = sorted(_files_of_checkpoint(lab), key=lambda file: file[1])
    newest = [f"checkpoints/{STEPS}/{name}" for name in (largest[-1][0], random.choice(largest)[0])]
    cases = []
    for name in [*own, *newest]:
        size = (folder / name).stat().st_size
        at, length = random.randrange(8 * max(size, 1)), random.randrange(max(size, 1))
        damages: dict[str, Damage] = {f"delete {name}": Path.unlink}
        if size:
            damages[f"cut {name} to {length} bytes"] = functools.partial(_cut, length=length)
            damages[f"flip bit {at} of {name}"] = functools.partial(_flip, at=at)
        for what, damage in damages.items():
            cases.append(Case(f"{what}, train.py", functools.partial(_train, name, damage)))
            cases.append(Case(f"{what}, eval.py", functools.partial(_evaluate, name, damage)))
    return random.sample(cases, 2) if short else cases


def all_checkpoints(lab: Lab, random: Random, short: bool) -> Sequence[Case]:
    """No checkpoint is left whole: a run is refused, and never begun anew over the old one."""

    def every(lab: Lab, random: Random, folder: Path) -> str:
        workdir = lab.copy(folder)
        for step in checkpoint_steps(workdir):
            [name] = random.sample([name for name, size in _files_of_checkpoint(lab) if size], 1)
            path = workdir / "checkpoints" / str(step) / name
            _flip(path, random.randrange(8 * path.stat().st_size))
        before = _bytes_of(workdir / "checkpoints")
        outcome = call(train_cli.main, lab.train_flags(workdir)).refused("damaged|cannot be")
        check(_bytes_of(workdir / "checkpoints") == before, "refused, and the files changed")
        return outcome

    return [Case("a bit in each checkpoint", every)]


def processes(lab: Lab, random: Random, short: bool) -> Sequence[Case]:
    """The same by commands: eval.py refuses, train.py falls back to the step before."""

    def trains(lab: Lab, random: Random, folder: Path) -> str:
        workdir, name = _flipped(lab, random, folder)
        done = lab.train(workdir).succeed()
        done.check_words(f"damaged|does not agree|{name}", f"step {_BEFORE}")
        lab.check_equal(workdir)
        return SURVIVED

    def evaluates(lab: Lab, random: Random, folder: Path) -> str:
        workdir, name = _flipped(lab, random, folder)
        return lab.evaluate(workdir).wait().refused(_names(name))

    kinds = [("train.py goes on one step before", trains), ("eval.py refuses", evaluates)]
    return [Case(what, run) for what, run in kinds for _ in range(1 if short else 3)]


def _flipped(lab: Lab, random: Random, folder: Path) -> tuple[Path, str]:
    workdir = lab.copy(folder)
    files = [file for file in _files_of_checkpoint(lab) if file[0].startswith("params/")]
    [(name, size)] = random.choices(files, [size for _, size in files])
    _flip(workdir / "checkpoints" / str(STEPS) / name, random.randrange(8 * size))
    return workdir, name


def _restore(name: str, damage: Damage, lab: Lab, random: Random, folder: Path) -> str:
    """Damages one file of the last checkpoint, and restores that."""
    workdir = lab.folder / "damaged"  # one copy for hundreds of cases; each puts its file back
    if not workdir.exists():
        shutil.copytree(lab.reference, workdir)
    path = workdir / "checkpoints" / str(STEPS) / name
    before = path.read_bytes()
    try:
        damage(path)
        found = lab.read(workdir, STEPS)
    except UserError as error:
        check(_is_named(name, str(error)), f"refused without a word of this file: {error}")
        return REFUSED
    finally:
        path.write_bytes(before)
    if different := lab.final.differences(found):
        raise Silent(f"restored with another {different}")
    return SURVIVED


def _train(name: str, damage: Damage, lab: Lab, random: Random, folder: Path) -> str:
    """Damages one file of a run that has some steps to go, and lets it go on."""
    in_checkpoint = name.startswith("checkpoints/")
    workdir = lab.copy(folder, until=STEPS if in_checkpoint else _BEFORE)
    damage(workdir / name)
    done = call(train_cli.main, lab.train_flags(workdir))
    if done.code:
        return done.refused(_names(name))
    done.check_words()
    if in_checkpoint and not _is_named(name, done.said):
        raise Failed(f"went on without a word of it: {done.last_words}")
    lab.check_equal(workdir, since=_BEFORE + 1 if name == "metrics.jsonl" else 1)
    return SURVIVED


def _evaluate(name: str, damage: Damage, lab: Lab, random: Random, folder: Path) -> str:
    """Damages one file of a finished run, and evaluates it."""
    workdir = lab.copy(folder)
    damage(workdir / name)
    done = call(evaluate_cli.main, ["--workdir", str(workdir)])
    if done.code:
        return done.refused(_names(name))
    done.check(0)
    if done.said.splitlines()[-1] != _evaluated(lab):
        raise Silent(f"evaluated as {done.last_words}, undisturbed {_evaluated(lab)}")
    return SURVIVED


def _names(name: str) -> str:
    """The regular expression of a word about a file: its name, its folder's, a parameter's."""
    path = Path(name)
    words = {path.name} if len(path.name) > 3 else set()  # a chunk's is "0.0"
    if len(path.parts) > 1 and path.parent.name not in ("checkpoints", str(STEPS), "tensorboard"):
        words |= {path.parent.name, path.parent.name.replace(".", "/")}
    if path.name == "tokenizer.model":
        words |= {"data.tokenizer"}  # its field, where the file is another whole tokenizer
    if path.name == "manifest.json":
        words |= {f"{STEPS}.*(not|un)finished"}
    return "|".join(sorted(map(re.escape, words))) or re.escape(name)


def _is_named(name: str, said: str) -> bool:
    return re.search(_names(name), said) is not None


def _flip(path: Path, at: int) -> None:
    data = bytearray(path.read_bytes())
    data[at // 8] ^= 1 << at % 8
    path.write_bytes(data)


def _cut(path: Path, length: int) -> None:
    with path.open("r+b") as file:
        file.truncate(length)


def _files_of_checkpoint(lab: Lab) -> list[tuple[str, int]]:
    """Name and size of each file of the last checkpoint."""
    folder = lab.reference / "checkpoints" / str(STEPS)
    found = [path for path in sorted(folder.rglob("*")) if path.is_file()]
    return [(path.relative_to(folder).as_posix(), path.stat().st_size) for path in found]


def _bytes_of(folder: Path) -> dict[str, bytes]:
    return {str(path): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@functools.lru_cache(1)
def _evaluated(lab: Lab) -> str:
    """What eval.py says of the undisturbed run: its last line."""
    done = call(evaluate_cli.main, ["--workdir", str(lab.copy(lab.folder / "evaluated"))])
    done.check(0)
    return done.said.splitlines()[-1]

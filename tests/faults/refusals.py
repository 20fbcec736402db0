"""A run that goes on with something else than it began with."""

from __future__ import annotations

import functools
import re
import shutil
from collections.abc import Sequence
from pathlib import Path
from random import Random

from tests.faults.cases import Case, check
from tests.faults.commands import call
from tests.faults.lab import EVERY, STEPS, WORDS, Lab, write_pairs
from transformer_jax.cli import train as train_cli
from transformer_jax.data.tokenizers import SentencePieceTokenizer

# Each changes what is learned; most change no shape, so that nothing else would notice.
_FIELDS = {
    "model.num_heads": "4",
    "model.activation": "gelu",
    "model.encoder_layers": "2",
    "model.dropout_rate": "0",
    "model.dtype": "bfloat16",
    "model.vocab_size": "33",
    "optimizer.schedule.peak": "0.02",
    "optimizer.b1": "0.8",
    "optimizer.kind": "lamb",
    "optimizer.clip_norm": "0.5",
    "data.row_length": "40",
    "task.label_smoothing": "0",
    "train.batch_size": "8",
    "train.seed": "1",
    "train.steps": "300",
    "train.microbatches": "2",
}


def refusals(lab: Lab, random: Random, short: bool) -> Sequence[Case]:
    """Each field, with config.json and where that is gone; other pairs, another tokenizer."""
    cases = [
        Case(f"another {field}{where}", functools.partial(_field, field, value, gone))
        for field, value in _FIELDS.items()
        for gone, where in ((False, ""), (True, ", config.json gone"))
    ]
    cases += [
        Case(f"{what}{where}", functools.partial(run, gone))
        for what, run in (("other pairs", _pairs), ("another tokenizer", _tokenizer))
        for gone, where in ((False, ""), (True, ", config.json gone"))
    ]
    return random.sample(cases, 3) if short else cases


def _field(field: str, value: str, gone: bool, lab: Lab, random: Random, folder: Path) -> str:
    return _refused(lab, folder, gone, [f"--{field}", value], re.escape(field))


def _pairs(gone: bool, lab: Lab, random: Random, folder: Path) -> str:
    """The same words in another order: sizes and tokenizer stay as they are."""
    changed = write_pairs(folder / "pairs", dict(reversed(WORDS.items())))
    return _refused(lab, folder, gone, ["--data.path", str(changed)], "pairs|data")


def _tokenizer(gone: bool, lab: Lab, random: Random, folder: Path) -> str:
    texts = ["the quick brown fox jumps over a lazy dog, " + word for word in WORDS]
    own = folder / "tokenizer.model"
    SentencePieceTokenizer.train(texts, own, vocab_size=32)
    return _refused(lab, folder, gone, [], "tokenizer", own)


def _refused(
    lab: Lab, folder: Path, gone: bool, flags: list[str], word: str, tokenizer: Path | None = None
) -> str:
    """REFUSED, if train.py says the word and leaves everything as it is."""
    workdir = lab.copy(folder, until=STEPS - EVERY)
    if tokenizer is not None:
        shutil.copy(tokenizer, workdir / "tokenizer.model")
    if gone:
        (workdir / "config.json").unlink()
    before = _bytes_of(workdir)
    outcome = call(train_cli.main, lab.train_flags(workdir, *flags)).refused(word)
    after = _bytes_of(workdir)
    changed = [name for name in before if before[name] != after.get(name)]
    check(not changed, f"refused, and changed {changed[:3]}")
    return outcome


def _bytes_of(folder: Path) -> dict[str, bytes]:
    """All files but the events of TensorBoard, which a start may have opened."""
    files = [
        path for path in folder.rglob("*") if path.is_file() and "tensorboard" not in path.parts
    ]
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in files}

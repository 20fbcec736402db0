"""Files that want to run code: each would write a file, and none does."""

from __future__ import annotations

import functools
import json
import pickle
import struct
import zipfile
from collections.abc import Callable, Sequence
from pathlib import Path
from random import Random

import numpy as np

from tests.faults.cases import REFUSED, Case, Silent, check
from tests.faults.commands import call
from tests.faults.lab import STEPS, Lab
from transformer_jax.cli import evaluate, export
from transformer_jax.data.prepared_rows import PreparedRows
from transformer_jax.errors import UserError
from transformer_jax.visualize.maps import AttentionMaps

_TORCH = 0x1950A86A20F9469CFC6C  # begins a file of torch before 1.6
_BERT = {
    "model_type": "bert",
    "vocab_size": 8,
    "hidden_size": 4,
    "num_hidden_layers": 1,
    "num_attention_heads": 1,
    "intermediate_size": 8,
    "max_position_embeddings": 8,
    "type_vocab_size": 2,
    "architectures": ["BertModel"],
}


class Payload:
    """Unpickled, it writes a file."""

    def __init__(self, mark: Path) -> None:
        self.code = f"open({str(mark)!r}, 'w').write('run')"

    def __reduce__(self):
        return exec, (self.code,)


def hostile(lab: Lab, random: Random, short: bool) -> Sequence[Case]:
    """.bin, .pt, .npy, .npz, tokenizer, config.json and checkpoint, with a payload each."""
    torch = {"a raw pickle": _raw, "a zip of torch": _zip, "torch's old format": _old}
    cases = [
        Case(f"{suffix}: {what}", functools.partial(_torch_file, suffix, write))
        for suffix in (".bin", ".pt")
        for what, write in torch.items()
    ]
    cases += [
        Case(".npy", _npy),
        Case(".npz", _npz),
        Case("tokenizer.model", functools.partial(_run_file, "tokenizer.model", _raw)),
        Case("config.json: a pickle", functools.partial(_run_file, "config.json", _raw)),
        Case("config.json: a class", functools.partial(_run_file, "config.json", _class)),
        Case("config.json: a module", functools.partial(_run_file, "config.json", _module)),
        Case("config.json: code of a model", _remote_code),
        Case("tokenizer.json", _tokenizer_json),
        Case("a checkpoint's file", _checkpoint),
    ]
    return cases


def _judge(mark: Path, command: Callable[[], str]) -> str:
    """What the command gives, if the payload was not run."""
    outcome = command()
    if mark.exists():
        raise Silent("the payload was run")
    return outcome


def _torch_file(suffix: str, write, lab: Lab, random: Random, folder: Path) -> str:
    mark = folder / "mark"
    model = folder / "model"
    model.mkdir()
    name = "pytorch_model.bin" if suffix == ".bin" else "model.pt"
    write(model / name, mark)
    if suffix == ".bin":
        (model / "config.json").write_text(json.dumps(_BERT))
    where = model if suffix == ".bin" else model / name
    return _judge(mark, lambda: _export(folder, where).refused(name))


def _export(folder: Path, model: Path):
    return call(export.main, ["--model", str(model), "--output", str(folder / "out")])


def _raw(path: Path, mark: Path) -> None:
    path.write_bytes(pickle.dumps({"weight": Payload(mark)}, protocol=2))


def _zip(path: Path, mark: Path) -> None:
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("model/data.pkl", pickle.dumps({"weight": Payload(mark)}, protocol=2))
        archive.writestr("model/byteorder", "little")
        archive.writestr("model/version", "3\n")


def _old(path: Path, mark: Path) -> None:
    parts = [_TORCH, 1001, {"little_endian": True}, {"weight": Payload(mark)}, []]
    path.write_bytes(
        b"".join(pickle.dumps(part, protocol=2) for part in parts) + struct.pack("<q", 0)
    )


def _array(mark: Path) -> np.ndarray:
    return np.array([Payload(mark)], dtype=object)


def _npy(lab: Lab, random: Random, folder: Path) -> str:
    """The counts of a prepared corpus, read as that reads them."""
    mark = folder / "mark"
    np.save(folder / "train.npy", _array(mark), allow_pickle=True)
    rows = object.__new__(PreparedRows)
    rows._folder, rows._split = folder, "train"
    return _judge(mark, lambda: _raises(rows.unigrams, "train.npy"))


def _npz(lab: Lab, random: Random, folder: Path) -> str:
    mark = folder / "mark"
    path = folder / "maps.npz"
    np.savez(path, about=_array(mark))
    return _judge(mark, lambda: _raises(lambda: AttentionMaps.load_arrays(path), "maps.npz"))


def _raises(read: Callable[[], object], word: str) -> str:
    try:
        read()
    except UserError as error:
        check(word in str(error), f"refused without a word of {word}: {error}")
        return REFUSED
    raise Silent("read without a word")


def _run_file(name: str, write, lab: Lab, random: Random, folder: Path) -> str:
    mark = folder / "mark"
    workdir = lab.copy(folder)
    write(workdir / name, mark)
    flags = ["--workdir", str(workdir)]
    return _judge(mark, lambda: call(evaluate.main, flags).refused(name.replace(".", r"\.")))


def _class(path: Path, mark: Path) -> None:
    config = json.loads(path.read_text())
    config["task"] = {"class": "subprocess.Popen", "args": ["touch", str(mark)]}
    path.write_text(json.dumps(config))


def _module(path: Path, mark: Path) -> None:
    module = path.with_name("evil.py")
    module.write_text(f"open({str(mark)!r}, 'w').write('run')\nclass Task: pass\n")
    config = json.loads(path.read_text())
    config["task"] = {"class": f"{module}:Task"}
    path.write_text(json.dumps(config))


def _remote_code(lab: Lab, random: Random, folder: Path) -> str:
    """A Hugging Face folder that brings its own classes, which other libraries import."""
    mark = folder / "mark"
    model = folder / "model"
    model.mkdir()
    (model / "modeling.py").write_text(f"open({str(mark)!r}, 'w').write('run')\nclass M: pass\n")
    code = {
        "model_type": "own",
        "auto_map": {"AutoModel": "modeling.M", "AutoConfig": "modeling.M"},
    }
    (model / "config.json").write_text(json.dumps(_BERT | code))
    return _judge(mark, lambda: _export(folder, model).refused("config.json"))


def _tokenizer_json(lab: Lab, random: Random, folder: Path) -> str:
    mark = folder / "mark"
    path = folder / "tokenizer.json"
    code = f"__import__('os').system('touch {mark}')"
    path.write_text(json.dumps({"version": "1.0", "model": {"type": code}, "pre_tokenizer": code}))
    from transformer_jax.data.subword_tokenizers import load_tokenizer

    return _judge(mark, lambda: _raises(lambda: load_tokenizer(path), "tokenizer.json"))


def _checkpoint(lab: Lab, random: Random, folder: Path) -> str:
    """Each JSON file of a checkpoint is a pickle now; and one names a class of its own."""
    mark = folder / "mark"
    workdir = lab.copy(folder)
    for path in sorted((workdir / "checkpoints" / str(STEPS)).rglob("*")):
        if path.is_file() and path.read_bytes()[:1] == b"{":
            _raw(path, mark)
    flags = ["--workdir", str(workdir)]
    return _judge(mark, lambda: call(evaluate.main, flags).refused("checkpoints"))

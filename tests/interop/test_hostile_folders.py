"""Folders of published models that do harm or lie: refused by name, and nothing in them is run."""

import json
import os
import random
import shutil

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.cli.encoders import WORDS, write_encoder
from tests.hostile import PAYLOADS, changes, payloads, refused
from tests.interop.marian_folder import edit, message_of
from tests.interop.test_torch_files import new, view
from transformer_jax.data.byte_bpe import ByteBpeTokenizer
from transformer_jax.data.sentencepiece_encoder import SentencePieceEncoder
from transformer_jax.errors import UserError
from transformer_jax.interop import bert, marian
from transformer_jax.interop.folders import read_weights
from transformer_jax.interop.huggingface import load_pretrained

SEARCH = settings(suppress_health_check=list(HealthCheck), max_examples=100)
FILES = {
    "bert": ["config.json", "model.safetensors", "tokenizer.json"],
    "words": ["vocab.txt", "tokenizer_config.json"],
    "bytes": ["vocab.json", "merges.txt"],
    "pieces": ["spiece.model"],
    "torch": ["pytorch_model.bin"],
    "marian": [
        "config.json",
        "generation_config.json",
        "model.safetensors",
        "source.spm",
        "target.spm",
        "vocab.json",
        "tokenizer_config.json",
    ],
}


@pytest.fixture(scope="module", autouse=True)
def _each_model_is_traced_once():
    """Tracing a model takes a hundred times what reading its folder does."""

    def once(shapes):
        known = {}
        return lambda model: known.get(repr(model)) or known.setdefault(repr(model), shapes(model))

    with pytest.MonkeyPatch.context() as patch:
        for module in (bert, marian):
            patch.setattr(module, "_shapes", once(module._shapes))
        yield


@pytest.fixture(scope="module")
def good(tmp_path_factory, saved):
    """A folder that loads of each layout."""
    root = tmp_path_factory.mktemp("good")
    write_encoder(root / "bert", "classification", labels=("no", "yes"), vocab_size=300)
    for name in ("words", "bytes", "pieces", "torch"):
        shutil.copytree(root / "bert", root / name)
        (root / name / "tokenizer.json").unlink()
    vocabulary = json.loads((root / "bert" / "tokenizer.json").read_text())["model"]["vocab"]
    (root / "words" / "vocab.txt").write_text("\n".join(sorted(vocabulary, key=vocabulary.get)))
    texts = [" ".join(random.Random(i).choices(WORDS, k=5)) for i in range(200)]
    made = root / "tokenizer.json"
    ByteBpeTokenizer.train(texts, made, vocab_size=270)
    model = json.loads(made.read_text())["model"]
    (root / "bytes" / "vocab.json").write_text(json.dumps(model["vocab"]))
    (root / "bytes" / "merges.txt").write_text("\n".join(map(" ".join, model["merges"])))
    SentencePieceEncoder.train(
        texts, root / "pieces" / "spiece.model", vocab_size=26, lowercase=True
    )
    weights = root / "torch" / "model.safetensors"
    write_torch(root / "torch" / "pytorch_model.bin", read_weights(root / "torch")[1])
    weights.unlink()
    shutil.copytree(saved, root / "marian")
    for name in FILES:
        assert load_pretrained(root / name).tokenizer is not None or name == "torch"
    return root


def write_torch(path, tensors):
    views, names = {}, {key: str(i) for i, key in enumerate(tensors)}
    for key, value in tensors.items():
        strides = tuple(stride // value.itemsize for stride in value.strides)
        views[key] = view(key=names[key], count=value.size, shape=value.shape, strides=strides)
    return new(path, views, {names[key]: value.tobytes() for key, value in tensors.items()})


@pytest.fixture
def copy(good, tmp_path):
    return lambda name: shutil.copytree(good / name, tmp_path / name)


@pytest.mark.parametrize("payload", PAYLOADS)
@pytest.mark.parametrize("layout", FILES)
def test_a_harmful_file_is_refused_by_name_and_not_run(copy, tmp_path, layout, payload):
    folder, trace = copy(layout), tmp_path / "trace"
    for name in FILES[layout]:
        whole = (folder / name).read_bytes()
        (folder / name).write_bytes(payloads(trace)[payload])
        if payload == "json" and name in ("tokenizer_config.json", "generation_config.json"):
            load_pretrained(folder)  # an object whose settings nobody knows
            assert not trace.exists()
        else:
            with refused(trace, name):
                load_pretrained(folder)
        (folder / name).write_bytes(whole)


def test_code_that_a_folder_brings_along_is_not_looked_at(copy, tmp_path):
    folder, trace = copy("bert"), tmp_path / "trace"
    for name in ("modeling_bert", "configuration_bert", "tokenization_bert", "sitecustomize"):
        (folder / f"{name}.py").write_text(f"open({str(trace)!r}, 'w')\n")
    code = {"AutoModel": "modeling_bert.BertModel", "AutoConfig": "configuration_bert.Config"}
    edit(folder, auto_map=code, trust_remote_code=True)
    edit(folder, "tokenizer_config.json", auto_map={"AutoTokenizer": ["tokenization_bert.T", None]})
    load_pretrained(folder)
    assert not trace.exists()


def test_an_index_of_shards_is_not_followed_out_of_the_folder(copy, tmp_path):
    folder, outside = copy("bert"), tmp_path / "model-00001-of-00001.safetensors"
    (folder / "model.safetensors").rename(outside)
    index = {"metadata": {}, "weight_map": dict.fromkeys(["a"], f"../{outside.name}")}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    message_of(folder, "has no weights: neither model.safetensors nor pytorch_model.bin")


def test_the_hubs_layout_of_links_is_read(copy, tmp_path):
    """models--x/snapshots/REVISION/NAME is a link to ../../blobs/HASH there."""
    given = copy("bert")
    blobs, snapshot = tmp_path / "x" / "blobs", tmp_path / "x" / "snapshots" / "1"
    blobs.mkdir(parents=True), snapshot.mkdir(parents=True)
    for i, path in enumerate(sorted(given.iterdir())):
        path.rename(blobs / f"hash{i}")
        (snapshot / path.name).symlink_to(f"../../blobs/hash{i}")
    assert load_pretrained(snapshot).labels == ("no", "yes")


@pytest.mark.parametrize("kind", ["pipe", "folder", "loop", "absent", "zero"])
@pytest.mark.parametrize("layout", FILES)
def test_what_is_no_file_is_named_and_never_waited_for(copy, layout, kind):
    folder = copy(layout)
    for name in FILES[layout]:
        (folder / name).rename(folder / "whole")
        _put(folder / name, kind)
        try:
            load_pretrained(folder)
        except UserError as error:
            assert name in str(error) or "has no weights" in str(error)
        else:  # a BERT may come without its tokenizer
            assert name not in ("config.json", "model.safetensors", "pytorch_model.bin")
            assert layout != "marian" or name.endswith("_config.json")
        _remove(folder / name)
        (folder / "whole").rename(folder / name)


def _put(path, kind):
    if kind == "pipe":
        os.mkfifo(path)
    elif kind == "folder":
        path.mkdir()
    elif kind != "absent":
        path.symlink_to(path if kind == "loop" else "/dev/zero")


def _remove(path):
    if path.is_dir() and not path.is_symlink():
        path.rmdir()
    elif path.is_symlink() or path.exists():
        path.unlink()


NAMES = [
    ("bert", "config.json"),
    ("bert", "tokenizer.json"),
    ("words", "tokenizer_config.json"),
    ("marian", "config.json"),
    ("marian", "generation_config.json"),
    ("marian", "vocab.json"),
    ("marian", "tokenizer_config.json"),
]


@pytest.mark.parametrize(("layout", "name"), NAMES)
@SEARCH
@given(data=st.data())
def test_changed_settings_end_in_a_model_or_a_user_error(good, tmp_path, layout, name, data):
    folder = shutil.copytree(good / layout, tmp_path / layout, dirs_exist_ok=True)
    changed = data.draw(changes(json.loads((folder / name).read_text())))
    (folder / name).write_text(json.dumps(changed))
    try:
        found = load_pretrained(folder)
    except UserError as error:
        assert str(folder) in str(error) and len(str(error)) < 10_000
    else:
        assert found.tokenizer is None or found.tokenizer.encode(["wa \0 é", "", "\ud800"])


@pytest.mark.parametrize(
    ("layout", "changed", "message"),
    [
        ("bert", {"num_hidden_layers": 2**31 - 1}, "says layers=2147483647, and the tensors"),
        ("bert", {"num_hidden_layers": 2**31}, "num_hidden_layers=2147483648 cannot be"),
        ("bert", {"vocab_size": 10**30}, "vocab_size=1000000000000000000000000000000 cannot be"),
        (
            "bert",
            {"hidden_size": 2**30, "num_attention_heads": 2**30},
            "says width=1073741824",
        ),
        ("bert", {"num_hidden_layers": "2"}, "num_hidden_layers='2' cannot be"),
        ("bert", {"hidden_dropout_prob": True}, "hidden_dropout_prob=True cannot be"),
        ("bert", {"classifier_dropout": "0.1"}, "classifier_dropout='0.1' cannot be"),
        ("bert", {"classifier_dropout": 10**400}, "classifier_dropout=1000"),
        ("bert", {"architectures": {"0": "x"}}, "architectures=.* cannot be"),
        ("bert", {"architectures": [None]}, "architectures=.* cannot be"),
        ("bert", {"id2label": {"0": "a", "00": "b"}}, "id2label=.* cannot be"),
        ("bert", {"id2label": {"0": "a", "1": "\ud800"}}, "id2label=.* cannot be"),
        ("bert", {"id2label": ["a", "b"]}, "id2label=.* cannot be"),
        ("bert", {"id2label": None, "num_labels": 2**31 - 1}, "num_labels=2147483647 cannot be"),
        ("marian", {"encoder_layers": 2**31 - 1}, "says layers=2147483647, and"),
        ("marian", {"d_model": 60 * 2**24}, "says width=1006632960, and the tensors"),
        ("marian", {"decoder_start_token_id": "1"}, "decoder_start_token_id 1 is no token"),
    ],
)
def test_settings_that_lie_are_named_and_take_no_memory(copy, layout, changed, message):
    folder = copy(layout)
    edit(folder, **changed)
    if layout == "marian":
        (folder / "generation_config.json").unlink()
    message_of(folder, message)

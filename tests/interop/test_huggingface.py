"""Marian folders: what is saved is loaded again, and what ends in an error that names it."""

import dataclasses
import json
import os

import pytest

import transformer_jax
from tests.interop.marian_folder import (
    CONFIG,
    HEAD,
    PIECES,
    assert_loads,
    assert_params_equal,
    drop,
    edit,
    generation,
    message_of,
    pretrained,
    tensors_in,
)
from transformer_jax.errors import UserError
from transformer_jax.interop import folders
from transformer_jax.interop.huggingface import (
    PretrainedTransformer,
    is_pretrained,
    load_pretrained,
    save_pretrained,
)


def test_what_is_saved_is_loaded_again(saved, own):
    loaded = load_pretrained(str(saved))
    assert_params_equal(loaded.params, own.params)
    assert (loaded.config, loaded.search) == (own.config, own.search)
    assert loaded.model == own.model
    texts = ["the red cat sees", " dog  house", "", "日"]
    ids = own.tokenizer.encode(texts)
    assert loaded.tokenizer.encode(texts) == loaded.tokenizer.encode_target(texts) == ids
    assert loaded.tokenizer.decode(ids) == own.tokenizer.decode(ids)[:3] + [""]
    for name in ("pad_id", "eos_id", "unk_id", "bos_id"):
        assert getattr(loaded.tokenizer, name) == getattr(own.tokenizer, name)


@pytest.mark.parametrize("tied", [True, False])
def test_separate_vocabularies_are_loaded_again(tmp_path, separate, tied):
    own = pretrained(separate, source_vocab_size=PIECES + 7, tied_output=tied)
    save_pretrained(tmp_path, own)
    assert (HEAD in tensors_in(tmp_path)) == (not tied)
    loaded = load_pretrained(tmp_path)
    assert_params_equal(loaded.params, own.params)
    assert loaded.config == own.config
    assert loaded.tokenizer.fingerprint == separate.fingerprint
    texts = ["the red cat sees"]
    assert loaded.tokenizer.encode(texts) == separate.encode(texts)
    assert loaded.tokenizer.encode_target(texts) == separate.encode_target(texts)
    assert separate.encode(texts) != separate.encode_target(texts)


def test_the_folder_names_its_tokens_in_both_files(saved, own):
    """With the names of transformers; the start token is in front of what max_length counts."""
    ids = dict(pad_token_id=0, eos_token_id=1, decoder_start_token_id=3, forced_eos_token_id=1)
    search = dict(num_beams=3, length_penalty=0.7, early_stopping=True, max_length=18)
    config = json.loads((saved / "config.json").read_text())
    said = json.loads((saved / "generation_config.json").read_text())
    assert ids.items() <= config.items() and ids.items() <= said.items()
    assert search.items() <= said.items() and said["bad_words_ids"] == [[0], [5]]
    assert config["max_position_embeddings"] == 512
    assert config["architectures"] == ["MarianMTModel"] and config["model_type"] == "marian"


def test_the_package_has_the_functions_and_nothing_else():
    assert transformer_jax.load_pretrained is load_pretrained
    assert transformer_jax.save_pretrained is save_pretrained
    assert transformer_jax.PretrainedTransformer is PretrainedTransformer
    with pytest.raises(AttributeError, match="no attribute 'load_pretrain'"):
        transformer_jax.load_pretrain  # noqa: B018


def test_saving_over_a_folder_replaces_whole_files(folder, tokenizer):
    names = {path.name for path in folder.iterdir()}
    before = {path: os.stat(path).st_ino for path in folder.iterdir()}
    (folder / "notes.txt").write_text("stays")
    smaller = pretrained(tokenizer, encoder_layers=1, width=10, decoder_num_heads=None)
    save_pretrained(folder, smaller)
    assert_loads(folder, smaller)
    assert {path.name for path in folder.iterdir()} == names | {"notes.txt"}
    assert all(os.stat(path).st_ino != inode for path, inode in before.items())


def test_a_folder_is_hugging_faces_if_its_config_names_a_model_or_weights_lie_beside(
    saved, folder, tmp_path
):
    assert is_pretrained(saved) and is_pretrained(str(saved))
    assert not is_pretrained(tmp_path) and not is_pretrained(tmp_path / "absent")
    drop(folder, "config.json", "model_type")
    assert is_pretrained(folder)
    drop(folder, "config.json", "architectures")
    assert is_pretrained(folder)
    (folder / "model.safetensors").unlink()
    assert not is_pretrained(folder)


def test_a_model_type_that_is_not_named_is_found_by_the_class(folder, own):
    drop(folder, "config.json", "model_type")
    with pytest.warns(UserWarning, match="names no model_type; it is read as 'marian'"):
        assert load_pretrained(folder).config == own.config


def test_a_folder_without_a_config_is_named(tmp_path):
    for folder in (tmp_path, tmp_path / "absent"):
        assert "config.json cannot be read: No such file" in message_of(folder)


def test_a_folder_without_weights_is_named(folder):
    (folder / "model.safetensors").unlink()
    message_of(folder, "has no weights: neither model.safetensors nor pytorch_model.bin")


@pytest.mark.parametrize("found", ["t5", None, ["marian"]])
def test_a_model_of_another_type_is_refused(folder, found):
    edit(folder, model_type=found)
    assert (
        f"model_type is {found!r}; bert, roberta, distilbert, albert, marian can be"
        in message_of(folder)
    )


def header(**entries):
    data = json.dumps(entries).encode()
    return len(data).to_bytes(8, "little") + data


def entry(dtype="F32", shape=(1,), end=4):
    return {"dtype": dtype, "shape": list(shape), "data_offsets": [0, end]}


@pytest.mark.parametrize(
    "damaged",
    [
        b"",
        b"\xff" * 100,
        b"not a safetensors file",
        header(a=entry(shape=[2])) + bytes(4),
        header(a=entry(end=400)) + bytes(4),
        header(a=entry()) + bytes(3),
        header(a=entry()) + bytes(5),
        header(a=entry(), b=entry()) + bytes(4),
        header(a=entry(dtype="X7")) + bytes(4),
        header(a=entry(dtype="F8_E4M3", end=1)) + bytes(1),
        header(a=entry(shape=[2**62, 2**62])) + bytes(4),
        header(a=[1, 2]),
    ],
    ids="empty ones text shape offsets short long twice dtype float8 huge list".split(),
)
def test_a_damaged_weights_file_is_named(folder, damaged):
    (folder / "model.safetensors").write_bytes(damaged)
    message_of(folder, r"model\.safetensors is damaged, or of an unknown dtype: ")


@pytest.mark.parametrize("part", [0.01, 0.5, 0.999])
def test_a_truncated_weights_file_is_named(folder, part):
    whole = (folder / "model.safetensors").read_bytes()
    (folder / "model.safetensors").write_bytes(whole[: int(len(whole) * part)])
    message_of(folder, r"model\.safetensors is damaged")


def test_a_damaged_torch_file_is_named(folder):
    (folder / "model.safetensors").unlink()
    (folder / "pytorch_model.bin").write_bytes(b"PK\x03\x04 no more")
    message_of(folder, r"pytorch_model\.bin is damaged")


@pytest.mark.parametrize("name", ["config.json", "generation_config.json"])
@pytest.mark.parametrize(
    "data,message",
    [
        (b"", "is damaged"),
        (b'{"model_type": "marian"', "is damaged"),
        (b'{"model_type": "\xff"}', "is damaged"),
        (b"[" * 100_000, "is damaged"),
        (b"1" * 5000, "is damaged"),
        (b"[1, 2]", "holds no JSON object"),
        (b"null", "holds no JSON object"),
    ],
    ids=["empty", "truncated", "no_utf8", "deep", "long_number", "list", "null"],
)
def test_a_damaged_file_of_settings_is_named(folder, name, data, message):
    (folder / name).write_bytes(data)
    message_of(folder, rf"/{name} {message}")


def test_a_tokenizer_larger_than_the_model_is_refused(folder):
    edit(folder, "vocab.json", zebra=CONFIG.vocab_size - 1)
    load_pretrained(folder)
    edit(folder, "vocab.json", zebra=CONFIG.vocab_size)
    message_of(folder, "source vocabulary has ids up to 33, the model only 33 embeddings")


def test_a_target_vocabulary_larger_than_the_model_is_refused(tmp_path, separate):
    own = pretrained(separate, source_vocab_size=PIECES + 7, vocab_size=PIECES + 1)
    save_pretrained(tmp_path, own)
    load_pretrained(tmp_path)
    edit(tmp_path, "target_vocab.json", lion=PIECES + 1)
    message_of(tmp_path, "target vocabulary has ids up to 31, the model only 31 embeddings")
    own = pretrained(separate, source_vocab_size=PIECES - 1, vocab_size=PIECES + 1)
    save_pretrained(tmp_path, own)
    message_of(tmp_path, "source vocabulary has ids up to 29, the model only 29 embeddings")


@pytest.mark.parametrize("name", ["config.json", "generation_config.json"])
@pytest.mark.parametrize("key,right", [("pad", 0), ("eos", 1), ("forced_eos", 1)])
def test_special_tokens_that_are_not_the_vocabularys_are_refused(folder, name, key, right):
    edit(folder, name, **{f"{key}_token_id": 2})
    message_of(folder, f"{key}_token_id is 2 in its settings, {right} in the vocabulary")
    edit(folder, name, **{f"{key}_token_id": None})
    load_pretrained(folder)


@pytest.mark.parametrize("name", ["config.json", "generation_config.json"])
@pytest.mark.parametrize("start", [-1, CONFIG.vocab_size, "a", [3], 1.5, True], ids=repr)
def test_a_start_that_is_no_token_is_refused(folder, name, start):
    drop(folder, "generation_config.json", "decoder_start_token_id")
    edit(folder, name, decoder_start_token_id=start)
    assert f"decoder_start_token_id {start} is no token" in message_of(folder)


def test_the_start_is_that_of_the_generation_or_the_config_or_the_padding(folder):
    generation(folder, decoder_start_token_id=CONFIG.vocab_size - 1)
    assert load_pretrained(folder).tokenizer.bos_id == CONFIG.vocab_size - 1
    drop(folder, "generation_config.json", "decoder_start_token_id")
    edit(folder, decoder_start_token_id=7)
    assert load_pretrained(folder).tokenizer.bos_id == 7
    drop(folder, "config.json", "decoder_start_token_id")
    assert load_pretrained(folder).tokenizer.bos_id == 0


@pytest.mark.parametrize(
    "changes,named",
    [
        (dict(norm_first=True), "norm_first=True"),
        (dict(sinusoids="interleaved"), "sinusoids='interleaved'"),
        (dict(norm_epsilon=1e-6), "norm_epsilon=1e-06"),
        (dict(tied_output=False), "tied_output=False with one vocabulary"),
        (dict(norm_first=True, norm_epsilon=1e-6), "norm_first=True, norm_epsilon=1e-06"),
    ],
    ids=str,
)
def test_a_model_that_is_not_marians_is_refused_and_nothing_is_written(
    tmp_path, tokenizer, changes, named
):
    own = pretrained(tokenizer, **changes)
    with pytest.raises(UserError, match=f"cannot hold a model with {named}. It needs norm_first"):
        save_pretrained(tmp_path / "folder", own)
    assert list(tmp_path.iterdir()) == []


def test_another_kind_of_tokenizer_is_refused_and_nothing_is_written(tmp_path, own):
    with pytest.raises(UserError, match="A dict cannot be written"):
        save_pretrained(tmp_path / "folder", dataclasses.replace(own, tokenizer={}))
    assert list(tmp_path.iterdir()) == []


def test_a_folder_that_cannot_be_made_is_named(tmp_path, own):
    (tmp_path / "file").write_text("in the way")
    for folder in (tmp_path / "file", tmp_path / "file" / "folder"):
        with pytest.raises(UserError, match=f"{folder} cannot be made: "):
            save_pretrained(folder, own)


def test_a_file_that_cannot_be_written_is_named(tmp_path, own):
    (tmp_path / "model.safetensors").mkdir()
    with pytest.raises(UserError, match=r"model\.safetensors cannot be written"):
        save_pretrained(tmp_path, own)


def test_a_folder_is_loadable_only_when_all_of_it_is_written(tmp_path, own, monkeypatch):
    """config.json, by which a folder is known, comes last."""
    written = []

    def record(path, data):
        written.append(path.name)

    monkeypatch.setattr(folders, "write_whole", record)
    save_pretrained(tmp_path, own)
    assert {"model.safetensors", "generation_config.json"} < set(written)
    assert written[-1] == "config.json"

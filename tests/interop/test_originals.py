"""Original checkpoints of fairseq and Google, loaded whole: the model and its tokenizer."""

import json

import numpy as np
import pytest

from tests.interop import test_fairseq as fairseq
from tests.interop import test_tensorflow_checkpoint as google
from tests.interop.marian_folder import assert_params_equal
from transformer_jax import load_pretrained, save_pretrained
from transformer_jax.data.byte_bpe import ByteBpeTokenizer
from transformer_jax.data.sentencepiece_encoder import SentencePieceEncoder
from transformer_jax.errors import UserError
from transformer_jax.interop import tensorflow_checkpoint
from transformer_jax.interop.huggingface import is_pretrained


def write_dictionary(folder, count=12):
    """What lies beside a fairseq model: GPT-2's tokens, numbered otherwise in dict.txt."""
    texts = ["ab cd", "ef ab"] * 9
    made = ByteBpeTokenizer.train(texts, folder / "made.json", vocab_size=261 + 3)
    model = json.loads((folder / "made.json").read_text())["model"]
    (folder / "made.json").unlink()
    special = ("<s>", "<pad>", "</s>", "<unk>", "<mask>")
    tokens = [token for token in model["vocab"] if token not in special]
    (folder / "encoder.json").write_text(json.dumps({t: i for i, t in enumerate(tokens)}))
    (folder / "vocab.bpe").write_text("\n".join(map(" ".join, model["merges"])) + "\n")
    order = np.random.default_rng(0).permutation(len(tokens))
    (folder / "dict.txt").write_text("".join(f"{i} 7\n" for i in order))
    return made, [tokens[i] for i in order]


def test_a_fairseq_folder_is_loaded_with_its_tokenizer(tmp_path):
    made, order = write_dictionary(tmp_path)
    tensors = fairseq.state()
    size = len(order) + 5
    for name in list(tensors):
        if name.endswith(("embed_tokens.weight", "lm_head.bias")):
            shape = (size, *tensors[name].shape[1:])
            tensors[name] = np.random.default_rng(1).normal(size=shape).astype(np.float32)
    fairseq.write(tmp_path / "model.pt", tensors)
    assert is_pretrained(tmp_path) and is_pretrained(tmp_path / "model.pt")
    loaded = load_pretrained(tmp_path)
    assert loaded.kind == "masked_lm" and loaded.config.first_position == 2
    table = loaded.params["bert"]["token_embedding"]["embedding"]
    np.testing.assert_array_equal(table, tensors["encoder.sentence_encoder.embed_tokens.weight"])
    t = loaded.tokenizer
    assert (t.cls_id, t.pad_id, t.sep_id, t.unk_id, t.mask_id) == (0, 1, 2, 3, size - 1)
    ids = t.encode(["ab cd ef"])[0].ids
    wanted = made.pieces(made.encode(["ab cd ef"])[0].ids.tolist())
    assert t.pieces(ids.tolist()) == wanted
    assert {i - 4 for i in ids.tolist()} <= set(range(len(order)))
    save_pretrained(tmp_path / "out", loaded)
    again = load_pretrained(tmp_path / "out")
    assert_params_equal(again.params, loaded.params)
    assert again.tokenizer.fingerprint == t.fingerprint


def test_what_is_left_out_is_said_to_whoever_loads(tmp_path):
    args = fairseq.ARGS | {"activation_dropout": 0.1}
    fairseq.write(tmp_path / "model.pt", fairseq.state(), args=args)
    with pytest.warns(UserWarning, match=r"without activation_dropout=0\.1") as caught:
        load_pretrained(tmp_path / "model.pt")
    assert [warning.filename for warning in caught] == [__file__]


def test_a_file_alone_has_no_tokenizer(tmp_path):
    fairseq.write(tmp_path / "model.pt", fairseq.state())
    assert not is_pretrained(tmp_path)  # without dict.txt it may be anything
    assert load_pretrained(tmp_path / "model.pt").tokenizer is None
    encoder = load_pretrained(tmp_path / "model.pt", kind="encoder")
    assert encoder.kind == "encoder" and not encoder.config.pooler
    with pytest.raises(UserError, match="cannot be read"):
        load_pretrained(tmp_path / "absent.pt")


@pytest.mark.parametrize("name", ["uncased_L-3", "cased_L-3", "albert"])
def test_a_folder_of_google_is_loaded_with_its_tokenizer(tmp_path, monkeypatch, name):
    folder, family = tmp_path / name, "albert" if name == "albert" else "bert"
    folder.mkdir()
    (folder / f"{family}_config.json").write_text(json.dumps(google.CONFIGS[family]))
    (folder / "model.ckpt.index").write_bytes(b"")
    values = google.variables(family)
    monkeypatch.setattr(tensorflow_checkpoint, "_read_variables", lambda prefix: values)
    if family == "bert":
        words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "Ab", "ab"]
        (folder / "vocab.txt").write_text("\n".join(words) + "\n")
    else:
        words = ["ab b a"] * 20
        SentencePieceEncoder.train(words, folder / "30k.model", vocab_size=9, lowercase=True)
    for path in (folder, folder / "model.ckpt"):
        assert is_pretrained(path)
        loaded = load_pretrained(path)
        assert loaded.kind == "pretraining" and loaded.config.shared_layers == (family == "albert")
        ids = loaded.tokenizer.encode(["Ab"])[0].ids.tolist()
        if family == "bert":
            assert ids == [6 if name.startswith("uncased") else 5]
        else:
            assert ids == loaded.tokenizer.encode(["áb"])[0].ids.tolist()
    save_pretrained(tmp_path / "out", loaded)
    assert_params_equal(load_pretrained(tmp_path / "out").params, loaded.params)


def test_several_checkpoints_of_fairseq_are_named(tmp_path):
    (tmp_path / "dict.txt").write_text("1 2\n")
    for name in ("checkpoint_last.pt", "checkpoint_best.pt"):
        (tmp_path / name).write_bytes(b"x")
    with pytest.raises(UserError, match=r"several checkpoints: checkpoint_best\.pt, checkpoint_l"):
        load_pretrained(tmp_path)

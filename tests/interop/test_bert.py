"""Folders of BERT and its family: what is saved is loaded again, and what ends in an error."""

import dataclasses
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests.interop.marian_folder import (
    assert_params_equal,
    drop,
    edit,
    message_of,
    tensors_in,
    write_tensors,
)
from transformer_jax import BertConfig, BertPretraining, load_pretrained, save_pretrained
from transformer_jax.data.byte_bpe import ByteBpeTokenizer
from transformer_jax.data.wordpiece import WordPieceTokenizer
from transformer_jax.errors import UserError
from transformer_jax.interop.bert import PretrainedBert
from transformer_jax.interop.bert_saving import report
from transformer_jax.interop.huggingface import is_pretrained

SIZES = dict(
    vocab_size=40, width=12, num_heads=3, feed_forward_dim=20, num_layers=3, max_positions=11
)
CONFIGS = {
    "bert": BertConfig(**SIZES, activation="gelu_tanh"),
    "roberta": BertConfig(**SIZES, type_vocab_size=1, first_position=2, norm_epsilon=1e-5),
    "distilbert": BertConfig(**SIZES, type_vocab_size=0, pooler=False),
    "albert": BertConfig(**SIZES, embedding_width=7, shared_layers=True),
}
KINDS = ["encoder", "pretraining", "masked_lm", "classification", "tagging", "reading", "choice"]
WORDS = "the red green blue cat dog house tree sees likes finds and near under".split()


def pretrained(family, kind, seed=0, **changes):
    pooled = kind in ("pretraining", "classification", "choice")
    pooled |= kind == "encoder" and family != "distilbert"
    config = dataclasses.replace(CONFIGS[family], pooler=pooled, **changes)
    if family == "distilbert" and pooled:
        config = dataclasses.replace(config, pooler_activation="relu")
    labels = ("no", "yes", "maybe") if kind in ("classification", "tagging") else ()
    found = PretrainedBert(config, kind, {}, None, labels, 0.3)
    tokens = jnp.zeros((1, 2), jnp.int32)
    shapes = jax.eval_shape(found.model.init, jax.random.key(0), tokens)["params"]
    rng = np.random.default_rng(seed)
    params = jax.tree.map(lambda x: jnp.asarray(rng.normal(size=x.shape), jnp.float32), shapes)
    return dataclasses.replace(found, params=params)


@pytest.fixture
def folder(tmp_path):
    save_pretrained(tmp_path / "bert", pretrained("bert", "pretraining"))
    return tmp_path / "bert"


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("family", CONFIGS)
def test_what_is_saved_is_loaded_again(tmp_path, family, kind):
    own = pretrained(family, kind)
    if kind == "pretraining" and family in ("roberta", "distilbert"):
        with pytest.raises(UserError, match=f"no pretraining of {family}"):
            save_pretrained(tmp_path, own)
        return
    save_pretrained(tmp_path, own)
    loaded = load_pretrained(tmp_path)
    assert_params_equal(loaded.params, own.params)
    assert dataclasses.replace(loaded, params={}) == dataclasses.replace(own, params={})


def test_roberta_without_token_types_gets_a_table_that_adds_nothing(tmp_path):
    own = pretrained("roberta", "masked_lm", type_vocab_size=0)
    save_pretrained(tmp_path, own)
    table = tensors_in(tmp_path)["roberta.embeddings.token_type_embeddings.weight"]
    assert table.shape == (1, 12) and not table.any()
    tokens = jnp.arange(6)[None]
    want, got = (
        found.model.apply({"params": found.params}, tokens)[0]
        for found in (own, load_pretrained(tmp_path))
    )
    np.testing.assert_array_equal(got, want)


def test_the_span_boundary_head_is_left_out_and_said(tmp_path):
    config = dataclasses.replace(CONFIGS["bert"], pooler=False)
    model = BertPretraining(config, span_boundary=True)
    params = model.init(jax.random.key(0), jnp.zeros((1, 2), jnp.int32))["params"]
    with pytest.warns(UserWarning, match="without the span-boundary head"):
        save_pretrained(tmp_path, PretrainedBert(config, "masked_lm", params))
    assert load_pretrained(tmp_path).params.keys() == {"bert", "mlm_head"}


def test_missing_extra_and_misshapen_tensors_are_all_named(folder):
    tensors = tensors_in(folder)
    layer = "bert.encoder.layer.1.output"
    del tensors[f"{layer}.dense.bias"]
    tensors[f"{layer}.LayerNorm.weight"] = np.zeros(7, np.float32)
    tensors["bert.encoder.layer.3.output.dense.bias"] = np.zeros(12, np.float32)
    write_tensors(folder, tensors)
    message = message_of(folder)
    assert f"missing: {layer}.dense.bias [12]" in message
    assert f"misshapen: {layer}.LayerNorm.weight [7], not [12]" in message
    assert "unknown: bert.encoder.layer.3.output.dense.bias [12]" in message


def test_a_head_that_lacks_a_tensor_is_not_left_at_random(folder):
    tensors = tensors_in(folder)
    del tensors["cls.predictions.transform.LayerNorm.bias"]
    write_tensors(folder, tensors)
    assert "missing: cls.predictions.transform.LayerNorm.bias [12]" in message_of(folder)
    assert load_pretrained(folder, kind="encoder").kind == "encoder"


def test_copies_of_the_embedding_must_be_equal(folder):
    tensors = tensors_in(folder)
    tensors["cls.predictions.decoder.weight"] = tensors["bert.embeddings.word_embeddings.weight"]
    tensors["cls.predictions.decoder.bias"] = tensors["cls.predictions.bias"]
    tensors["bert.embeddings.position_ids"] = np.arange(11)[None]
    write_tensors(folder, tensors)
    assert load_pretrained(folder).kind == "pretraining"
    tensors["cls.predictions.decoder.weight"] = tensors["cls.predictions.decoder.weight"] + 1
    write_tensors(folder, tensors)
    assert "differ, and `transformers` ties them" in message_of(folder)


def test_a_pooler_that_a_model_does_not_have_is_left_out_and_said(tmp_path):
    save_pretrained(tmp_path, pretrained("bert", "tagging"))
    tensors = tensors_in(tmp_path)
    tensors["bert.pooler.dense.weight"] = np.zeros((12, 12), np.float32)
    tensors["bert.pooler.dense.bias"] = np.zeros(12, np.float32)
    write_tensors(tmp_path, tensors)
    with pytest.warns(UserWarning, match="'tagging' has no use for bert.pooler.dense.bias"):
        loaded = load_pretrained(tmp_path)
    assert loaded.params["bert"].keys() == pretrained("bert", "tagging").params["bert"].keys()


def test_an_encoder_without_a_pooler_has_none(tmp_path):
    save_pretrained(tmp_path, pretrained("bert", "encoder", seed=1))
    tensors = {n: x for n, x in tensors_in(tmp_path).items() if not n.startswith("pooler")}
    write_tensors(tmp_path, tensors)
    loaded = load_pretrained(tmp_path)
    assert not loaded.config.pooler and "pooler" not in loaded.params


def test_less_may_be_asked_for_than_there_is_and_no_more(folder):
    assert load_pretrained(folder, kind="masked_lm").params.keys() == {"bert", "mlm_head"}
    encoder = load_pretrained(folder, kind="encoder")
    whole = load_pretrained(folder)
    assert_params_equal(encoder.params, whole.params["bert"])
    for kind in ("tagging", "classification", "nonsense"):
        with pytest.raises(UserError, match=f"holds no '{kind}': it is of the kind 'pretraining'"):
            load_pretrained(folder, kind=kind)


@pytest.mark.parametrize(
    ("changes", "complaint"),
    [
        ({"model_type": "bart"}, "model_type is 'bart'; bert, roberta, distilbert, albert, marian"),
        ({"is_decoder": True}, "cannot have is_decoder=True"),
        ({"position_embedding_type": "relative_key"}, "cannot have position_embedding_type="),
        ({"tie_word_embeddings": False}, "cannot have tie_word_embeddings=False"),
        ({"hidden_act": "mish"}, "the activation 'mish' is none of relu, gelu"),
        ({"hidden_size": "12"}, "hidden_size='12' cannot be"),
        ({"hidden_size": True}, "hidden_size=True cannot be"),
        ({"num_attention_heads": 5}, "must be a multiple of"),
        ({"num_hidden_layers": 2}, "unknown: bert.encoder.layer.2.attention.output.LayerNorm"),
        (
            {"vocab_size": 41},
            r"misshapen: bert.embeddings.word_embeddings.weight [40, 12], not [41",
        ),
    ],
)
def test_settings_that_cannot_be_are_named(folder, changes, complaint):
    edit(folder, **changes)
    assert complaint in message_of(folder)


@pytest.mark.parametrize("names", [{"0": "a", "2": "b"}, ["a"], {"x": "a"}, {}])
def test_labels_must_name_the_classes(tmp_path, names):
    save_pretrained(tmp_path, pretrained("bert", "classification"))
    edit(tmp_path, id2label=names)
    assert "id2label" in message_of(tmp_path)


def test_without_names_the_classes_are_numbered(tmp_path):
    save_pretrained(tmp_path, pretrained("bert", "classification"))
    drop(tmp_path, "config.json", "id2label", "label2id")
    edit(tmp_path, num_labels=3)
    assert load_pretrained(tmp_path).labels == ("LABEL_0", "LABEL_1", "LABEL_2")


@pytest.mark.parametrize(
    ("family", "changes", "complaint"),
    [
        ("bert", dict(embedding_width=7), "albert with shared_layers=False"),
        ("albert", dict(embedding_width=None), "albert with embedding_width=None"),
        ("bert", dict(first_position=1, activation="relu"), "roberta with activation='relu'"),
        ("distilbert", dict(norm_epsilon=1e-5), "distilbert with norm_epsilon=1e-05"),
        ("bert", dict(pooler_activation="relu"), "cannot have pooler=True with relu"),
    ],
)
def test_what_transformers_does_not_have_is_not_exported(tmp_path, family, changes, complaint):
    own = pretrained(family, "encoder")
    own = dataclasses.replace(own, config=dataclasses.replace(own.config, **changes))
    with pytest.raises(UserError, match=complaint):
        save_pretrained(tmp_path / "out", own)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("kind", ["wordpiece", "byte_bpe", "vocab.txt", "none"])
def test_the_tokenizer_comes_along(tmp_path, kind):
    tokenizer, file = None, tmp_path / "tokenizer.json"
    if kind in ("wordpiece", "vocab.txt"):
        tokenizer = WordPieceTokenizer.train(WORDS * 3, file, vocab_size=40, lowercase=False)
    if kind == "byte_bpe":
        tokenizer = ByteBpeTokenizer.train(WORDS * 3, file, vocab_size=270)
    own = dataclasses.replace(
        pretrained("bert", "encoder", vocab_size=270 if kind == "byte_bpe" else 40),
        tokenizer=tokenizer,
    )
    save_pretrained(tmp_path / "out", own)
    if kind == "vocab.txt":
        tokens = json.loads((tmp_path / "out/tokenizer.json").read_text())["model"]["vocab"]
        (tmp_path / "out/tokenizer.json").unlink()
        text = "".join(f"{t}\n" for t, _ in sorted(tokens.items(), key=lambda pair: pair[1]))
        (tmp_path / "out/vocab.txt").write_text(text)
        edit(tmp_path / "out", "tokenizer_config.json", do_lower_case=False)
    loaded = load_pretrained(tmp_path / "out").tokenizer
    if tokenizer is None:
        assert loaded is None
        return
    for got, want in zip(
        loaded.encode(["The red ça"]), tokenizer.encode(["The red ça"]), strict=True
    ):
        np.testing.assert_array_equal(got.ids, want.ids)


def test_a_tokenizer_of_another_model_is_refused(tmp_path):
    tokenizer = WordPieceTokenizer.train(
        WORDS * 3, tmp_path / "tokenizer.json", vocab_size=40, lowercase=True
    )
    own = pretrained("bert", "encoder", vocab_size=39)
    save_pretrained(tmp_path / "out", dataclasses.replace(own, tokenizer=tokenizer))
    assert "vocabulary has 40 tokens, the model only 39 embeddings" in message_of(tmp_path / "out")


def test_the_report_has_a_line_for_each_tensor(folder):
    lines = list(report(load_pretrained(folder)))
    assert len(lines) == len(tensors_in(folder))
    (line,) = [line for line in lines if "encoder.layer.2.attention.self.query.weight" in line]
    values = tensors_in(folder)["bert.encoder.layer.2.attention.self.query.weight"]
    name = "bert.encoder.layer.2.attention.self.query.weight"
    path = "bert/encoder/layer/self_attention/query/kernel[2]"
    assert line.startswith(f"ok: {path} [12, 3, 4] <- {name} [12, 12] mean ")
    assert f"mean {values.mean():.4g} deviation {values.std():.4g}" in line


def write_vocab(folder, names):
    save_pretrained(folder, pretrained("bert", "encoder"))
    names = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *names]
    (folder / "vocab.txt").write_text("".join(f"{name}\n" for name in names), encoding="utf-8")


@pytest.mark.parametrize(
    ("said", "tokens"),
    [
        ({}, "a e b"),
        ({"strip_accents": False}, "a é b"),
        ({"do_lower_case": False}, "A É b"),
        ({"do_lower_case": False, "strip_accents": True}, "A E b"),
    ],
)
def test_settings_beside_a_vocab_txt_are_honoured(tmp_path, said, tokens):
    write_vocab(tmp_path, list("aAeEéÉb"))
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(said))
    tokenizer = load_pretrained(tmp_path).tokenizer
    (found,) = tokenizer.encode(["A É b"])
    assert " ".join(tokenizer.pieces(found.ids.tolist())) == tokens


@pytest.mark.parametrize("key", ["do_lower_case", "strip_accents", "tokenize_chinese_chars"])
def test_settings_of_a_tokenizer_that_cannot_be_are_named(tmp_path, key):
    write_vocab(tmp_path, ["a"])
    (tmp_path / "tokenizer_config.json").write_text(json.dumps({key: "no"}))
    assert f"tokenizer_config.json: {key}='no' cannot be" in message_of(tmp_path)


@pytest.mark.parametrize(
    ("family", "lowercase", "said"),
    [
        ("bert", True, {"tokenizer_class": "BertTokenizer", "do_lower_case": True}),
        ("distilbert", False, {"tokenizer_class": "DistilBertTokenizer", "do_lower_case": False}),
        ("roberta", False, {"tokenizer_class": "PreTrainedTokenizerFast", "mask_token": "[MASK]"}),
    ],
)
def test_the_class_of_an_exported_tokenizer_says_how_words_are_made(
    tmp_path, family, lowercase, said
):
    tokenizer = WordPieceTokenizer.train(
        WORDS * 3, tmp_path / "t", vocab_size=40, lowercase=lowercase
    )
    own = dataclasses.replace(pretrained(family, "encoder"), tokenizer=tokenizer)
    save_pretrained(tmp_path / "out", own)
    written = json.loads((tmp_path / "out/tokenizer_config.json").read_text())
    assert said.items() <= written.items()
    assert written["model_max_length"] == 11
    assert ("token_type_ids" in written["model_input_names"]) == (family == "bert")


def test_positions_of_roberta_follow_the_padding_of_its_tokenizer(tmp_path):
    tokenizer = WordPieceTokenizer.train(WORDS * 3, tmp_path / "t", vocab_size=40, lowercase=True)
    own = dataclasses.replace(pretrained("roberta", "encoder"), tokenizer=tokenizer)
    save_pretrained(tmp_path / "out", own)
    loaded = load_pretrained(tmp_path / "out")
    assert (own.config.first_position, loaded.config.first_position) == (2, tokenizer.pad_id + 1)
    tokens = jnp.arange(11)[None]
    want, got = (x.model.apply({"params": x.params}, tokens) for x in (own, loaded))
    np.testing.assert_array_equal(got, want)


def test_a_head_without_its_class_is_read_as_the_kind_that_is_asked_for(tmp_path):
    own = pretrained("bert", "classification")
    save_pretrained(tmp_path, own)
    drop(tmp_path, "config.json", "architectures")
    assert_params_equal(load_pretrained(tmp_path, kind="classification").params, own.params)
    with pytest.warns(UserWarning, match="'encoder' has no use for classifier.bias, classifier.w"):
        encoder = load_pretrained(tmp_path, kind="encoder")
    assert_params_equal(encoder.params, own.params["bert"])
    with pytest.warns(UserWarning, match="has no use for classifier.bias"):
        assert load_pretrained(tmp_path).kind == "encoder"
    with pytest.raises(UserError, match="missing: qa_outputs.weight"):
        load_pretrained(tmp_path, kind="reading")


def test_a_head_that_we_do_not_have_is_left_out_and_said(folder):
    tensors = tensors_in(folder)
    tensors = {n: x for n, x in tensors.items() if not n.startswith("cls.predictions")}
    write_tensors(folder, tensors)
    edit(folder, architectures=["BertForNextSentencePrediction"])
    with pytest.warns(UserWarning, match="no use for cls.seq_relationship.bias, cls.seq_rel"):
        assert load_pretrained(folder).kind == "encoder"


@pytest.mark.parametrize("told_by", ["class", "tensors"])
@pytest.mark.parametrize("family", CONFIGS)
def test_a_model_type_that_is_not_named_is_found(tmp_path, family, told_by):
    own = pretrained(family, "masked_lm" if told_by == "tensors" else "encoder")
    save_pretrained(tmp_path, own)
    drop(tmp_path, "config.json", "model_type", *["architectures"] * (told_by == "tensors"))
    assert is_pretrained(tmp_path)
    with pytest.warns(UserWarning, match=f"names no model_type; it is read as '{family}'"):
        assert_params_equal(load_pretrained(tmp_path).params, own.params)


@pytest.mark.parametrize("family", CONFIGS)
def test_a_family_that_tensors_do_not_tell_is_not_guessed(tmp_path, family):
    save_pretrained(tmp_path, pretrained(family, "encoder"))
    drop(tmp_path, "config.json", "model_type", "architectures")
    if family in ("bert", "roberta"):
        assert "names no model_type, and neither" in message_of(tmp_path)
        return
    with pytest.warns(UserWarning, match=f"read as '{family}'"):
        assert load_pretrained(tmp_path).kind == "encoder"


@pytest.mark.parametrize("labels", [("no",), ("no", "yes", "maybe")])
def test_that_a_text_may_have_several_labels_is_kept(tmp_path, labels):
    own = dataclasses.replace(pretrained("bert", "classification"), labels=labels)
    head = {
        "head": {"dense": {"kernel": jnp.ones((12, len(labels))), "bias": jnp.ones(len(labels))}}
    }
    own = dataclasses.replace(own, params=own.params | head, multi_label=True)
    save_pretrained(tmp_path, own)
    written = json.loads((tmp_path / "config.json").read_text())
    assert written["problem_type"] == "multi_label_classification"
    loaded = load_pretrained(tmp_path)
    assert dataclasses.replace(loaded, params={}) == dataclasses.replace(own, params={})
    assert_params_equal(loaded.params, own.params)


def test_a_regression_of_several_numbers_is_refused(tmp_path):
    save_pretrained(tmp_path, pretrained("bert", "classification"))
    edit(tmp_path, problem_type="regression")
    assert "a regression of 3 numbers cannot be read" in message_of(tmp_path)


def test_whole_numbers_stand_for_fractions(folder):
    edit(folder, initializer_range=1, layer_norm_eps=1)
    config = load_pretrained(folder).config
    assert (config.init_std, config.norm_epsilon) == (1.0, 1.0)


@pytest.mark.parametrize("value", ["x", -1, 1, True])
def test_a_dropout_of_a_head_that_cannot_be_is_named(folder, value):
    edit(folder, classifier_dropout=value)
    assert f"classifier_dropout={value!r} cannot be" in message_of(folder)

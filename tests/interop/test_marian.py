"""Marian's sizes and tensors: their names and layout, other ways to write them, and wrong ones."""

import dataclasses

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pytest
from flax.traverse_util import flatten_dict

from tests.interop.marian_folder import (
    CONFIG,
    EMBEDDINGS,
    HEAD,
    PIECES,
    POSITIONS,
    SHARED,
    assert_loads,
    assert_params_equal,
    edit,
    message_of,
    pretrained,
    tensors_in,
    write_tensors,
)
from tests.interop.test_torch_files import new, view
from transformer_jax.interop.huggingface import load_pretrained, save_pretrained
from transformer_jax.interop.marian_config import config_from, settings_of
from transformer_jax.layers.positions import sinusoidal_positions


@pytest.mark.parametrize(
    "changes",
    [
        dict(activation="relu", scaled_embedding=True),
        dict(activation="gelu", dropout_rate=0.0),
        dict(activation="swish", encoder_layers=1, decoder_layers=1),
        dict(source_vocab_size=50, tied_output=False),
    ],
    ids=["relu", "gelu", "swish", "separate"],
)
def test_each_size_comes_back(changes):
    config = dataclasses.replace(CONFIG, **changes)
    assert config_from(settings_of(config), "here") == config


def test_without_sizes_of_its_own_the_decoder_has_the_encoders(tmp_path):
    config = dataclasses.replace(CONFIG, decoder_num_heads=None, decoder_feed_forward_dim=None)
    found = config_from(settings_of(config), "here")
    assert (found.decoder_num_heads, found.decoder_feed_forward_dim) == (2, 28)


@pytest.mark.parametrize("activation", ["gelu_new", "gelu_pytorch_tanh"])
def test_an_activation_may_have_several_names(activation):
    settings = {"activation_function": activation}
    assert config_from(settings, "here").activation == "gelu_tanh"
    assert config_from({"activation_function": "silu"}, "here").activation == "swish"


@pytest.mark.parametrize("tied", [True, False])
def test_biases_that_a_model_does_not_have_are_written_as_zeros(tmp_path, tokenizer, tied):
    sizes = {} if tied else dict(source_vocab_size=PIECES, tied_output=False)
    own = pretrained(tokenizer, attention_bias=False, logits_bias=False, **sizes)
    save_pretrained(tmp_path, own)
    loaded = load_pretrained(tmp_path)
    assert loaded.config.attention_bias and loaded.config.logits_bias
    found, want = (flatten_dict(x.params, sep="/") for x in (loaded, own))
    zeros = {path for path in found if path not in want}
    assert all(path.endswith("/bias") for path in zeros) and not any(found[p].any() for p in zeros)
    assert len(zeros) == 1 + 3 * 4  # the logits, and four projections of each attention
    for path, x in want.items():
        np.testing.assert_array_equal(found[path], x)


def test_tensors_have_the_names_and_layout_of_transformers(own, saved):
    """As MarianMTModel has them: a matrix is [out, in], and no tied or derived ones."""
    tensors = tensors_in(saved)
    projections = [f"{p}_proj" for p in "qkv"] + ["out_proj"]
    own_parts = [f"self_attn.{p}" for p in projections] + ["self_attn_layer_norm"]
    cross = [f"encoder_attn.{p}" for p in projections] + ["encoder_attn_layer_norm"]
    feed_forward = ["fc1", "fc2", "final_layer_norm"]
    parts = {"encoder": own_parts + feed_forward, "decoder": own_parts + cross + feed_forward}
    names = {
        f"model.{side}.layers.{i}.{part}.{leaf}"
        for side, layers in (("encoder", 2), ("decoder", 3))
        for i in range(layers)
        for part in parts[side]
        for leaf in ("weight", "bias")
    }
    assert set(tensors) == names | {SHARED, "final_logits_bias"}
    assert tensors["final_logits_bias"].shape == (1, CONFIG.vocab_size)
    layer = own.params["decoder"]["layer"]
    up = tensors["model.decoder.layers.2.fc1.weight"]
    np.testing.assert_array_equal(up, layer["feed_forward"]["up"]["kernel"][2].T)
    query = tensors["model.decoder.layers.1.encoder_attn.q_proj.weight"]
    ours = layer["cross_attention"]["query"]["kernel"][1]  # [D,N,H]
    np.testing.assert_array_equal(query[4:8], ours[:, 1].T)  # the second of heads of 4
    out = tensors["model.decoder.layers.0.self_attn.out_proj.weight"]
    np.testing.assert_array_equal(out[:, 4:8], layer["self_attention"]["out"]["kernel"][0, 1].T)


@pytest.mark.parametrize(
    "changes,message",
    [
        (dict(d_model=0), "model.width=0 must be"),
        (dict(d_model=21), "must be a multiple of model.num_heads=2"),
        (dict(d_model="20"), "d_model='20' cannot be"),
        (dict(d_model=20.0, encoder_layers=True), "d_model=20.0, encoder_layers=True cannot be"),
        (dict(vocab_size=-1), "model.vocab_size=-1 must be"),
        (dict(vocab_size=None), "vocab_size=None cannot be"),
        (dict(vocab_size=10**40), r"vocab_size=10+ cannot be"),
        (dict(decoder_vocab_size=2.5), "decoder_vocab_size=2.5 cannot be"),
        (dict(encoder_attention_heads=3), "must be a multiple of model.num_heads=3"),
        (dict(decoder_attention_heads=0), "model.decoder_num_heads=0 must be"),
        (dict(decoder_ffn_dim=[12]), r"decoder_ffn_dim=\[12\] cannot be"),
        (dict(decoder_layers=0), "model.decoder_layers=0 must be"),
        (dict(dropout=1), "model.dropout_rate=1 must be"),
        (dict(dropout="0.1"), "dropout='0.1' cannot be"),
        (dict(attention_dropout=2.0), "model.attention_dropout_rate=2.0 must be"),
        (dict(scale_embedding="yes"), "scale_embedding='yes' cannot be"),
        (dict(activation_function="mish"), "activation_function 'mish' is none of relu, gelu"),
        (dict(activation_function=["relu"]), r"activation_function=\['relu'\] cannot be"),
        (dict(tie_word_embeddings=False), "without tie_word_embeddings is no model"),
    ],
    ids=str,
)
def test_sizes_and_settings_that_cannot_be_are_named(folder, changes, message):
    edit(folder, **changes)
    message_of(folder, rf"config\.json: .*{message}")


def test_a_number_that_is_none_is_damage(folder):
    edit(folder, attention_dropout=float("nan"))
    message_of(folder, r"config\.json is damaged: it has the number NaN, which is not finite")


def test_a_config_that_leaves_sizes_out_means_marians_defaults():
    config = config_from({}, "here")
    assert (config.vocab_size, config.width, config.num_heads) == (58101, 1024, 16)
    assert (config.encoder_layers, config.feed_forward_dim) == (12, 4096)
    assert config.activation == "gelu" and not config.scaled_embedding
    assert config.tied_output and config.source_vocab_size is None


def test_separate_vocabularies_of_one_size_need_not_say_so():
    settings = dict(share_encoder_decoder_embeddings=False, vocab_size=70)
    for said in ({}, dict(decoder_vocab_size=None), dict(decoder_vocab_size=70)):
        config = config_from(settings | said, "here")
        assert (config.source_vocab_size, config.vocab_size) == (70, 70)
    config = config_from(settings | dict(decoder_vocab_size=60), "here")
    assert (config.source_vocab_size, config.vocab_size) == (70, 60)


def test_the_weights_of_a_body_alone_are_read(folder, own):
    tensors = tensors_in(folder)
    del tensors["final_logits_bias"]
    write_tensors(folder, {name.removeprefix("model."): x for name, x in tensors.items()})
    bias = jnp.zeros(CONFIG.vocab_size)
    embedding = own.params["token_embedding"] | {"bias": bias}
    want = own.params | {"token_embedding": embedding}
    assert_params_equal(load_pretrained(folder).params, want)


@pytest.mark.parametrize("name", [HEAD, *EMBEDDINGS.values()])
def test_the_shared_tensor_may_be_there_under_any_of_its_names(folder, own, name):
    tensors = tensors_in(folder)
    tensors[name] = tensors.pop(SHARED)
    write_tensors(folder, tensors)
    assert_loads(folder, own)


def test_equal_copies_are_read(folder, own):
    tensors = tensors_in(folder)
    copies = {name: tensors[SHARED] for name in (HEAD, *EMBEDDINGS.values())}
    write_tensors(folder, tensors | copies)
    assert_loads(folder, own)


def test_a_tied_output_of_separate_vocabularies_may_be_there_alone(tmp_path, separate):
    own = pretrained(separate, source_vocab_size=PIECES + 7)
    save_pretrained(tmp_path, own)
    tensors = tensors_in(tmp_path)
    tensors[HEAD] = tensors.pop(EMBEDDINGS["decoder"])
    write_tensors(tmp_path, tensors)
    assert_loads(tmp_path, own)


@pytest.mark.parametrize("name", [HEAD, *EMBEDDINGS.values()])
def test_copies_that_differ_are_named(folder, name):
    tensors = tensors_in(folder)
    other = tensors[SHARED].copy()
    other[-1, -1] += 1
    write_tensors(folder, tensors | {name: other})
    assert f"differ, and the config ties them: {SHARED} and {name}" in message_of(folder)


def waves(layout, count=40, width=CONFIG.width):
    return np.asarray(sinusoidal_positions(jnp.arange(count)[None], width, layout=layout)[0])


@pytest.mark.parametrize("dtype", [np.float32, np.float16])
@pytest.mark.parametrize("side", POSITIONS)
def test_a_table_of_sinusoids_in_halves_is_left_out(folder, own, side, dtype):
    table = waves("halves").astype(dtype)
    write_tensors(folder, tensors_in(folder) | {POSITIONS[side]: table})
    assert_loads(folder, own)


@pytest.mark.parametrize(
    "table",
    [
        waves("interleaved"),
        waves("halves")[1:],
        waves("halves") * 1.1,
        waves("halves", width=18),
        waves("halves")[0],
    ],
    ids=["interleaved", "shifted", "scaled", "narrow", "one_row"],
)
@pytest.mark.parametrize("side", POSITIONS)
def test_another_table_of_positions_is_named(folder, side, table):
    write_tensors(folder, tensors_in(folder) | {POSITIONS[side]: table.copy()})
    shape = list(table.shape)
    assert f"no table of sinusoids in halves: {POSITIONS[side]} {shape}" in message_of(folder)


@pytest.mark.parametrize("dtype", [np.float16, ml_dtypes.bfloat16, np.float64])
def test_weights_of_another_precision_become_float32(folder, own, dtype):
    write_tensors(folder, {name: x.astype(dtype) for name, x in tensors_in(folder).items()})
    want = jax.tree.map(lambda x: np.asarray(x).astype(dtype).astype(np.float32), own.params)
    assert_params_equal(load_pretrained(folder).params, want)


def test_torch_files_are_read_where_there_is_no_safetensors_file(folder, own):
    tensors = tensors_in(folder)
    values, storages = {}, {}
    for name, x in tensors.items():
        strides = tuple(step // x.itemsize for step in x.strides)
        values[name] = view(key=name, count=x.size, shape=x.shape, strides=strides)
        storages[name] = x.tobytes()
    new(folder / "pytorch_model.bin", values, storages)
    (folder / "model.safetensors").unlink()
    assert_loads(folder, own)
    write_tensors(folder, {name: x + 1 for name, x in tensors.items()})
    jax.tree.map(
        lambda got, want: np.testing.assert_array_equal(got, want + 1),
        load_pretrained(folder).params,
        own.params,
    )


def test_missing_unknown_and_misshapen_tensors_are_named_together(folder):
    tensors = tensors_in(folder)
    fc1, fc2 = (f"model.encoder.layers.0.{name}.weight" for name in ("fc1", "fc2"))
    bias, gone = "model.decoder.layers.2.fc1.bias", "model.encoder.layers.1.fc1.bias"
    tensors[fc1], tensors[fc2] = (tensors[name].T.copy() for name in (fc1, fc2))
    tensors[bias] = tensors[bias][None]
    tensors["final_logits_bias"] = tensors["final_logits_bias"][0]
    del tensors[gone]
    tensors["model.encoder.layernorm_embedding.weight"] = np.ones(20, np.float32)
    tensors["extra"] = np.array(1.0, np.float32)
    write_tensors(folder, tensors)
    message = message_of(folder, "model.safetensors does not hold the model that its config.json")
    assert sorted(message.split("\n  ")[1:]) == [
        f"misshapen: final_logits_bias [{CONFIG.vocab_size}], not [1, {CONFIG.vocab_size}]",
        f"misshapen: {bias} [1, 12], not [12]",
        f"misshapen: {fc1} [20, 28], not [28, 20]",
        f"misshapen: {fc2} [28, 20], not [20, 28]",
        f"missing: {gone} [28]",
        "unknown: extra []",
        "unknown: model.encoder.layernorm_embedding.weight [20]",
    ]


def test_a_missing_embedding_is_named(folder):
    tensors = tensors_in(folder)
    del tensors[SHARED]
    write_tensors(folder, tensors)
    assert f"missing: {SHARED} [{CONFIG.vocab_size}, 20]" in message_of(folder)


def test_an_output_that_is_not_tied_must_be_there(tmp_path, separate):
    save_pretrained(tmp_path, pretrained(separate, source_vocab_size=40, tied_output=False))
    tensors = tensors_in(tmp_path)
    del tensors[HEAD]
    write_tensors(tmp_path, tensors)
    assert f"missing: {HEAD} [{CONFIG.vocab_size}, 20]" in message_of(tmp_path)


@pytest.mark.parametrize("count", [20, 21, 30])
def test_at_most_twenty_tensors_are_shown(folder, count):
    extra = {f"extra{i}": np.ones(1, np.float32) for i in range(count)}
    write_tensors(folder, tensors_in(folder) | extra)
    lines = message_of(folder).split("\n  ")[1:]
    more = [f"and {count - 20} more"] if count > 20 else []
    assert [line.partition(":")[0] for line in lines] == ["unknown"] * 20 + more


def test_a_model_with_more_layers_than_its_file_is_an_error(folder):
    edit(folder, encoder_layers=3)
    message = message_of(folder)
    assert message.count("missing: model.encoder.layers.2.") == 16

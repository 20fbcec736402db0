"""RoBERTa of fairseq: files written here by hand, what is read of them, and what is refused."""

import json
import pickle
import random

import numpy as np
import pytest

from tests.interop.test_torch_files import Raw, call, name, new, old, old_view, opcodes, view
from transformer_jax.errors import UserError
from transformer_jax.interop.bert import bert_from
from transformer_jax.interop.fairseq import fairseq_vocabulary, read_fairseq, read_fairseq_dict
from transformer_jax.interop.torch_files import read_torch_checkpoint, read_torch_file

D, F, L, V, T = 6, 10, 2, 9, 5
ARGS = {
    "activation_dropout": 0.0,
    "activation_fn": "gelu",
    "arch": "roberta_base",
    "attention_dropout": 0.2,
    "betas": (0.9, 0.98),
    "dropout": 0.3,
    "encoder_attention_heads": 2,
    "encoder_embed_dim": D,
    "encoder_ffn_embed_dim": F,
    "encoder_layers": L,
    "lr": [0.1],
    "max_positions": T,
    "restore_file": None,
}
SIDE = "encoder.sentence_encoder"
SQUARES = ("q_proj", "k_proj", "v_proj", "out_proj")


def namespace(args):
    """How Python pickles an argparse.Namespace."""
    return Raw(name("argparse", "Namespace") + b")\x81" + opcodes(args) + b"b")


def state(packed=False, prefix="encoder", norm="layernorm_embedding"):
    """A small model's tensors under fairseq's names."""
    side = f"{prefix}.sentence_encoder"
    shapes = {
        f"{side}.embed_tokens.weight": (V, D),
        f"{side}.embed_positions.weight": (T + 2, D),
        f"{side}.{norm}.weight": (D,),
        f"{side}.{norm}.bias": (D,),
    }
    for i in range(L):
        layer = f"{side}.layers.{i}"
        parts = {f"self_attn.{part}": (D, D) for part in SQUARES}
        parts |= {"fc1": (F, D), "fc2": (D, F)}
        if packed:
            shapes[f"{layer}.self_attn.in_proj_weight"] = (3 * D, D)
            shapes[f"{layer}.self_attn.in_proj_bias"] = (3 * D,)
            parts = {part: shape for part, shape in parts.items() if part[10:] not in SQUARES[:3]}
        for part, shape in parts.items():
            shapes[f"{layer}.{part}.weight"] = shape
            shapes[f"{layer}.{part}.bias"] = shape[:1]
        for part in ("self_attn_layer_norm", "final_layer_norm"):
            shapes |= {f"{layer}.{part}.weight": (D,), f"{layer}.{part}.bias": (D,)}
    shapes |= {f"{prefix}.lm_head.bias": (V,), f"{prefix}.lm_head.dense.weight": (D, D)}
    parts = ("dense.bias", "layer_norm.weight", "layer_norm.bias")
    shapes |= {f"{prefix}.lm_head.{part}": (D,) for part in parts}
    rng = np.random.default_rng(0)
    return {key: rng.normal(size=shape).astype(np.float32) for key, shape in shapes.items()}


def write(path, tensors, args=ARGS, old_format=False, **more):
    """Writes a checkpoint: each tensor has its own storage; `more` are further entries."""
    make, to = (old_view, old) if old_format else (view, new)
    entries, storages = {}, {}
    for i, (key, value) in enumerate(tensors.items()):
        strides = tuple(stride // value.itemsize for stride in value.strides)
        entries[key] = make(key=str(i), count=value.size, shape=value.shape, strides=strides)
        storages[str(i)] = value.tobytes()
    args = {"args": namespace(args) if isinstance(args, dict) else args}
    return to(path, args | {"model": entries} | more, storages)


@pytest.fixture
def path(tmp_path):
    return tmp_path / "model.pt"


@pytest.mark.parametrize("old_format", [False, True])
@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize(
    "prefix, norm", [("decoder", "emb_layer_norm"), ("encoder", "layernorm_embedding")]
)
def test_every_tensor_has_the_name_that_it_has_in_transformers(
    path, prefix, norm, packed, old_format
):
    given = state(packed, prefix, norm)
    tensors = read_fairseq(write(path, given, old_format=old_format))[1]
    side, head = f"{prefix}.sentence_encoder", f"{prefix}.lm_head"
    expected = {
        "roberta.embeddings.word_embeddings.weight": given[f"{side}.embed_tokens.weight"],
        "roberta.embeddings.position_embeddings.weight": given[f"{side}.embed_positions.weight"],
        "roberta.embeddings.token_type_embeddings.weight": np.zeros((1, D)),
        "lm_head.bias": given[f"{head}.bias"],
    }
    pairs = {f"{side}.{norm}": "roberta.embeddings.LayerNorm"}
    pairs |= {f"{head}.dense": "lm_head.dense", f"{head}.layer_norm": "lm_head.layer_norm"}
    for i in range(L):
        theirs, new_name = f"{side}.layers.{i}", f"roberta.encoder.layer.{i}"
        pairs[f"{theirs}.self_attn.out_proj"] = f"{new_name}.attention.output.dense"
        pairs[f"{theirs}.self_attn_layer_norm"] = f"{new_name}.attention.output.LayerNorm"
        pairs[f"{theirs}.fc1"] = f"{new_name}.intermediate.dense"
        pairs[f"{theirs}.fc2"] = f"{new_name}.output.dense"
        pairs[f"{theirs}.final_layer_norm"] = f"{new_name}.output.LayerNorm"
        for k, part in enumerate(("query", "key", "value")):
            target = f"{new_name}.attention.self.{part}"
            if packed:
                for leaf in ("weight", "bias"):
                    rows = given[f"{theirs}.self_attn.in_proj_{leaf}"][k * D : (k + 1) * D]
                    expected[f"{target}.{leaf}"] = rows
            else:
                pairs[f"{theirs}.self_attn.{part[0]}_proj"] = target
    for theirs, new_name in pairs.items():
        for leaf in ("weight", "bias"):
            expected[f"{new_name}.{leaf}"] = given[f"{theirs}.{leaf}"]
    assert tensors.keys() == expected.keys()
    for key, value in expected.items():
        np.testing.assert_array_equal(tensors[key], value, err_msg=key)


def test_the_settings_are_those_of_the_args(path):
    assert read_fairseq(write(path, state()))[0] == {
        "model_type": "roberta",
        "vocab_size": V,
        "hidden_size": D,
        "num_hidden_layers": L,
        "num_attention_heads": 2,
        "intermediate_size": F,
        "max_position_embeddings": T + 2,
        "type_vocab_size": 1,
        "hidden_act": "gelu",
        "hidden_dropout_prob": 0.3,
        "attention_probs_dropout_prob": 0.2,
        "layer_norm_eps": 1e-5,
        "bos_token_id": 0,
        "pad_token_id": 1,
        "eos_token_id": 2,
    }


def test_a_model_is_made_of_both(path):
    settings, tensors = read_fairseq(write(path, state()))
    found = bert_from(tensors, settings, None, where="args", weights=str(path))
    assert found.kind == "masked_lm"
    assert found.config.max_positions == T
    assert found.config.first_position == 2
    spoiled = tensors | {"roberta.encoder.layer.1.output.dense.weight": np.zeros((D, F + 1))}
    with pytest.raises(UserError, match="misshapen: roberta.encoder.layer.1.output.dense.weight"):
        bert_from(spoiled, settings, None, where="args", weights=str(path))


def test_a_tied_table_stays_one_and_another_is_seen_by_the_reader(path):
    given = state()
    table = given["encoder.sentence_encoder.embed_tokens.weight"]
    settings, tensors = read_fairseq(write(path, given | {"encoder.lm_head.weight": table}))
    np.testing.assert_array_equal(tensors["lm_head.decoder.weight"], table)
    bert_from(tensors, settings, None, where="args", weights=str(path))
    other = write(path, given | {"encoder.lm_head.weight": table + 1})
    settings, tensors = read_fairseq(other)
    with pytest.raises(UserError, match="ties them"):
        bert_from(tensors, settings, None, where="args", weights=str(path))


def test_positions_are_counted_by_the_length_of_samples_where_they_are_not_stated(path):
    args = {key: value for key, value in ARGS.items() if key != "max_positions"}
    settings = read_fairseq(write(path, state(), args | {"tokens_per_sample": T}))[0]
    assert settings["max_position_embeddings"] == T + 2


def test_heads_of_tasks_are_left_out_with_a_warning_and_buffers_without(path):
    one = np.ones(1, np.float32)
    heads = {f"classification_heads.mnli.{part}.bias": one for part in ("dense", "out_proj")}
    buffers = {f"{SIDE}.embed_positions._float_tensor": one, f"{SIDE}.version": one}
    with pytest.warns(UserWarning, match=r"without classification_heads\.mnli\.$"):
        tensors = read_fairseq(write(path, state() | heads | buffers))[1]
    assert tensors.keys() == read_fairseq(write(path, state()))[1].keys()


def test_what_only_a_training_had_is_named(path):
    with pytest.warns(UserWarning, match=r"activation_dropout=0\.1, encoder_layerdrop=0\.2 of"):
        args = ARGS | {"activation_dropout": 0.1, "encoder_layerdrop": 0.2}
        read_fairseq(write(path, state(), args))


ODD = {
    "activation_fn": "relu",
    "encoder_normalize_before": True,
    "encoder_learned_pos": False,
    "no_token_positional_embeddings": True,
    "layernorm_embedding": False,
    "no_scale_embedding": False,
    "untie_weights_roberta": True,
    "adaptive_input": True,
    "quant_noise_scalar": 0.5,
}


@pytest.mark.parametrize("setting", ODD)
def test_a_setting_that_no_roberta_has_is_refused_by_name(path, setting):
    with pytest.raises(UserError, match=rf"cannot have {setting}={ODD[setting]!r}\."):
        read_fairseq(write(path, state(), ARGS | {setting: ODD[setting]}))


def test_an_early_encoder_did_not_look_at_where_its_norms_should_be(path):
    """It passes a constant: RobertaEncoder of fairseq 0.9.0 and 0.10.0."""
    early = state(prefix="decoder", norm="emb_layer_norm")
    read_fairseq(write(path, early, ARGS | {"encoder_normalize_before": True}))
    with pytest.raises(UserError, match="activation_fn='relu'"):
        read_fairseq(write(path, early, ARGS | {"activation_fn": "relu"}))


@pytest.mark.parametrize(
    "changes, message",
    [
        ({"encoder_layers": "2"}, "have encoder_layers='2'"),
        ({"encoder_embed_dim": None}, "have encoder_embed_dim=None"),
        ({"max_positions": T + 1}, f"max_positions={T + 1}.*{T} positions"),
        ({"max_positions": (1,)}, "have max_positions=a tuple"),
    ],
)
def test_args_without_the_sizes_of_the_model_are_refused(path, changes, message):
    with pytest.raises(UserError, match=message):
        read_fairseq(write(path, state(), ARGS | changes))


@pytest.mark.parametrize(
    "changes, message",
    [
        ({f"{SIDE}.layer_norm.weight": (D,)}, rf"unknown: {SIDE}.layer_norm.weight \[6\]"),
        ({f"{SIDE}.segment_embeddings.weight": (2, D)}, "unknown: .*segment_embeddings"),
        ({f"{SIDE}.layers.0.self_attn.bias_k": (1, 1, D)}, "unknown: .*bias_k"),
        ({f"{SIDE}.embed_tokens.bias": (V,)}, "unknown: .*embed_tokens.bias"),
        ({f"{SIDE}.layers.x.fc1.weight": (F, D)}, "unknown: .*layers.x"),
        ({"other.lm_head.bias": (V,)}, "unknown: other.lm_head.bias"),
        ({"lm_head.bias": (V,)}, "unknown: lm_head.bias"),
        ({"decoder.lm_head.bias": (V,)}, "there twice: decoder.lm_head.bias"),
        ({f"{SIDE}.emb_layer_norm.bias": (D,)}, "there twice: .*emb_layer_norm.bias"),
        ({f"{SIDE}.layers.0.self_attn.in_proj_bias": (3 * D,)}, "there twice: .*in_proj_bias"),
        ({f"{SIDE}.layers.9.self_attn.in_proj_bias": (D + 1,)}, "not three in one: .*in_proj_bias"),
        ({f"{SIDE}.layers.9.self_attn.in_proj_bias": ()}, "not three in one: .*in_proj_bias"),
        ({f"{SIDE}.embed_tokens.weight": (V,)}, "no table: .*word_embeddings"),
        ({f"{SIDE}.embed_positions.weight": None}, "no table: .*position_embeddings"),
    ],
)
def test_tensors_that_are_unknown_or_misshapen_are_named(path, changes, message):
    tensors = state()
    for key, shape in changes.items():
        tensors.pop(key, None)
        if shape is not None:
            tensors[key] = np.ones(shape, np.float32)
    with pytest.raises(UserError, match=message):
        read_fairseq(write(path, tensors))


def test_a_file_without_a_model_or_settings_says_what_it_has(path):
    with pytest.raises(UserError, match="has no entry 'model'; it is a dict of 'args', 'state'"):
        read_fairseq(new(path, {"args": namespace(ARGS), "state": {}}, {}))
    with pytest.raises(UserError, match="has no entry 'model'; it is a tuple"):
        read_fairseq(new(path, (1, 2), {}))
    with pytest.raises(UserError, match="'args' is a NoneType"):
        read_fairseq(write(path, state(), args=None))
    with pytest.raises(UserError, match="'args' is a Tensor"):
        read_fairseq(write(path, state(), args=view(count=V * D)))
    with pytest.raises(UserError, match="1 entries that are not tensors.*'step'"):
        read_fairseq(new(path, {"args": namespace(ARGS), "model": {"step": 1}}, {}))
    with pytest.raises(UserError, match="model.pt cannot be read"):
        read_fairseq(path.parent / "other" / "model.pt")


def test_objects_of_any_class_are_records_of_what_the_file_says(path):
    """A subclass of dict, a subclass of list, an enum, a bare class, an object with slots."""
    meters = Raw(call(name("fairseq.meters", "Meters")) + opcodes("a") + opcodes(1) + b"s")
    items = Raw(call(name("some", "List"), 7) + b"(" + opcodes(1) + opcodes(2) + b"e")
    slots = Raw(name("some.where", "Slots") + b")\x81" + opcodes((None, {"x": 1})) + b"b")
    extra = {"meters": meters, "items": items, "slots": slots, "class": name("no", "Class")}
    extra |= {"enum": call(name("some", "Enum"), "x"), "state": {0: {"step": 1}, 2**70: 3}}
    held = read_torch_checkpoint(write(path, state(), extra_state=extra), "model")[0]
    found = held["extra_state"]
    assert (found["meters"].name, found["meters"].arguments) == ("fairseq.meters.Meters", ())
    assert (found["items"].name, found["items"].arguments) == ("some.List", (7,))
    assert (found["slots"].name, found["slots"].state) == ("some.where.Slots", (None, {"x": 1}))
    assert found["class"].name == "no.Class"
    assert found["enum"].arguments == ("x",)
    assert found["state"] == {0: {"step": 1}, 2**70: 3}
    assert held["args"].state == ARGS


@pytest.mark.parametrize("old_format", [False, True])
def test_only_the_tensors_of_the_model_are_read(path, old_format):
    """Those of the optimizer are twice as many: in a zip they may be spoiled, in an old file they
    are stepped over."""
    spare = old_view if old_format else view
    given = {"w": np.arange(6, dtype=np.float32)}
    storages = {"a": b"spoiled!" * 3, "1": given["w"].tobytes(), "2": b"spoiled!" * 3}
    first, last = (spare(key=key, count=6) for key in "a2")
    held = {"first": first, "model": {"w": spare(key="1")}, "last": {0: last}}
    (old if old_format else new)(path, held, storages)
    if not old_format:
        path.write_bytes(path.read_bytes().replace(b"spoiled", b"SPOILED"))  # a wrong checksum
    tensors = read_torch_checkpoint(path, "model")[1]
    assert list(tensors) == ["w"]
    np.testing.assert_array_equal(tensors["w"].ravel(), given["w"])


def test_a_dict_of_tensors_is_still_read_as_strictly(path):
    write(path, state())
    with pytest.raises(UserError, match="refers to 'argparse.Namespace'"):
        read_torch_file(path)
    with pytest.raises(UserError, match="a key that is a int"):
        read_torch_file(new(path, {"w": view(), 0: view()}, {"0": bytes(24)}))
    with pytest.raises(UserError, match="opcode NEWOBJ"):
        read_torch_file(new(path, {"w": Raw(opcodes(0) + b")\x81")}, {}))


def made(kind, *arguments):
    return Raw(name("builtins", kind) + opcodes(arguments) + b"\x81")


HARMFUL = {
    "os.system": lambda text: call(name("os", "system"), f"touch {text}"),
    "eval": lambda text: call(name("builtins", "eval"), f"open({text!r}, 'w')"),
    "open": lambda text: call(name("builtins", "open"), text, "w"),
    "NEWOBJ": lambda text: made("bytes", made("map", name("os", "system"), [f"touch {text}"])),
    "OBJ": lambda text: Raw(b"(cbuiltins\nopen\n" + opcodes(text) + b"Vw\no"),
    "INST": lambda text: Raw(b"(" + opcodes(text) + b"Vw\nibuiltins\nopen\n"),
    "STACK_GLOBAL": lambda text: Raw(
        b"\x8c\x08builtins\x8c\x04open\x93" + opcodes((text, "w")) + b"R"
    ),
}


@pytest.mark.parametrize("old_format", [False, True])
@pytest.mark.parametrize("kind", HARMFUL)
def test_a_harmful_pickle_is_refused_or_inert_and_never_run(tmp_path, path, kind, old_format):
    trace = tmp_path / "trace"
    payload = HARMFUL[kind](str(trace))
    pickle.loads(b"\x80\x02" + payload + b".")  # it would do harm
    assert trace.exists()
    trace.unlink()
    refused = pytest.raises(UserError, match="'args' is a Record|has the pickle opcode")
    with refused:
        read_fairseq(write(path, state(), args=payload, old_format=old_format))
    with pytest.raises(UserError, match="not tensors|has the pickle opcode"):
        read_fairseq(new(path, {"args": namespace(ARGS), "model": {"w": payload}}, {}))
    try:
        within = ARGS | {"user_dir": payload}
        settings = read_fairseq(write(path, state(), within, old_format=old_format))[0]
    except UserError as error:
        assert "has the pickle opcode" in str(error)
    else:
        assert settings["hidden_size"] == D
    assert not trace.exists()


DEEP = b")" + b"\x85" * 200_000  # tuples: to hash, print or compare them overflows the stack


@pytest.mark.parametrize(
    "changes, message",
    [
        ({"activation_fn": Raw(DEEP)}, "activation_fn=a tuple"),
        ({"encoder_layers": Raw(DEEP)}, "encoder_layers=a tuple"),
        ({"other": Raw(b"}" + DEEP + b"NK\x01s")}, "damaged|key that is"),
        ({"other": Raw(b"}" + DEEP + b"Ns")}, "key that is a tuple"),
        ({"other": Raw(b"]K\x00K\x01s")}, "key that is a int"),
        ({"other": Raw(opcodes(1) + b"}b")}, "sets attributes of a int"),
    ],
)
def test_odd_values_end_in_a_user_error(path, changes, message):
    with pytest.raises(UserError, match=message):
        read_fairseq(write(path, state(), ARGS | changes))


@pytest.mark.parametrize("old_format", [False, True])
def test_a_file_that_is_cut_anywhere_ends_in_a_user_error(path, old_format):
    data = write(path, state(), old_format=old_format).read_bytes()
    for end in [*range(0, len(data), 37), len(data) - 1]:
        path.write_bytes(data[:end])
        with pytest.raises(UserError):
            read_fairseq(path)


@pytest.mark.filterwarnings("ignore")  # a damaged name may be that of a head
@pytest.mark.parametrize("old_format", [False, True])
def test_damaged_bytes_end_in_a_user_error_or_tensors(path, old_format):
    data = write(path, state(), old_format=old_format).read_bytes()
    end = data.rfind(b"lm_head")  # within the pickle
    rng, refused = random.Random(0), 0
    for _ in range(500):
        damaged = bytearray(data)
        damaged[rng.randrange(end)] = rng.choice([0, 1, 0x7F, 0xFF, rng.randrange(256)])
        path.write_bytes(damaged)
        try:
            tensors = read_fairseq(path)[1]
        except UserError:
            refused += 1
        else:
            assert all(array.tobytes() is not None for array in tensors.values())
    assert refused > 100


def symbols(path, text):
    path.write_text(text, encoding="utf-8")
    return path


def test_ids_of_a_dictionary_begin_behind_the_special_symbols(tmp_path):
    path = symbols(tmp_path / "dict.txt", "13 850314119\n\u3000 7\na b 3\nmadeupword0000 0\n")
    expected = ["<s>", "<pad>", "</s>", "<unk>", "13", "\u3000", "a b", "madeupword0000", "<mask>"]
    assert read_fairseq_dict(path) == expected
    within = symbols(tmp_path / "dict.txt", "<mask> 0\n13 1")
    assert read_fairseq_dict(within) == ["<s>", "<pad>", "</s>", "<unk>", "<mask>", "13"]


@pytest.mark.parametrize(
    "text, message",
    [
        ("13 5\n12\n", r"dict\.txt:2: '12' is no symbol and its count"),
        ("13 5\n\n12 5\n", r"dict\.txt:2: ''"),
        ("13 five\n", r"dict\.txt:1: '13 five'"),
        ("13 5\n12 4\n13 3\n", r"dict\.txt:3: '13' has the id 4 already"),
        ("</s> 5\n", r"dict\.txt:1: '</s>' has the id 2 already"),
    ],
)
def test_a_bad_line_of_a_dictionary_is_named(tmp_path, text, message):
    with pytest.raises(UserError, match=message):
        read_fairseq_dict(symbols(tmp_path / "dict.txt", text))


def test_a_dictionary_that_is_no_text_or_not_there_is_named(tmp_path):
    path = tmp_path / "dict.txt"
    with pytest.raises(UserError, match=r"dict\.txt cannot be read"):
        read_fairseq_dict(path)
    path.write_bytes(b"\xff\xfe 1\n")
    with pytest.raises(UserError, match=r"dict\.txt is no UTF-8"):
        read_fairseq_dict(path)


@pytest.fixture
def encoder(tmp_path):
    tokens = {"!": 0, "\u0120the": 1, ".": 2, "<|endoftext|>": 3, "<unk>": 4}
    return symbols(tmp_path / "encoder.json", json.dumps(tokens))


def test_a_vocabulary_has_the_texts_of_gpt2_and_the_ids_of_fairseq(tmp_path, encoder):
    path = symbols(tmp_path / "dict.txt", "2 9\n1 8\n0 7\n3 0\nmadeupword0000 0\n")
    assert fairseq_vocabulary(path, encoder) == {
        "<s>": 0,
        "<pad>": 1,
        "</s>": 2,
        "<unk>": 3,
        ".": 4,
        "\u0120the": 5,
        "!": 6,
        "<|endoftext|>": 7,
        "madeupword0000": 8,
        "<mask>": 9,
    }


def test_a_symbol_that_is_no_token_of_gpt2_is_named(tmp_path, encoder):
    path = tmp_path / "dict.txt"
    with pytest.raises(UserError, match=r"dict\.txt:2: '5' is the number of no token of .*r\.json"):
        fairseq_vocabulary(symbols(path, "2 9\n5 8\n"), encoder)
    with pytest.raises(UserError, match=r"dict\.txt:1: '\u2581the' is the number of no token"):
        fairseq_vocabulary(symbols(path, "\u2581the 9\n"), encoder)
    with pytest.raises(UserError, match=r"dict\.txt:2: the token '<unk>' is there twice"):
        fairseq_vocabulary(symbols(path, "2 9\n4 8\n"), encoder)
    with pytest.raises(UserError, match=r"encoder\.json gives two tokens one number"):
        fairseq_vocabulary(path, symbols(encoder, '{"a": 2, "b": 2}'))
    with pytest.raises(UserError, match=r"none\.json is no file"):
        fairseq_vocabulary(path, tmp_path / "none.json")

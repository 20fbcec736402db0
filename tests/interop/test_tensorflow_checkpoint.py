"""Google's BERT and ALBERT: names, settings and outputs; tests/parity has TensorFlow's files."""

import json
import sys

import jax.numpy as jnp
import numpy as np
import pytest

from transformer_jax.errors import UserError
from transformer_jax.interop.bert import bert_from
from transformer_jax.interop.tensorflow_checkpoint import (
    read_tensorflow_checkpoint,
    settings_from,
    tensors_from,
)

V, D, E, F, L, N, T, TYPES = 17, 12, 5, 20, 3, 3, 8, 2
GOOGLE = {
    "attention_probs_dropout_prob": 0.1,
    "hidden_act": "gelu",
    "hidden_dropout_prob": 0.1,
    "hidden_size": D,
    "initializer_range": 0.02,
    "intermediate_size": F,
    "max_position_embeddings": T,
    "num_attention_heads": N,
    "num_hidden_layers": L,
    "type_vocab_size": TYPES,
    "vocab_size": V,
}
CONFIGS = {
    "bert": GOOGLE,
    "albert": GOOGLE  # config/base/albert_config.json of google-research/albert
    | {
        "attention_probs_dropout_prob": 0,
        "hidden_dropout_prob": 0,
        "embedding_size": E,
        "num_hidden_groups": 1,
        "net_structure_type": 0,
        "gap_size": 0,
        "num_memory_blocks": 0,
        "inner_group_num": 1,
        "down_scale_factor": 1,
    },
}
FAMILIES = pytest.mark.parametrize("family", CONFIGS)
ALBERT_LAYER = "bert/encoder/transformer/group_0/inner_group_0"


def variables(family):
    """A small model's variables, as modeling.py and run_pretraining.py name them."""
    albert = family == "albert"
    width = E if albert else D
    matrices, norms = {"bert/pooler/dense": (D, D)}, {"bert/embeddings/LayerNorm": width}
    matrices["cls/predictions/transform/dense"] = (D, width)
    norms["cls/predictions/transform/LayerNorm"] = width
    if albert:
        matrices["bert/encoder/embedding_hidden_mapping_in"] = (E, D)
    for i in range(1 if albert else L):
        names = layer_names(family, i)
        squares = (*names["qkv"], names["out"])
        matrices |= dict.fromkeys(squares, (D, D))
        matrices |= {names["up"]: (D, F), names["down"]: (F, D)}
        norms |= dict.fromkeys((names["norm"], names["last_norm"]), D)
    shapes = {f"{name}/kernel": shape for name, shape in matrices.items()}
    shapes |= {f"{name}/bias": shape[1:] for name, shape in matrices.items()}
    for leaf in ("gamma", "beta"):
        shapes |= {f"{name}/{leaf}": (size,) for name, size in norms.items()}
    rows = {"word": V, "position": T, "token_type": TYPES}
    shapes |= {f"bert/embeddings/{name}_embeddings": (n, width) for name, n in rows.items()}
    shapes |= {
        "cls/predictions/output_bias": (V,),
        "cls/seq_relationship/output_weights": (2, D),
        "cls/seq_relationship/output_bias": (2,),
    }
    rng = np.random.default_rng(0)
    return {name: rng.normal(0, 0.5, shape).astype(np.float32) for name, shape in shapes.items()}


def layer_names(family, i):
    """The modules of a layer."""
    if family == "albert":
        layer, attention = ALBERT_LAYER, f"{ALBERT_LAYER}/attention_1"
        rest = {
            "norm": f"{layer}/LayerNorm",
            "up": f"{layer}/ffn_1/intermediate/dense",
            "down": f"{layer}/ffn_1/intermediate/output/dense",
            "last_norm": f"{layer}/LayerNorm_1",
        }
    else:
        layer, attention = f"bert/encoder/layer_{i}", f"bert/encoder/layer_{i}/attention"
        rest = {
            "norm": f"{attention}/output/LayerNorm",
            "up": f"{layer}/intermediate/dense",
            "down": f"{layer}/output/dense",
            "last_norm": f"{layer}/output/LayerNorm",
        }
    qkv = [f"{attention}/self/{part}" for part in ("query", "key", "value")]
    return {"qkv": qkv, "out": f"{attention}/output/dense"} | rest


def dense(v, name, x):
    return x @ v[f"{name}/kernel"] + v[f"{name}/bias"]


def norm(v, name, x):
    x = x - x.mean(-1, keepdims=True)
    x = x / np.sqrt((x**2).mean(-1, keepdims=True) + 1e-12)
    return x * v[f"{name}/gamma"] + v[f"{name}/beta"]


def tanh_gelu(x):
    return x * 0.5 * (1 + np.tanh(np.sqrt(2 / np.pi) * (x + 0.044715 * x**3)))


def erf_gelu(x):
    """x times the normal distribution's integral, by the trapezoidal rule."""
    steps = np.linspace(0, 1, 2001)
    density = np.exp(-((x[..., None] * steps) ** 2) / 2) / np.sqrt(2 * np.pi)
    return x * (0.5 + x * np.trapezoid(density, steps, axis=-1))


def attend(q, k, v):
    """One example's attention: [T,D] each, head by head."""
    heads = []
    for part in np.split(np.arange(D), N):
        logits = q[:, part] @ k[:, part].T / np.sqrt(D // N)
        weights = np.exp(logits - logits.max(-1, keepdims=True))
        heads.append(weights / weights.sum(-1, keepdims=True) @ v[:, part])
    return np.concatenate(heads, -1)


def google(v, family, tokens, types):
    """The two models of Google's code, for one example without padding: logits [T,V], [2]."""
    act = erf_gelu if family == "bert" else tanh_gelu
    v = {name: x.astype(np.float64) for name, x in v.items()}
    tables = [
        v[f"bert/embeddings/{part}_embeddings"] for part in ("word", "position", "token_type")
    ]
    x = tables[0][tokens] + tables[1][: len(tokens)] + tables[2][types]
    x = norm(v, "bert/embeddings/LayerNorm", x)
    if family == "albert":
        x = dense(v, "bert/encoder/embedding_hidden_mapping_in", x)
    for i in range(L):
        names = layer_names(family, i)
        attended = attend(*(dense(v, name, x) for name in names["qkv"]))
        x = norm(v, names["norm"], x + dense(v, names["out"], attended))
        x = norm(v, names["last_norm"], x + dense(v, names["down"], act(dense(v, names["up"], x))))
    pooled = np.tanh(dense(v, "bert/pooler/dense", x[0]))
    pair = pooled @ v["cls/seq_relationship/output_weights"].T
    hidden = act(dense(v, "cls/predictions/transform/dense", x))
    hidden = norm(v, "cls/predictions/transform/LayerNorm", hidden)
    logits = hidden @ tables[0].T + v["cls/predictions/output_bias"]
    return logits, pair + v["cls/seq_relationship/output_bias"]


@FAMILIES
def test_a_model_of_the_variables_gives_the_logits_of_googles_model(family):
    v = variables(family)
    settings = settings_from(CONFIGS[family], family, "config")
    tensors = tensors_from(v, family, "checkpoint")
    assert len(tensors) == len(v)
    found = bert_from(tensors, settings, None, where="config", weights="checkpoint")
    assert found.kind == "pretraining"
    tokens = np.array([2, 5, 11, 3, 16, 4, 3])
    types = np.array([0, 0, 0, 0, 1, 1, 1])
    logits, pairs = found.model.apply(
        {"params": found.params}, jnp.asarray(tokens)[None], token_types=jnp.asarray(types)[None]
    )
    expected, expected_pair = google(v, family, tokens, types)
    np.testing.assert_allclose(logits[0], expected, atol=3e-5, rtol=1e-5)
    np.testing.assert_allclose(np.ravel(pairs), expected_pair, atol=3e-5, rtol=1e-5)


@FAMILIES
def test_names_and_layouts_are_those_of_transformers(family):
    v = variables(family)
    tensors = tensors_from(v, family, "checkpoint")
    if family == "bert":
        same = {
            "bert.embeddings.LayerNorm.weight": "bert/embeddings/LayerNorm/gamma",
            "bert.encoder.layer.2.attention.output.LayerNorm.bias": (
                "bert/encoder/layer_2/attention/output/LayerNorm/beta"
            ),
            "cls.predictions.bias": "cls/predictions/output_bias",
            "cls.seq_relationship.weight": "cls/seq_relationship/output_weights",
        }
        turned = {
            "bert.encoder.layer.1.output.dense.weight": "bert/encoder/layer_1/output/dense/kernel",
            "bert.pooler.dense.weight": "bert/pooler/dense/kernel",
        }
    else:
        group = "albert.encoder.albert_layer_groups.0.albert_layers.0"
        same = {
            "albert.embeddings.token_type_embeddings.weight": (
                "bert/embeddings/token_type_embeddings"
            ),
            f"{group}.attention.LayerNorm.weight": f"{ALBERT_LAYER}/LayerNorm/gamma",
            f"{group}.full_layer_layer_norm.weight": f"{ALBERT_LAYER}/LayerNorm_1/gamma",
            "sop_classifier.classifier.bias": "cls/seq_relationship/output_bias",
            "predictions.LayerNorm.bias": "cls/predictions/transform/LayerNorm/beta",
        }
        turned = {
            f"{group}.ffn_output.weight": f"{ALBERT_LAYER}/ffn_1/intermediate/output/dense/kernel",
            f"{group}.attention.key.weight": f"{ALBERT_LAYER}/attention_1/self/key/kernel",
            "albert.pooler.weight": "bert/pooler/dense/kernel",
        }
    for new, old in same.items():
        np.testing.assert_array_equal(tensors[new], v[old])
    for new, old in turned.items():
        np.testing.assert_array_equal(tensors[new], v[old].T)


def test_the_settings_are_googles_with_the_epsilon_and_the_gelu_of_the_family():
    shared = {"layer_norm_eps": 1e-12}
    assert settings_from(GOOGLE, "bert", "c") == GOOGLE | shared | {"model_type": "bert"}
    unused = {"directionality": "bidi", "pooler_type": "first_token_transform"}
    assert settings_from(GOOGLE | unused, "bert", "c") == settings_from(GOOGLE, "bert", "c")
    albert = settings_from(CONFIGS["albert"], "albert", "c")
    groups = {"embedding_size": E, "num_hidden_groups": 1, "inner_group_num": 1}
    changed = {"attention_probs_dropout_prob": 0, "hidden_dropout_prob": 0}
    changed |= {"hidden_act": "gelu_new", "model_type": "albert"}
    assert albert == GOOGLE | groups | changed | shared
    relu = settings_from(CONFIGS["albert"] | {"hidden_act": "relu"}, "albert", "c")
    assert relu["hidden_act"] == "relu"


def test_settings_that_are_unknown_missing_or_impossible_are_named():
    with pytest.raises(UserError, match="config has unknown settings: embedding_size. It should"):
        settings_from(GOOGLE | {"embedding_size": 3}, "bert", "config")
    with pytest.raises(UserError, match="has unknown settings: ln_type"):
        settings_from(CONFIGS["albert"] | {"ln_type": "preln"}, "albert", "config")
    with pytest.raises(UserError, match="has no embedding_size, and has unknown settings: x"):
        settings_from(GOOGLE | {"x": 1}, "albert", "config")
    fewer = {name: value for name, value in GOOGLE.items() if name != "hidden_size"}
    with pytest.raises(UserError, match="config has no hidden_size. It should"):
        settings_from(fewer, "bert", "config")
    for activation in ("tanh", "gelu_new", None, ["gelu"]):
        with pytest.raises(UserError, match="hidden_act=.* is none of gelu, relu"):
            settings_from(GOOGLE | {"hidden_act": activation}, "bert", "config")


@pytest.mark.parametrize("setting", ["num_hidden_groups", "inner_group_num"])
def test_several_groups_of_layers_are_passed_on_and_refused_by_the_reader(setting):
    settings = settings_from(CONFIGS["albert"] | {setting: 2}, "albert", "config")
    tensors = tensors_from(variables("albert"), "albert", "checkpoint")
    with pytest.raises(UserError, match=f"cannot have {setting}=2"):
        bert_from(tensors, settings, None, where="config", weights="checkpoint")
    moved = (
        f"{ALBERT_LAYER.replace('group_0/inner_group_0', 'group_2/inner_group_1')}/LayerNorm/beta"
    )
    (name,) = tensors_from({moved: np.ones(D)}, "albert", "checkpoint")
    assert name == "albert.encoder.albert_layer_groups.2.albert_layers.1.attention.LayerNorm.bias"


@FAMILIES
def test_what_an_optimizer_keeps_is_left_out(family):
    v = variables(family)
    kept = {f"{name}/{part}": x for name, x in v.items() for part in ("adam_m", "adam_v", "lamb_m")}
    kept |= {"global_step": np.int64(3), "cls/predictions/output_bias/lamb_v": np.ones(V)}
    assert tensors_from(v | kept, family, "c").keys() == tensors_from(v, family, "c").keys()


@pytest.mark.parametrize(
    "family, name, shape",
    [
        ("bert", "output_weights", (2, D)),
        ("bert", "cls/squad/output_weights", (2, D)),
        ("bert", "bert/encoder/layer_0/attention/self/query/alpha", (D,)),
        ("bert", "bert/encoder/layer_x/output/dense/bias", (D,)),
        ("bert", "bert/encoder/layer_0/attention/self/dense/bias", (D,)),
        ("bert", "prefix/bert/pooler/dense/bias", (D,)),
        ("bert", "bert/encoder/embedding_hidden_mapping_in/bias", (D,)),
        ("bert", "adam_m/x", ()),
        ("albert", "bert/encoder/layer_shared/output/dense/bias", (D,)),
        ("albert", f"{ALBERT_LAYER}/LayerNorm_2/beta", (D,)),
        ("albert", f"{ALBERT_LAYER}/attention_2/self/key/bias", (D,)),
    ],
)
def test_an_unknown_variable_is_named(family, name, shape):
    with pytest.raises(UserError, match=f"ckpt holds no {family}.*\n  unknown: {name} "):
        tensors_from(variables(family) | {name: np.ones(shape)}, family, "ckpt")


def test_a_kernel_that_is_no_matrix_is_named():
    name = "bert/encoder/layer_0/attention/self/query/kernel"
    with pytest.raises(UserError, match=rf"no matrix: {name} \[12, 3, 4\]"):
        tensors_from(variables("bert") | {name: np.ones((D, N, D // N))}, "bert", "ckpt")


def empty(folder, *names):
    for name in names:
        (folder / name).write_bytes(b"")
    return folder


def test_a_folder_without_one_config_and_one_checkpoint_is_refused(tmp_path):
    with pytest.raises(UserError, match=r"has 0 checkpoints.*such as .*bert_model\.ckpt\."):
        read_tensorflow_checkpoint(tmp_path)
    with pytest.raises(UserError, match=r"other\.ckpt\.index is missing"):
        read_tensorflow_checkpoint(tmp_path / "other.ckpt")
    empty(tmp_path, "model.ckpt-1.index")
    with pytest.raises(UserError, match="has neither of bert_config.json and albert_config.json"):
        read_tensorflow_checkpoint(tmp_path)
    empty(tmp_path, "bert_config.json", "albert_config.json")
    with pytest.raises(UserError, match="has both of bert_config.json and albert_config.json"):
        read_tensorflow_checkpoint(tmp_path / "model.ckpt-1")
    empty(tmp_path, "model.ckpt-2.index")
    with pytest.raises(UserError, match=r"has 2 checkpoints.*: model\.ckpt-1, model\.ckpt-2\."):
        read_tensorflow_checkpoint(tmp_path)


def test_without_tensorflow_the_message_says_how_to_install_it(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "tensorflow", None)
    empty(tmp_path, "bert_model.ckpt.index")
    (tmp_path / "bert_config.json").write_text(json.dumps(GOOGLE))
    with pytest.raises(UserError, match=r"bert_model\.ckpt .*pip install 'transformer-jax\[tf\]'"):
        read_tensorflow_checkpoint(tmp_path)

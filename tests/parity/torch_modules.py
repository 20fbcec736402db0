"""Our parameters under torch's names, torch's modules with our sizes, and how both compare."""

import math

import jax
import numpy as np
import torch
from torch import nn

B, T, S, D, N, F, L, V = 3, 5, 7, 12, 3, 20, 3, 23
EPSILON, SMOOTHING, PAD = 1e-6, 0.1, 0
torch.set_num_threads(1)  # more only wait for each other at such sizes
LATER = torch.ones(T, T, dtype=torch.bool).triu(1)  # True hides, in torch


def valid(lengths, size):
    """bool [B,size], True where a row of that length is real."""
    return np.arange(size) < np.asarray(lengths)[:, None]


# Our parameters, or their gradients, under torch's names: tree of numpy -> {name: numpy}.


def under(prefix, names):
    return {f"{prefix}.{name}": x for name, x in names.items()}


def dense_names(p):
    return {"weight": p["kernel"].T, "bias": p["bias"]}


def norm_names(p):
    return {"weight": p["scale"], "bias": p["bias"]}


def attention_names(p):
    width = p["out"]["kernel"].shape[-1]
    matrix = {name: part["kernel"].reshape(-1, width).T for name, part in p.items()}
    qkv = ("query", "key", "value")
    names = {"out_proj.weight": matrix["out"]}
    if matrix["key"].shape == matrix["query"].shape:
        names["in_proj_weight"] = np.concatenate([matrix[name] for name in qkv])
    else:
        names |= {f"{name[0]}_proj_weight": matrix[name] for name in qkv}
    if "bias" in p["out"]:
        names["in_proj_bias"] = np.concatenate([p[name]["bias"].ravel() for name in qkv])
        names["out_proj.bias"] = p["out"]["bias"]
    return names


def feed_forward_names(p):
    return under("linear1", dense_names(p["up"])) | under("linear2", dense_names(p["down"]))


def layer_names(p):
    names = under("self_attn", attention_names(p["self_attention"]))
    names |= feed_forward_names(p["feed_forward"])
    if "cross_attention" in p:
        names |= under("multihead_attn", attention_names(p["cross_attention"]))
    norms = ("self_attention_norm", "cross_attention_norm", "feed_forward_norm")
    for i, norm in enumerate((norm for norm in norms if norm in p), 1):
        names |= under(f"norm{i}", norm_names(p[norm]))
    return names


def stack_names(p):
    names = under("norm", norm_names(p["norm"])) if "norm" in p else {}
    for i in range(L):
        layer = jax.tree.map(lambda x, i=i: x[i], p["layer"])
        names |= under(f"layers.{i}", layer_names(layer))
    return names


def transformer_names(p):
    names = {"embedding.weight": p["token_embedding"]["embedding"]}
    for stack in ("encoder", "decoder"):
        names |= under(f"transformer.{stack}", stack_names(p[stack]))
    return names


# Torch's modules with our sizes.


def torch_layer(cls, *, activation="relu", norm_first=False, attention_bias=True):
    options = dict(dropout=0.0, layer_norm_eps=EPSILON, batch_first=True)
    layer = cls(D, N, F, activation=activation, norm_first=norm_first, **options)
    if not attention_bias:
        for name in {"self_attn", "multihead_attn"} & dict(layer.named_children()).keys():
            setattr(layer, name, nn.MultiheadAttention(D, N, bias=False, batch_first=True))
    return layer


def torch_stack(layer):
    norm = nn.LayerNorm(D, EPSILON) if layer.norm_first else None
    if isinstance(layer, nn.TransformerDecoderLayer):
        return nn.TransformerDecoder(layer, L, norm)
    return nn.TransformerEncoder(layer, L, norm, enable_nested_tensor=False)


class TorchTransformer(nn.Module):
    def __init__(self, config):
        super().__init__()
        sizes = dict(
            activation=config.activation,
            norm_first=config.norm_first,
            attention_bias=config.attention_bias,
        )
        self.embedding = nn.Embedding(V, D)
        self.transformer = nn.Transformer(
            D,
            N,
            custom_encoder=torch_stack(torch_layer(nn.TransformerEncoderLayer, **sizes)),
            custom_decoder=torch_stack(torch_layer(nn.TransformerDecoderLayer, **sizes)),
            batch_first=True,
        )
        wave = [[place / 10000 ** (2 * i / D) for i in range(D // 2)] for place in range(S)]
        sines, cosines = torch.tensor(wave).sin(), torch.tensor(wave).cos()
        if config.sinusoids == "halves":
            self.waves = torch.cat([sines, cosines], 1)
        else:
            self.waves = torch.empty(S, D)
            self.waves[:, 0::2], self.waves[:, 1::2] = sines, cosines

    def embed(self, tokens):
        return self.embedding(tokens) * math.sqrt(D) + self.waves[: tokens.shape[1]]

    def forward(self, batch):
        x = self.transformer(
            self.embed(batch["source"]),
            self.embed(batch["target_inputs"]),
            tgt_mask=LATER,
            src_key_padding_mask=batch["source"] == PAD,
            tgt_key_padding_mask=batch["target_inputs"] == PAD,
            memory_key_padding_mask=batch["source"] == PAD,
        )
        return x @ self.embedding.weight.T

    def loss(self, batch):
        return nn.functional.cross_entropy(
            self(batch).flatten(0, 1),
            batch["targets"].flatten(),
            ignore_index=PAD,
            label_smoothing=SMOOTHING,
        )


# What is compared, and how closely.


def random_params(module, *inputs, seed=0):
    """Parameters far from their initial values: biases are not 0, scales not 1."""
    rng = np.random.default_rng(seed)

    def draw(path, x):
        mean = float(path[-1].key == "scale")
        return rng.normal(mean, 0.3, x.shape).astype(np.float32)

    shapes = jax.eval_shape(module.init, jax.random.key(0), *inputs)["params"]
    return jax.tree_util.tree_map_with_path(draw, shapes)


def random_inputs(*shapes, seed=1):
    rng = np.random.default_rng(seed)
    return [rng.normal(size=shape).astype(np.float32) for shape in shapes]


def load(module, names):
    state = {name: torch.tensor(x) for name, x in names.items()}
    module.load_state_dict(state, strict=True)
    return module


def gradients(module):
    return {name: p.grad for name, p in module.named_parameters()}


def assert_gradients_equal(got, want):
    """Equal to 1e-6 of the norm of the whole gradient."""
    assert got.keys() == want.keys()
    norm = math.sqrt(sum(float((g**2).sum()) for g in want.values()))
    for name, g in want.items():
        np.testing.assert_allclose(got[name], g, rtol=0, atol=1e-6 * norm, err_msg=name)

"""fairseq's RoBERTa, written by torch.save with all that a training saves: tensors and outputs."""

import argparse
import collections
import copy
import enum
import os

import jax.numpy as jnp
import numpy as np
import pytest
import torch
from torch import nn

from transformer_jax.errors import UserError
from transformer_jax.interop.bert import bert_from
from transformer_jax.interop.fairseq import read_fairseq

B, T, D, F, L, N, V = 3, 7, 12, 20, 2, 3, 23
FORMATS = pytest.mark.parametrize("zipped", [True, False], ids=["zip", "old"])
EARLY = {"prefix": "decoder", "norm": "emb_layer_norm"}
LATE = {"prefix": "encoder", "norm": "layernorm_embedding"}
PARTS = {  # of torch's layer, and fairseq's name for it
    "self_attn.out_proj": "self_attn.out_proj",
    "norm1": "self_attn_layer_norm",
    "linear1": "fc1",
    "linear2": "fc2",
    "norm2": "final_layer_norm",
}


class Roberta(nn.Module):
    """The model of arXiv:1907.11692 out of torch's own layers, as fairseq computes it."""

    def __init__(self):
        super().__init__()
        self.words = nn.Embedding(V, D, padding_idx=1)
        self.positions = nn.Embedding(T + 2, D, padding_idx=1)
        self.norm = nn.LayerNorm(D)
        self.layers = nn.ModuleList(
            nn.TransformerEncoderLayer(D, N, F, 0.1, "gelu", batch_first=True) for _ in range(L)
        )
        self.dense, self.head_norm = nn.Linear(D, D), nn.LayerNorm(D)
        self.bias = nn.Parameter(torch.zeros(V))

    def forward(self, tokens, real):
        """Logits [B,T,V] of tokens [B,T]; positions begin at 2, behind that of the padding."""
        positions = torch.where(real, real.cumsum(1) + 1, 1)
        x = self.norm(self.words(tokens) + self.positions(positions))
        for layer in self.layers:
            x = layer(x, src_key_padding_mask=~real)
        x = self.head_norm(nn.functional.gelu(self.dense(x)))
        return x @ self.words.weight.T + self.bias


@pytest.fixture(scope="module")
def model():
    torch.manual_seed(0)
    model = Roberta().eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter += 0.2 * torch.randn_like(parameter)
    return model


def state(model, packed, prefix, norm):
    """Its state dict under fairseq's names, with the tied table and the buffers."""
    side, head = f"{prefix}.sentence_encoder", f"{prefix}.lm_head"
    modules = {f"{side}.{norm}": model.norm, f"{head}.dense": model.dense}
    modules |= {f"{head}.layer_norm": model.head_norm}
    found = collections.OrderedDict()
    found[f"{side}.version"] = torch.tensor([2.0])
    found[f"{side}.embed_positions._float_tensor"] = torch.zeros(1)
    found[f"{side}.embed_tokens.weight"] = found[f"{head}.weight"] = model.words.weight
    found[f"{side}.embed_positions.weight"] = model.positions.weight
    found[f"{head}.bias"] = model.bias
    for i, layer in enumerate(model.layers):
        name = f"{side}.layers.{i}"
        modules |= {f"{name}.{new}": layer.get_submodule(old) for old, new in PARTS.items()}
        for leaf in ("weight", "bias"):
            whole = getattr(layer.self_attn, f"in_proj_{leaf}")
            if packed:
                found[f"{name}.self_attn.in_proj_{leaf}"] = whole
            else:
                for letter, part in zip("qkv", whole.chunk(3), strict=True):
                    found[f"{name}.self_attn.{letter}_proj.{leaf}"] = part
    for name, module in modules.items():
        found |= {f"{name}.{leaf}": getattr(module, leaf) for leaf in ("weight", "bias")}
    return collections.OrderedDict((name, tensor.detach()) for name, tensor in found.items())


class Choice(enum.Enum):
    C10D = "c10d"


class Meters(collections.OrderedDict):
    pass


class Meter:
    def __init__(self, total):
        self.total = total


class Harmful:
    def __init__(self, trace):
        self.trace = trace

    def __reduce__(self):
        return os.system, (f"touch {self.trace}",)


def save(path, model, zipped=True, packed=False, spelling=LATE, **more):
    """A checkpoint as fairseq's save_state writes it: args, model, optimizer and progress."""
    args = argparse.Namespace(
        arch="roberta_base",
        activation_fn="gelu",
        adam_betas="(0.9, 0.98)",
        attention_dropout=0.1,
        ddp_backend=Choice.C10D,
        dropout=0.1,
        encoder_attention_heads=N,
        encoder_embed_dim=D,
        encoder_ffn_embed_dim=F,
        encoder_layers=L,
        lr=[0.1],
        max_positions=T,
        seeds={1, 2},
        **more,
    )
    trained = copy.deepcopy(model)
    optimizer = torch.optim.Adam(trained.parameters())
    trained(torch.full((1, 2), 5), torch.ones(1, 2, dtype=bool)).sum().backward()
    optimizer.step()  # so that it has a state
    meters = Meters(loss=Meter(np.float64(2.5)), words=Meter(np.arange(3)))
    extra = {
        "train_iterator": {"epoch": 3, "shuffle": True},
        "train_meters": meters,
        "counts": collections.defaultdict(int, a=1),
        "device": torch.device("cpu"),
        "bytes": b"abc",
        "val_loss": None,
        "time": 2**40,
    }
    checkpoint = {
        "args": args,
        "model": state(model, packed, **spelling),
        "optimizer_history": [{"criterion_name": "MaskedLmLoss", "num_updates": 500_000}],
        "extra_state": extra,
        "last_optimizer_state": optimizer.state_dict(),
    }
    torch.save(checkpoint, path, _use_new_zipfile_serialization=zipped)
    return checkpoint["model"]


@FORMATS
@pytest.mark.parametrize("packed", [False, True], ids=["apart", "packed"])
@pytest.mark.parametrize("spelling", [EARLY, LATE], ids=["early", "late"])
def test_tensors_have_torchs_bits_and_the_model_gives_torchs_logits(
    tmp_path, model, zipped, packed, spelling
):
    saved = save(tmp_path / "model.pt", model, zipped, packed, spelling)
    settings, tensors = read_fairseq(tmp_path / "model.pt")
    table = saved[f"{spelling['prefix']}.lm_head.weight"]
    assert tensors["lm_head.decoder.weight"].tobytes() == table.numpy().tobytes()
    bits = sorted(x.tobytes() for name, x in tensors.items() if "token_type" not in name)
    kept = [x for name, x in saved.items() if not name.endswith(("version", "_float_tensor"))]
    kept = [part for x in kept for part in (x.chunk(3) if len(x) == 3 * D else [x])]
    assert bits == sorted(x.contiguous().numpy().tobytes() for x in kept)

    found = bert_from(tensors, settings, None, where="args", weights="model.pt")
    rng = np.random.default_rng(0)
    tokens = rng.integers(3, V, (B, T))
    real = np.arange(T) < np.array([[T], [T - 3], [2]])
    tokens[~real] = 1
    logits, _ = found.model.apply(
        {"params": found.params}, jnp.asarray(tokens), segments=jnp.asarray(real, jnp.int32)
    )
    with torch.no_grad():
        theirs = model(torch.tensor(tokens), torch.tensor(real)).numpy()
    np.testing.assert_allclose(np.asarray(logits)[real], theirs[real], atol=2e-5, rtol=1e-5)


@FORMATS
def test_what_is_harmful_is_no_more_than_a_record(tmp_path, model, zipped):
    trace = tmp_path / "trace"
    Harmful(trace).__reduce__()[0](f"touch {trace}")  # it would do harm
    assert trace.exists()
    trace.unlink()
    save(tmp_path / "model.pt", model, zipped, user_dir=Harmful(trace))
    assert read_fairseq(tmp_path / "model.pt")[0]["hidden_size"] == D
    whole = {"args": Harmful(trace), "model": state(model, False, **LATE)}
    torch.save(whole, tmp_path / "model.pt", _use_new_zipfile_serialization=zipped)
    with pytest.raises(UserError, match="'args' is a Record"):
        read_fairseq(tmp_path / "model.pt")
    assert not trace.exists()


def test_a_model_of_half_precision_keeps_its_dtype(tmp_path, model):
    saved = state(model, False, **LATE)
    halves = {name: tensor.half() for name, tensor in saved.items()}
    save(tmp_path / "model.pt", model)
    args = torch.load(tmp_path / "model.pt", weights_only=False)["args"]
    torch.save({"args": args, "model": halves}, tmp_path / "model.pt")
    tensors = read_fairseq(tmp_path / "model.pt")[1]
    assert {x.dtype for x in tensors.values()} == {np.dtype(np.float16)}
    words = saved["encoder.sentence_encoder.embed_tokens.weight"].half().numpy()
    np.testing.assert_array_equal(tensors["roberta.embeddings.word_embeddings.weight"], words)

"""A model.safetensors that lies about what is in it: refused, or just what its header says."""

import json

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.cli.encoders import write_encoder
from tests.hostile import damages
from transformer_jax.errors import UserError
from transformer_jax.interop.folders import read_weights
from transformer_jax.interop.huggingface import load_pretrained

DAMAGED = r"model\.safetensors is damaged, or of an unknown dtype"


def weights(folder, header, data):
    """Writes model.safetensors with this header, which need not be true."""
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    (folder / "model.safetensors").write_bytes(len(text).to_bytes(8, "little") + text + data)


def entry(begin=0, end=4, shape=(1,), dtype="F32"):
    return {"dtype": dtype, "shape": list(shape), "data_offsets": [begin, end]}


@pytest.mark.parametrize(
    "header",
    [
        {"a": entry(end=8)},
        {"a": entry(end=2**63)},
        {"a": entry(begin=2**64 - 4, end=0)},
        {"a": entry(begin=-4, end=0)},
        {"a": entry(begin=4, end=0)},
        {"a": entry(begin=4, end=8)},  # a hole before it
        {"a": entry(), "b": entry()},  # both have the same bytes
        {"a": entry(), "b": entry(begin=2, end=6)},
        {"a": entry(shape=[2])},
        {"a": entry(shape=[-1])},
        {"a": entry(shape=[2**32, 2**32])},
        {"a": entry(shape=[2**63, 2, 0])},
        {"a": entry(shape=[1.0])},
        {"a": entry(shape=["1"])},
        {"a": entry(dtype="O")},
        {"a": entry(dtype="pickle")},
        {"a": entry(dtype=["F32"])},
        {"a": entry() | {"shape": {}}},
        {"a": None},
        {"a": {}},
        [entry()],
        b'{"a": 1, "a": 1}',
        b'{"a":' + json.dumps(entry()).encode() + b',"a":' + json.dumps(entry()).encode() + b"}",
        b"[" * 100_000,
        b'{"a\xff": {}}',
        b"",
    ],
)  # fmt: skip
def test_a_header_that_lies_is_refused(tmp_path, header):
    weights(tmp_path, header, bytes(4))
    with pytest.raises(UserError, match=DAMAGED):
        read_weights(tmp_path)


@pytest.mark.parametrize("size", [0, 2**20, 10**8, 10**8 + 1, 2**63, 2**64 - 1])
def test_a_header_longer_than_its_file_is_refused(tmp_path, size):
    (tmp_path / "model.safetensors").write_bytes(size.to_bytes(8, "little") + b"{}")
    with pytest.raises(UserError, match=DAMAGED):
        read_weights(tmp_path)


@pytest.mark.parametrize(("dtype", "width"), [("I64", 8), ("BOOL", 1), ("U8", 1)])
def test_what_are_no_floats_are_no_parameters(tmp_path, dtype, width):
    write_encoder(tmp_path, "encoder")
    name = "bert.embeddings.LayerNorm.bias"
    end = 16 * width
    header = {
        name: entry(end=end, shape=[16], dtype=dtype),
        name.replace("bias", "weight"): entry(begin=end, end=end + 64, shape=[16]),
    }
    weights(tmp_path, header, bytes(end + 64))
    with pytest.raises(UserError, match=rf"no parameter: {name} of "):
        load_pretrained(tmp_path)


@settings(suppress_health_check=list(HealthCheck), max_examples=300)
@given(data=st.data())
def test_damaged_weights_are_what_their_header_says_or_a_user_error(tmp_path, data):
    header = {"a": entry(end=24, shape=[2, 3]), "b": entry(begin=24, end=31, shape=[7], dtype="U8")}
    text = json.dumps(header).encode()
    damaged = data.draw(damages(len(text).to_bytes(8, "little") + text + bytes(range(31))))
    (tmp_path / "model.safetensors").write_bytes(damaged)
    try:
        _, tensors = read_weights(tmp_path)
    except UserError as error:
        assert "model.safetensors" in str(error)
        return
    size = 8 + int.from_bytes(damaged[:8], "little")
    said = json.loads(damaged[8:size])
    said.pop("__metadata__", None)
    assert tensors.keys() == said.keys()
    for key, tensor in tensors.items():
        begin, end = said[key]["data_offsets"]
        assert list(tensor.shape) == said[key]["shape"]
        assert tensor.tobytes() == damaged[size + begin : size + end]

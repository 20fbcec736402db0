"""Files that torch.save writes, in both formats, against torch.load, bit by bit."""

import numpy as np
import pytest
import torch
from torch import nn

from transformer_jax.errors import UserError
from transformer_jax.interop.torch_files import read_torch_file

FORMATS = pytest.mark.parametrize("zipped", [True, False], ids=["zip", "old"])
DTYPES = "float16 float32 float64 bfloat16 bool int8 int16 int32 int64 uint8 uint16 uint32 uint64"
UNREADABLE = {torch.uint16, torch.uint32, torch.uint64}  # for torch, once in an old file


@pytest.fixture
def both(tmp_path):
    """Writes a state dict with torch, and reads it: what we find and what torch does."""

    def writes_and_reads(state, zipped):
        path = tmp_path / "pytorch_model.bin"
        torch.save(state, path, _use_new_zipfile_serialization=zipped)
        ours = read_torch_file(path)
        if not zipped and any(tensor.dtype in UNREADABLE for tensor in state.values()):
            return ours, state
        return ours, torch.load(path, weights_only=True)

    return writes_and_reads


def assert_same(ours, theirs):
    assert list(ours) == list(theirs)
    for name, tensor in theirs.items():
        assert str(ours[name].dtype) == str(tensor.dtype).removeprefix("torch."), name
        assert ours[name].shape == tuple(tensor.shape), name
        bits = tensor.detach().contiguous().reshape(-1).view(torch.uint8)
        assert ours[name].tobytes() == bits.numpy().tobytes(), name


def random_bits(dtype, *shape):
    size = torch.empty(0, dtype=dtype).element_size()
    high = 2 if dtype == torch.bool else 256
    bits = np.random.default_rng(0).integers(0, high, (*shape[:-1], shape[-1] * size), np.uint8)
    return torch.from_numpy(bits).view(dtype)


@FORMATS
@pytest.mark.parametrize("dtype", DTYPES.split())
def test_every_dtype_layout_and_size_has_torchs_bits(both, dtype, zipped):
    square = random_bits(getattr(torch, dtype), 4, 6)
    state = {
        "whole": square,
        "transposed": square.T,
        "rows": square[1:3],
        "columns": square[:, 2::2],
        "element": square[2, 3],
        "expanded": square[:1].expand(5, 6),
        "permuted": random_bits(getattr(torch, dtype), 2, 3, 4).permute(2, 0, 1),
        "empty": square[:0],
        "nothing": torch.empty(0, 3, dtype=square.dtype),
        "scalar": square[0, 0].clone(),
    }
    ours, theirs = both(state, zipped)
    assert_same(ours, theirs)
    assert np.shares_memory(ours["whole"], ours["columns"])
    assert not np.shares_memory(ours["whole"], ours["permuted"])


@FORMATS
@pytest.mark.parametrize("half", [False, True])
@pytest.mark.parametrize("keep", [False, True], ids=["tensors", "parameters"])
def test_the_state_of_a_module_is_read_with_its_tied_weights(both, zipped, half, keep):
    torch.manual_seed(0)
    layer = nn.TransformerEncoderLayer(8, 2, 16)
    model = nn.ModuleDict(
        {
            "embed": nn.Embedding(5, 8),
            "layer": layer,
            "norm": nn.BatchNorm1d(8),  # with an int64 of no dimension
            "project": nn.Linear(8, 5, bias=False),
        }
    )
    model["project"].weight = model["embed"].weight
    if half:
        model = model.half()
    ours, theirs = both(model.state_dict(keep_vars=keep), zipped)
    assert hasattr(theirs, "_metadata")
    assert_same(ours, theirs)
    assert np.shares_memory(ours["embed.weight"], ours["project.weight"])


@FORMATS
def test_many_tensors_with_odd_names_are_read(both, zipped):
    names = ["", " ", "é", "a/b", "../c", *(f"layer.{i}.weight" for i in range(400))]
    state = {name: torch.full((3,), float(i)) for i, name in enumerate(names)}
    assert_same(*both(state, zipped))


@FORMATS
def test_a_large_offset_and_a_large_size_are_read(both, zipped):
    large = torch.arange(5_000_000)  # 40 MB, more than two chunks
    assert_same(*both({"end": large[-2:], "tail": large[70_000:], "few": large[::99_991]}, zipped))


@FORMATS
@pytest.mark.parametrize(
    "value, message",
    [
        ({"step": 1, "w": torch.ones(1)}, r"1 entries.*'step' \(int\)"),
        ([torch.ones(1)], "holds a list"),
        ({"z": torch.ones(1, dtype=torch.complex64)}, "torch.ComplexFloatStorage"),
        ({"z": torch.ones(2, dtype=torch.complex64).conj().imag}, "negates or conjugates"),
        ({"s": torch.eye(2).to_sparse()}, "torch._utils._rebuild_sparse_tensor"),
        ({"d": torch.device("cpu")}, "torch.device"),
        ({"d": nn.Linear(1, 1)}, "torch.nn.modules.linear.Linear"),
    ],
)
def test_what_is_no_dict_of_plain_tensors_is_refused(tmp_path, value, message, zipped):
    torch.save(value, tmp_path / "a.bin", _use_new_zipfile_serialization=zipped)
    with pytest.raises(UserError, match=message):
        read_torch_file(tmp_path / "a.bin")

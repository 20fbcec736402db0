"""Drawn views of a storage in PyTorch's files: what torch would give, or a UserError."""

import math
import operator

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.hostile import damages
from tests.interop.test_torch_files import NUMBERS, SIX, new, old, old_view, view
from transformer_jax.errors import UserError
from transformer_jax.interop.torch_files import read_torch_file

SEARCH = settings(suppress_health_check=list(HealthCheck), max_examples=300)
SIZES = st.integers(-1, 4) | st.sampled_from([2**31, 2**62, 2**64])
VIEWS = st.integers(0, 3).flatmap(
    lambda dims: st.tuples(
        SIZES,
        st.tuples(*[st.integers(0, 3) | SIZES] * dims),
        st.tuples(*[st.integers(0, 3) | SIZES] * dims),
    )
)
FORMATS = {"new": (view, new), "old": (old_view, old)}


def is_inside(offset, shape, strides):
    """Whether a view of six numbers is within them, in numbers without bounds."""
    if min((offset, *shape, *strides)) < 0:
        return False
    last = offset + sum((n - 1) * step for n, step in zip(shape, strides, strict=True))
    return 0 in shape or (last < 6 and math.prod(shape) * 4 <= 2**20)


@pytest.mark.parametrize("name", FORMATS)
@SEARCH
@given(drawn=VIEWS)
def test_a_view_is_what_its_strides_say_or_is_refused(tmp_path, name, drawn):
    make, write = FORMATS[name]
    offset, shape, strides = drawn
    path = write(
        tmp_path / "model.bin",
        {"w": make(offset=offset, shape=shape, strides=strides)},
        {"0": SIX},
    )
    try:
        found = read_torch_file(path)["w"]
    except UserError as error:
        assert "model.bin" in str(error)
        # A length or a step that no array has.
        assert not is_inside(*drawn) or max(*shape, *strides, 0) >= 2**31
        return
    assert is_inside(*drawn)
    assert found.shape == shape
    for index in np.ndindex(shape) if found.size else ():
        assert found[index] == NUMBERS[offset + sum(map(operator.mul, index, strides))]


@pytest.mark.parametrize("name", FORMATS)
@SEARCH
@given(data=st.data())
def test_a_damaged_file_is_refused_or_gives_arrays_of_its_bytes(tmp_path, name, data):
    make, write = FORMATS[name]
    path = tmp_path / "model.bin"
    whole = write(path, {"w": make(), "v": make(shape=(6,), strides=(1,))}, {"0": SIX})
    damaged = data.draw(damages(whole.read_bytes()))
    path.write_bytes(damaged)
    try:
        found = read_torch_file(path)
    except UserError as error:
        assert "model.bin" in str(error) and len(str(error)) < 1000
        return
    assert sum(array.nbytes for array in found.values()) <= 2**20
    assert all(array.tobytes() is not None for array in found.values())


@pytest.mark.parametrize("name", FORMATS)
def test_tensors_are_not_many_times_larger_than_their_file(tmp_path, name):
    make, write = FORMATS[name]
    path = tmp_path / "model.bin"
    repeated = make(shape=(2**20,), strides=(0,))
    with pytest.raises(UserError, match=r"model\.bin is damaged \(its tensors have 4\.19e\+06 by"):
        read_torch_file(write(path, {"w": repeated}, {"0": SIX}))
    many = {f"layer{i}.weight": make(shape=(6, 1000), strides=(1, 0)) for i in range(100)}
    with pytest.raises(UserError, match="its tensors have 2"):
        read_torch_file(write(path, many, {"0": SIX}))
    tied = {f"layer{i}.weight": make(shape=(6,), strides=(1,)) for i in range(100)}
    assert len(read_torch_file(write(path, tied, {"0": SIX}))) == 100

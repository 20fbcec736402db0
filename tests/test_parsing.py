"""What files of others say: as it stands there, or a ValueError; and nothing of it is run."""

import io
import json
import os
import pickle
import zipfile

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.hostile import Bomb, damages, payloads
from transformer_jax.errors import UserError
from transformer_jax.files import write_whole
from transformer_jax.parsing import (
    is_plain_name,
    is_text,
    parse_json,
    parse_npy,
    parse_npz,
    read_regular,
)

SCALARS = (
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(max_size=5)
)  # fmt: skip
LISTS = st.lists(SCALARS, max_size=3)
JSON = SCALARS | LISTS | st.dictionaries(st.text(max_size=3), SCALARS | LISTS, max_size=3)
DTYPES = ["<f4", ">f8", "<f2", "|b1", "<i8", ">u2", "<U3"]


def saved(array):
    file = io.BytesIO()
    np.save(file, array)
    return file.getvalue()


@settings(max_examples=150)
@given(JSON)
def test_json_says_what_python_reads(value):
    for text in (json.dumps(value), json.dumps(value, ensure_ascii=False, indent=1)):
        data = text.encode("utf-8", "surrogatepass")
        try:
            text.encode()
        except UnicodeEncodeError:
            with pytest.raises(ValueError, match="utf-8"):
                parse_json(data)
        else:
            assert parse_json(data) == parse_json(b"\xef\xbb\xbf" + data) == value


@settings(max_examples=200)
@given(st.binary(max_size=20) | st.text('{}[]:,"\\\\tn 0', max_size=20).map(str.encode))
def test_any_bytes_are_json_or_a_value_error(data):
    try:
        found = parse_json(data)
    except ValueError:
        return
    assert json.loads(data.decode("utf-8-sig")) == found


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "Expecting value"),
        (b"[1", "delimiter"),
        (b"\xff", "utf-8"),
        (b'["\xed\xa0\x80"]', "utf-8"),
        (b"\0", "Expecting value"),
        (b"[1]\0", "Extra data"),
        (b"[" * 100_000, "nested too deeply"),
        (b'{"a":' * 100_000, "nested too deeply"),
        (b"[" * 101 + b"]" * 101, "deeper than 100 levels"),
        (b'{"a":' * 100 + b"{}" + b"}" * 100, "deeper than 100 levels"),
        (b'{"a": 1, "b": {"c": 2, "c": 2}}', "the key 'c' twice"),
        (b"[NaN]", "NaN, which is not finite"),
        (b"[-Infinity]", "not finite"),
        (b"[1e999]", "not finite"),
        (b"9" * 5000, "digits"),
    ],
)  # fmt: skip
def test_what_is_no_strict_json_is_refused(data, message):
    with pytest.raises(ValueError, match=message):
        parse_json(data)


def test_json_as_deep_as_allowed_is_read():
    assert parse_json(b"[" * 100 + b"]" * 100) is not None


def test_a_key_twice_among_very_many_is_found_at_once():
    pairs = ", ".join(f'"{i}": 0' for i in [*range(200_000), 199_999])
    with pytest.raises(ValueError, match="'199999' twice"):
        parse_json(f"{{{pairs}}}".encode())


@settings(max_examples=150)
@given(st.sampled_from(DTYPES), st.lists(st.integers(0, 3), max_size=4), st.booleans())
def test_an_array_is_read_as_numpy_saved_it(dtype, shape, fortran):
    values = np.arange(np.prod(shape, dtype=int)).astype(dtype).reshape(shape)
    array = np.asfortranarray(values) if fortran else values
    found = parse_npy(saved(array))
    assert (found.dtype, found.shape) == (array.dtype, array.shape)
    assert found.tobytes() == array.tobytes() and not found.flags.writeable


@settings(max_examples=300)
@given(st.data())
def test_a_damaged_array_is_equal_or_a_value_error(data):
    array = np.arange(6, dtype=np.int64).reshape(2, 3)
    damaged = data.draw(damages(saved(array)))
    try:
        found = parse_npy(damaged)
    except ValueError:
        return
    assert found.nbytes <= len(damaged)
    np.testing.assert_array_equal(found, np.load(io.BytesIO(damaged), allow_pickle=False))


@pytest.mark.parametrize(
    "header",
    [
        "{'descr': '|O', 'fortran_order': False, 'shape': (1,), }",
        "{'descr': '<i8', 'fortran_order': False, 'shape': (1000000000000,), }",
        "{'descr': '<i8', 'fortran_order': False, 'shape': (4611686018427387904, 4), }",
        f"{{'descr': '<i8', 'fortran_order': False, 'shape': (0, 1{'0' * 40}), }}",
        "{'descr': '<i8', 'fortran_order': False, 'shape': (-1,), }",
        "{'descr': '<i8', 'fortran_order': False, 'shape': (1 1), }",
        "{'descr': '<f99', 'fortran_order': False, 'shape': (1,), }",
        "{'descr': '<U0', 'fortran_order': False, 'shape': (1,), }",
        "{'descr': [('a', '<i8')], 'fortran_order': False, 'shape': (1,), }",
        f"{{'descr': '<i8', 'fortran_order': False, 'shape': ({'1, ' * 70}), }}",
        f"{'(' * 300}",
        "__import__('os')",
    ],
)  # fmt: skip
def test_a_header_that_lies_or_is_code_is_refused(header):
    start = b"\x93NUMPY\x01\x00" + (len(header) + 1).to_bytes(2, "little")
    with pytest.raises(ValueError, match="."):
        parse_npy(start + header.encode() + b"\n" + bytes(8))


def test_a_pickled_array_is_refused_and_not_run(tmp_path):
    trace = tmp_path / "trace"
    for name in ("npy", "npz"):
        data = payloads(trace)[name]
        with (
            np.load(io.BytesIO(data), allow_pickle=True) if name == "npz" else io.BytesIO() as file
        ):
            found = file["about"] if name == "npz" else np.load(io.BytesIO(data), allow_pickle=True)
        assert trace.exists() and len(found) == 1  # numpy itself would do harm
        trace.unlink()
        with pytest.raises(ValueError, match="header"):
            (parse_npz if name == "npz" else parse_npy)(data)
        assert not trace.exists()
    pickle.loads(pickle.dumps(Bomb(trace)))
    assert trace.exists()


def test_entries_of_a_zip_file_are_no_larger_than_it(tmp_path):
    arrays = io.BytesIO()
    np.savez_compressed(arrays, a=np.zeros(1_000_000))
    with pytest.raises(ValueError, match="compressed entries"):
        parse_npz(arrays.getvalue())
    twice = io.BytesIO()
    with zipfile.ZipFile(twice, "w") as archive, pytest.warns(UserWarning, match="Duplicate"):
        archive.writestr("a.npy", saved(np.zeros(1)))
        archive.writestr("a.npy", saved(np.ones(1)))
    with pytest.raises(ValueError, match="two entries of one name"):
        parse_npz(twice.getvalue())


@settings(max_examples=200)
@given(st.data())
def test_a_damaged_file_of_arrays_gives_arrays_or_a_value_error(data):
    file = io.BytesIO()
    np.savez(file, a=np.arange(3), about=np.array("text"))
    damaged = data.draw(damages(file.getvalue()))
    try:
        found = parse_npz(damaged)
    except ValueError:
        return
    assert sum(array.nbytes for array in found.values()) <= len(damaged)


def test_links_are_followed_and_what_never_ends_is_not_read(tmp_path):
    (tmp_path / "file").write_bytes(b"text")
    (tmp_path / "link").symlink_to(tmp_path / "file")
    assert read_regular(tmp_path / "link") == b"text"
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "loop").symlink_to(tmp_path / "loop")
    (tmp_path / "zero").symlink_to("/dev/zero")
    for name in ("pipe", "loop", "zero", "absent", "a\0b", "."):
        with pytest.raises(OSError, match=".") as caught:
            read_regular(tmp_path / name)
        assert caught.value.strerror


@pytest.mark.parametrize(
    "name", ["", ".", "..", "../x", "/x", "a/b", "a\\b", "a\0", None, 3, ["x"]]
)
def test_a_path_is_no_plain_name(name):
    assert is_plain_name("train-00000-of-00001.array_record")
    assert not is_plain_name(name)


def test_a_link_is_replaced_and_not_written_through(tmp_path):
    (tmp_path / "other").write_bytes(b"of somebody else")
    (tmp_path / "link").symlink_to(tmp_path / "other")
    write_whole(tmp_path / "link", b"ours")
    assert (tmp_path / "other").read_bytes() == b"of somebody else"
    assert (tmp_path / "link").read_bytes() == b"ours" and not (tmp_path / "link").is_symlink()


def test_a_lone_surrogate_is_no_text():
    assert is_text("\0 é 日 \U0001f600") and is_text("")
    assert not any(map(is_text, ["\ud800", "x\udfffx", None, 3, ["x"], b"x"]))


def test_an_error_is_no_longer_than_a_page_and_moves_no_cursor():
    shown = str(UserError("begins " + "x" * 10**6 + " \x1b[2J\x07\r\x9b ends\n\tso"))
    assert len(shown) < 10_000
    assert shown.startswith("begins xx") and shown.endswith(" \\x1b[2J\\x07\\x0d\\x9b ends\n\tso")
    assert str(UserError("as it is: é 日")) == "as it is: é 日"

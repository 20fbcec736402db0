"""PyTorch's two file formats, written here by hand: what is read, and what a bad file ends in."""

import itertools
import pickle
import random
import struct
import zipfile
import zlib

import ml_dtypes
import numpy as np
import pytest

from transformer_jax.errors import UserError
from transformer_jax.interop import torch_pickle
from transformer_jax.interop.torch_files import read_torch_file

MAGIC = 0x1950A86A20F9469CFC6C
STORAGES = {
    "HalfStorage": np.float16,
    "FloatStorage": np.float32,
    "DoubleStorage": np.float64,
    "BFloat16Storage": ml_dtypes.bfloat16,
    "BoolStorage": np.bool_,
    "CharStorage": np.int8,
    "ShortStorage": np.int16,
    "IntStorage": np.int32,
    "LongStorage": np.int64,
    "ByteStorage": np.uint8,
}


class Raw(bytes):
    """Opcodes as they are."""


def opcodes(value):
    """The opcodes that put a value on the stack; tuples of values as tuples."""
    match value:
        case Raw():
            return bytes(value)
        case tuple():
            return b"(" + b"".join(map(opcodes, value)) + b"t"
        case dict():
            items = itertools.chain(*value.items())
            return b"}(" + b"".join(map(opcodes, items)) + b"u"
    return pickle.dumps(value, protocol=2)[2:-1]  # without PROTO and STOP


def name(module, attribute):
    return Raw(f"c{module}\n{attribute}\n".encode())


def call(function, *arguments):
    return Raw(opcodes(function) + opcodes(arguments) + b"R")


def whole(value):
    return b"\x80\x02" + opcodes(value) + b"."


HOOKS = call(name("collections", "OrderedDict"))
REBUILD = name("torch._utils", "_rebuild_tensor_v2")


def reference(kind, key, count, *more):
    storage = name("torch.storage" if kind == "UntypedStorage" else "torch", kind)
    return Raw(opcodes(("storage", storage, key, "cpu", count, *more)) + b"Q")


def view(kind="FloatStorage", key="0", count=6, offset=0, shape=(2, 3), strides=(3, 1), more=()):
    """A tensor of a state dict; what it says need not be true."""
    return call(REBUILD, reference(kind, key, count, *more), offset, shape, strides, False, HOOKS)


def new(path, value, storages, entries=(), **more):
    """Writes the zip format: `value`'s pickle and the bytes of each storage."""
    files = {
        "data.pkl": value if isinstance(value, bytes) and value[:1] == b"\x80" else whole(value)
    }
    files |= {"byteorder": b"little"} | {f"data/{key}": data for key, data in storages.items()}
    with zipfile.ZipFile(path, "w", **more) as archive:
        for key, data in (files | dict(entries)).items():
            if data is not None:
                archive.writestr(f"model/{key}", data)
    return path


def old(path, value, storages, itemsize=4, keys=None, counts=None):
    """Writes the old format."""
    header = [MAGIC, 1001, {"protocol_version": 1001, "little_endian": True}]
    parts = [pickle.dumps(part, protocol=2) for part in header]
    parts += [whole(value), pickle.dumps(keys or sorted(storages), protocol=2)]
    for key, data in sorted(storages.items()):
        count = (counts or {}).get(key, len(data) // itemsize)
        parts += [struct.pack("<q", count), data]
    path.write_bytes(b"".join(parts))
    return path


def old_view(**changes):
    return view(more=(None,), **changes)


SIX = np.arange(6, dtype=np.float32).tobytes()
NUMBERS = np.arange(6, dtype=np.float32)


@pytest.fixture
def path(tmp_path):
    return tmp_path / "model.bin"


@pytest.fixture(params=["new", "old"])
def write(request, path):
    """Writes tensors, given as changes to `view`, with six numbers in the storage "0"."""

    def writes(storages=None, **tensors):
        of, to = (view, new) if request.param == "new" else (old_view, old)
        storages = {"0": SIX} if storages is None else storages
        return to(path, {key: of(**changes) for key, changes in tensors.items()}, storages)

    return writes


@pytest.mark.parametrize("kind", STORAGES)
@pytest.mark.parametrize("old_format", [False, True])
def test_every_dtype_comes_back_with_its_bits(path, kind, old_format):
    dtype = np.dtype(STORAGES[kind])
    bits = (
        bytes([0, 1] * 3 * dtype.itemsize)
        if kind == "BoolStorage"
        else random.Random(0).randbytes(6 * 8)
    )
    bits = bits[: 6 * dtype.itemsize]
    if old_format:
        old(path, {"a.weight": old_view(kind=kind)}, {"0": bits}, itemsize=dtype.itemsize)
    else:
        new(path, {"a.weight": view(kind=kind)}, {"0": bits})
    (read,) = read_torch_file(str(path)).items()
    assert read[0] == "a.weight"
    assert read[1].dtype == dtype
    assert read[1].shape == (2, 3)
    assert read[1].tobytes() == bits


def test_strides_and_offsets_count_elements(write):
    tensors = read_torch_file(
        write(
            transposed={"shape": (3, 2), "strides": (1, 3)},
            column={"offset": 1, "shape": (2,), "strides": (3,)},
            last={"offset": 5, "shape": (), "strides": ()},
            repeated={"offset": 2, "shape": (4, 2), "strides": (0, 1)},
        )
    )
    square = NUMBERS.reshape(2, 3)
    np.testing.assert_array_equal(tensors["transposed"], square.T)
    np.testing.assert_array_equal(tensors["column"], square[:, 1])
    np.testing.assert_array_equal(tensors["last"], square[1, 2])
    np.testing.assert_array_equal(tensors["repeated"], np.tile(NUMBERS[2:4], (4, 1)))


def test_tensors_of_one_storage_share_its_memory_and_cannot_be_written(write):
    tensors = read_torch_file(write(one={}, tied={}, row={"shape": (3,), "strides": (1,)}))
    assert np.shares_memory(tensors["one"], tensors["tied"])
    assert np.shares_memory(tensors["one"], tensors["row"])
    with pytest.raises(ValueError, match="read-only"):
        tensors["one"][0, 0] = 1


def test_tensors_without_elements_keep_their_shape(write):
    empty = {"count": 0, "shape": (0, 3), "strides": (3, 1)}
    beside = {"key": "1", "offset": 7, "shape": (0, 2), "strides": (3, 1)}  # [2:, 1:] of a 2 by 3
    tensors = read_torch_file(write({"0": b"", "1": SIX}, empty=empty, beside=beside))
    assert tensors["empty"].shape == (0, 3)
    assert tensors["beside"].shape == (0, 2)
    assert not tensors["empty"].flags.writeable


def test_an_empty_state_dict_has_no_tensors(write):
    assert read_torch_file(write({})) == {}


def test_a_storage_without_a_dtype_is_read_as_the_tensor_says(path):
    rebuild = name("torch._utils", "_rebuild_tensor_v3")
    untyped = reference("UntypedStorage", "0", 24)
    words = name("torch", "uint16")
    tensor = call(rebuild, untyped, 2, (5, 2), (2, 1), False, HOOKS, words)
    read = read_torch_file(new(path, {"w": tensor}, {"0": SIX}))["w"]
    np.testing.assert_array_equal(read, np.frombuffer(SIX, np.uint16)[2:].reshape(5, 2))
    beyond = call(rebuild, untyped, 3, (5, 2), (2, 1), False, HOOKS, words)
    with pytest.raises(UserError, match="beyond the 24 bytes"):
        read_torch_file(new(path, {"w": beyond}, {"0": SIX}))


def test_an_ordered_dict_of_parameters_with_module_versions_is_a_state_dict(path):
    """As torch writes it, with a memo (whose numbers cost nothing) and a `_metadata` attribute."""
    parameter = call(name("torch._utils", "_rebuild_parameter"), view(), True, HOOKS)
    size = call(name("torch", "Size"), (2, 3))
    state = Raw(
        HOOKS
        + b"r\xff\xff\xff\x7f"
        + opcodes("a")
        + opcodes(parameter)
        + b"q\x01s"
        + opcodes("b")
        + b"h\x01s"
        b"(" + opcodes("c") + opcodes(view(shape=size)) + b"u"
        b"}" + opcodes("_metadata") + HOOKS + opcodes("") + opcodes({"version": 1}) + b"ssb"
    )
    tensors = read_torch_file(new(path, state, {"0": SIX}))
    assert list(tensors) == ["a", "b", "c"]
    for tensor in tensors.values():
        np.testing.assert_array_equal(tensor, NUMBERS.reshape(2, 3))


def test_a_storage_that_no_tensor_uses_is_not_read_from_a_zip_file(path):
    new(path, {"w": view()}, {"0": SIX, "1": b"spoiled"})
    path.write_bytes(path.read_bytes().replace(b"spoiled", b"SPOILED"))  # its checksum is wrong
    assert list(read_torch_file(path)) == ["w"]


def test_a_file_without_a_byte_order_is_little_endian_and_a_big_one_is_refused(path):
    read_torch_file(new(path, {"w": view()}, {"0": SIX}, {"byteorder": None}))
    with pytest.raises(UserError, match=r"byte order b'big'.*safetensors"):
        read_torch_file(new(path, {"w": view()}, {"0": SIX}, {"byteorder": b"big"}))


@pytest.mark.parametrize(
    "harmful",
    [
        pytest.param(lambda text: call(name("os", "system"), f"touch {text}"), id="os.system"),
        pytest.param(lambda text: call(name("posix", "system"), f"touch {text}"), id="posix"),
        pytest.param(
            lambda text: call(name("builtins", "eval"), f"open({text!r}, 'w')"), id="eval"
        ),
        pytest.param(lambda text: call(name("builtins", "open"), text, "w"), id="open"),
        pytest.param(lambda text: Raw(b"(cbuiltins\nopen\n" + opcodes(text) + b"Vw\no"), id="OBJ"),
        pytest.param(lambda text: Raw(b"(" + opcodes(text) + b"Vw\nibuiltins\nopen\n"), id="INST"),
        pytest.param(
            lambda text: Raw(b"\x8c\x08builtins\x8c\x04open\x93" + opcodes((text, "w")) + b"R"),
            id="STACK_GLOBAL",
        ),
    ],
)
@pytest.mark.parametrize("old_format", [False, True])
def test_a_harmful_pickle_is_refused_and_not_run(tmp_path, path, harmful, old_format):
    trace = tmp_path / "trace"
    payload = harmful(str(trace))
    pickle.loads(whole(payload))  # it would do harm
    assert trace.exists()
    trace.unlink()
    if old_format:
        old(path, {"w": old_view(), "x": payload}, {"0": SIX})
    else:
        new(path, {"w": view(), "x": payload}, {"0": SIX})
    with pytest.raises(UserError, match=r"model\.bin (refers to '\w+\.\w+'|has the pickle opcode)"):
        read_torch_file(path)
    assert not trace.exists()


@pytest.mark.parametrize(
    "bad, message",
    [
        (name("numpy", "dtype"), "refers to 'numpy.dtype'"),
        (name("torch", "ComplexFloatStorage"), "refers to 'torch.ComplexFloatStorage'"),
        (name("torch._utils", "os.system"), "refers to 'torch._utils.os.system'"),
        (call("text", 1), "wrong at the opcode REDUCE"),
        (call({}, 1), "wrong at the opcode REDUCE"),
        (call(view(), 1), "wrong at the opcode REDUCE"),
        (call(name("torch", "float32"), 1), "wrong at the opcode REDUCE"),
        (call(REBUILD, 1), "wrong at the opcode REDUCE"),
        (call(REBUILD, 0, 0, (1,), (1,), False, HOOKS), "wrong at the opcode REDUCE"),
        (call(name("collections", "OrderedDict"), 1), "wrong at the opcode REDUCE"),
        (Raw(REBUILD + b"NR"), "wrong at the opcode REDUCE"),
        (Raw(name("collections", "OrderedDict") + b"]R"), "wrong at the opcode REDUCE"),
        (Raw(REBUILD + opcodes({"__defaults__": (1,)}) + b"b"), "sets attributes of a function"),
        (Raw(view() + opcodes({"offset": 9}) + b"b"), "sets attributes of a Tensor"),
        (Raw(view() + opcodes({"_metadata": 9}) + b"b"), "sets attributes of a Tensor"),
        (Raw(HOOKS + opcodes({"update": None}) + b"b"), "sets attributes of a OrderedDict"),
        (Raw(HOOKS + opcodes(({}, {"update": 0})) + b"b"), "sets attributes of a OrderedDict"),
        (Raw(view() + opcodes("offset") + b"Ns"), "wrong at the opcode SETITEM"),
        (Raw(b"}(" + opcodes("w") + b"u"), "damaged"),
        (Raw(view() + b"Na"), "wrong at the opcode APPEND"),
        (Raw(b"h\x63"), "wrong at the opcode BINGET"),
        (Raw(b"tt"), "wrong at the opcode TUPLE"),
        (Raw(b"00000"), "opcode POP"),
        (Raw(b"\x82\x01"), "opcode EXT1"),
        (Raw(b"\x96" + b"\xff" * 8), "damaged"),
        (Raw(opcodes("0") + b"Q"), "storage is not of a known kind"),
        (Raw(opcodes(("module", name("torch", "float32"), "0", "", 1)) + b"Q"), "not of a known"),
        (view(count=-1), "not of a known kind"),
        (view(more=((1, 2, 3),)), "not of a known kind"),
        ({1: view()}, "key that is a int"),
        (Raw(b"})" + b"\x85" * 300_000 + b"Ns"), "key that is a tuple"),  # its hash would crash
    ],
    ids=itertools.count(),
)
def test_what_no_state_dict_needs_is_refused(path, bad, message):
    with pytest.raises(UserError, match=message) as caught:
        read_torch_file(new(path, {"w": bad}, {"0": SIX}))
    assert str(path) in str(caught.value)
    assert len(str(caught.value)) < 600


@pytest.mark.parametrize(
    "changes, message",
    [
        ({"offset": 1}, "beyond the 24 bytes"),
        ({"shape": (2, 4)}, "beyond the 24 bytes"),
        ({"strides": (4, 1)}, "beyond the 24 bytes"),
        ({"shape": (2**62, 2**62)}, "beyond the 24 bytes"),
        ({"shape": (), "strides": (), "offset": 6}, "beyond the 24 bytes"),
        ({"offset": -1}, "negative or no number"),
        ({"shape": (-2, 3)}, "negative or no number"),
        ({"strides": (-3, 1)}, "negative or no number"),
        ({"offset": -(2**40), "strides": (2**40, 1)}, "negative or no number"),
        ({"shape": (0, -3)}, "negative or no number"),
        ({"offset": 0.0}, "negative or no number"),
        ({"shape": ("2", 3)}, "negative or no number"),
        ({"shape": 6}, "wrong at the opcode REDUCE"),
        ({"shape": (6,)}, "damaged"),
        ({"shape": (2**61, 2**61), "strides": (0, 0)}, "damaged"),
        ({"shape": (2**70,), "strides": (0,)}, "damaged"),
        ({"shape": (1,), "strides": (2**62,)}, "damaged"),
        ({"shape": (1,) * 100, "strides": (1,) * 100}, "damaged"),
        ({"count": 7}, "should have"),
        ({"count": 5, "shape": (5,), "strides": (1,)}, "should have"),
        ({"count": 2**60}, "should have"),
    ],
    ids=itertools.count(),
)
def test_a_tensor_that_is_not_within_its_storage_is_refused(write, changes, message):
    with pytest.raises(UserError, match=message):
        read_torch_file(write(w=changes))


def test_one_storage_cannot_be_of_two_kinds(write):
    with pytest.raises(UserError, match="not of a known kind"):
        read_torch_file(write(a={}, b={"kind": "IntStorage"}))


def test_a_tensor_that_torch_would_change_when_it_loads_is_refused(path):
    lazy = call(
        REBUILD, reference("FloatStorage", "0", 6), 0, (6,), (1,), False, HOOKS, {"neg": True}
    )
    with pytest.raises(UserError, match="negates or conjugates"):
        read_torch_file(new(path, {"w": lazy}, {"0": SIX}))


@pytest.mark.parametrize("value, kind", [((), "tuple"), (None, "NoneType"), (view(), "Tensor")])
def test_a_file_of_no_dict_says_what_it_holds(path, value, kind):
    with pytest.raises(UserError, match=f"holds a {kind}, not a dict"):
        read_torch_file(new(path, value, {"0": SIX}))


def test_entries_that_are_not_tensors_are_named(path):
    nested = {"state_dict": {"w": view()}, "w": view(), "epoch": 3}
    with pytest.raises(UserError, match=r"2 entries.*'state_dict' \(dict\), 'epoch' \(int\)"):
        read_torch_file(new(path, nested, {"0": SIX}))


@pytest.mark.parametrize("content", [b"", b"PK", b"version https://git-lfs", b"\x80\x02}.", MAGIC])
def test_what_is_not_a_checkpoint_is_told_by_its_first_bytes(path, content):
    path.write_bytes(content if isinstance(content, bytes) else pickle.dumps(content, protocol=4))
    with pytest.raises(UserError, match=r"model\.bin is not a PyTorch checkpoint: it begins with"):
        read_torch_file(path)


def test_a_file_that_cannot_be_opened_is_named(path, tmp_path):
    with pytest.raises(UserError, match=r"model\.bin cannot be read: No such file"):
        read_torch_file(path)
    with pytest.raises(UserError, match="cannot be read"):
        read_torch_file(tmp_path)


@pytest.mark.parametrize(
    "entries, message",
    [
        ({"data.pkl": None}, "torch.save did not write"),
        ({"../other/data.pkl": None, "data/0": None}, "should have 24 bytes, and has nothing"),
        ({"data/0": SIX[:-1]}, "should have 24 bytes, and has 23 bytes"),
        ({"data/0": SIX + b"0"}, "should have 24 bytes, and has 25 bytes"),
        ({"data/0": b""}, "should have 24 bytes, and has 0 bytes"),
    ],
)
def test_a_zip_file_without_the_entries_of_its_pickle_is_refused(path, entries, message):
    with pytest.raises(UserError, match=message):
        read_torch_file(new(path, {"w": view()}, {"0": SIX}, entries))


def test_compressed_entries_are_refused(path):
    """Else a small file could grow without bounds."""
    new(path, {"w": view()}, {"0": SIX}, compression=zipfile.ZIP_DEFLATED)
    with pytest.raises(UserError, match="compressed"):
        read_torch_file(path)


def test_a_wrong_checksum_is_damage(path):
    data = new(path, {"w": view()}, {"0": SIX}).read_bytes()
    path.write_bytes(data.replace(SIX, SIX[::-1]))
    with pytest.raises(UserError, match="damaged.*CRC"):
        read_torch_file(path)


def test_a_size_that_a_zip_file_cannot_hold_is_damage_and_takes_no_memory(path):
    """The directory says 2 GB of a file of 1 kB; so does the pickle."""
    count, size = 2**29, struct.pack("<I", 2**31)
    new(path, {"w": view(count=count)}, {"0": SIX})
    data = path.read_bytes()
    assert data.count(struct.pack("<II", 24, 24)) == 2
    path.write_bytes(data.replace(struct.pack("<II", 24, 24), size + size))
    with pytest.raises(UserError, match="overlap"):
        read_torch_file(path)


def test_an_entry_with_less_than_it_promises_is_damage(path):
    """The directory says 16 bytes that become 24, with the checksum of the 16."""
    data = new(path, {"w": view()}, {"0": SIX}).read_bytes()
    honest = struct.pack("<III", zlib.crc32(SIX), 24, 24)
    assert data.count(honest) == 2
    path.write_bytes(data.replace(honest, struct.pack("<III", zlib.crc32(SIX[:16]), 16, 24)))
    with pytest.raises(UserError, match="ends too early"):
        read_torch_file(path)


def test_a_text_longer_than_memory_is_damage(path):
    endless = Raw(b"\x8d" + struct.pack("<q", 2**62))
    with pytest.raises(UserError, match="damaged"):
        read_torch_file(old(path, {"w": endless}, {"0": SIX}))


def test_the_old_format_holds_the_storages_that_its_pickle_names(path):
    state = {"w": old_view()}
    with pytest.raises(UserError, match="list of storages"):
        read_torch_file(old(path, state, {"0": SIX, "1": SIX}))
    with pytest.raises(UserError, match="list of storages"):
        read_torch_file(old(path, state, {"0": SIX}, keys=["1"]))
    for count in (5, -6, 2**62):
        with pytest.raises(UserError, match=f"should have 6 elements, not {count}"):
            read_torch_file(old(path, state, {"0": SIX}, counts={"0": count}))
    with pytest.raises(UserError, match="it ends within storage '0'"):
        huge = {"w": old_view(count=2**60)}
        read_torch_file(old(path, huge, {"0": SIX}, counts={"0": 2**60}))


def test_another_version_of_the_old_format_is_refused(path):
    data = old(path, {"w": old_view()}, {"0": SIX}).read_bytes()
    path.write_bytes(data.replace(b"M\xe9\x03.", b"M\xea\x03.", 1))
    with pytest.raises(UserError, match="version of the old format"):
        read_torch_file(path)


def test_a_pickle_without_end_is_not_followed(path, monkeypatch):
    monkeypatch.setattr(torch_pickle, "MAX_OPCODES", 1000)
    new(path, {"w": view()}, {"0": SIX})
    assert len(read_torch_file(path)) == 1
    new(path, Raw(b"}" * 1001), {})
    with pytest.raises(UserError, match="more than 1000 opcodes"):
        read_torch_file(path)


def test_a_file_that_is_cut_anywhere_ends_in_a_user_error(write, path):
    data = write(w={}, v={"offset": 1, "shape": (5,), "strides": (1,)}).read_bytes()
    for end in range(len(data)):
        path.write_bytes(data[:end])
        with pytest.raises(UserError):
            read_torch_file(path)


@pytest.mark.filterwarnings("ignore:invalid escape sequence")  # in a global's name
def test_damaged_bytes_end_in_a_user_error_or_a_dict_of_arrays(write, path):
    data = write(w={}, v={"offset": 1, "shape": (5,), "strides": (1,)}).read_bytes()
    rng = random.Random(0)
    refused = 0
    for _ in range(1500):
        damaged = bytearray(data)
        for _ in range(rng.randint(1, 3)):
            damaged[rng.randrange(len(data))] = rng.choice([0, 1, 0x7F, 0xFF, rng.randrange(256)])
        path.write_bytes(damaged)
        try:
            tensors = read_torch_file(path)
        except UserError:
            refused += 1
        else:
            assert all(array.tobytes() is not None for array in tensors.values())
    assert refused > 500


def test_a_file_is_read_in_chunks_that_need_not_be_whole(write, monkeypatch):
    monkeypatch.setattr("transformer_jax.interop.torch_files._CHUNK", 7)
    np.testing.assert_array_equal(read_torch_file(write(w={}))["w"], NUMBERS.reshape(2, 3))

"""What the pickle of a PyTorch state dict says, by an interpreter that can do nothing else."""

from __future__ import annotations

import dataclasses
import pickletools
import types
from collections import OrderedDict
from typing import Any, BinaryIO

import jax.numpy as jnp
import numpy as np

MAX_OPCODES = 10_000_000  # a tensor takes some 50; it is a bound on memory

_SAVE = "If you trust it, load it with torch and save it again as safetensors."


class Refused(Exception):
    """What a file is, and what to do about it; the path goes in front. Damage is a ValueError."""


@dataclasses.dataclass(frozen=True)
class ClassName:
    """A class or function that a file names, and that nobody looks up."""

    name: str


@dataclasses.dataclass(eq=False)
class Record:
    """What a file says of an object: the name of its class, what made it, its attributes."""

    name: str
    arguments: Any
    state: Any = None


@dataclasses.dataclass(frozen=True)
class Storage:
    """A run of `count` elements, whose bytes stand elsewhere in the file."""

    key: str
    dtype: np.dtype
    count: int

    @property
    def size(self) -> int:
        """The number of bytes."""
        return self.count * self.dtype.itemsize


@dataclasses.dataclass(frozen=True)
class Tensor:
    """A view of a storage, within its bounds. Offset and strides count elements of `dtype`."""

    storage: Storage
    dtype: np.dtype
    offset: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]


class StateDictPickle:
    """An interpreter of the pickle opcodes that a state dict is made of.

    A pickle.Unpickler without globals would still follow a file into a crash: with tuples nested
    so deep that to hash one overflows the stack, or a memo of a billion entries.
    """

    def __init__(self) -> None:
        self.storages: dict[str, Storage] = {}
        self._stack: list[Any] = []
        self._below: list[list[Any]] = []  # what lies under each mark
        self._memo: dict[int, Any] = {}

    def load(self, file: BinaryIO) -> Any:
        """The next pickle of the file, with tensors as Tensor; leaves the file behind it."""
        name = ""
        try:
            for count, (opcode, argument, _) in enumerate(pickletools.genops(file)):
                if count == MAX_OPCODES:
                    raise Refused(f"has a pickle of more than {count} opcodes. {_SAVE}")
                self._step(name := opcode.name, argument)
            return self._stack.pop()
        except (IndexError, KeyError, TypeError, MemoryError) as error:
            raise ValueError(f"its pickle is wrong at the opcode {name}, or after it") from error

    def _step(self, opcode: str, argument: Any) -> None:
        stack = self._stack
        match opcode:
            case "PROTO" | "STOP":
                pass
            case "BININT" | "BININT1" | "BININT2" | "LONG1" | "BINFLOAT" | "BINUNICODE" | "NONE":
                stack.append(argument)
            case "NEWTRUE" | "NEWFALSE":
                stack.append(opcode == "NEWTRUE")
            case "EMPTY_TUPLE":
                stack.append(())
            case "EMPTY_LIST":
                stack.append([])
            case "EMPTY_DICT":
                stack.append({})
            case "MARK":
                self._below.append(stack)
                self._stack = []
            case "TUPLE1" | "TUPLE2" | "TUPLE3":
                stack.append(tuple(self._last(int(opcode[-1]))))
            case "TUPLE":
                items = self._since_mark()
                self._stack.append(tuple(items))
            case "APPEND":
                self._extend(self._last(1))
            case "APPENDS":
                self._extend(self._since_mark())
            case "SETITEM":
                self._update(self._last(2))
            case "SETITEMS":
                self._update(self._since_mark())
            case "BINPUT" | "LONG_BINPUT":
                self._memo[argument] = stack[-1]
            case "BINGET" | "LONG_BINGET":
                stack.append(self._memo[argument])
            case "GLOBAL":
                stack.append(_global(argument))
            case "REDUCE":
                stack.append(_call(*self._last(2)))
            case "BINPERSID":
                stack.append(self._storage(stack.pop()))
            case "BUILD":
                _check_attributes(state=stack.pop(), owner=stack[-1])
            case _:
                raise Refused(
                    f"has the pickle opcode {opcode}, which a state dict has not. {_SAVE}"
                )

    def _last(self, count: int) -> list[Any]:
        return [self._stack.pop() for _ in range(count)][::-1]

    def _since_mark(self) -> list[Any]:
        items, self._stack = self._stack, self._below.pop()
        return items

    def _extend(self, items: list[Any]) -> None:
        if not isinstance(self._stack[-1], list):
            raise TypeError("append to what is no list")
        self._stack[-1].extend(items)

    def _update(self, items: list[Any]) -> None:
        for key, value in zip(items[::2], items[1::2], strict=True):
            if not isinstance(key, str):
                raise Refused(f"has a dict with a key that is a {type(key).__name__}. {_SAVE}")
            self._stack[-1][key] = value

    def _storage(self, reference: Any) -> Storage:
        """The storage of the tuple ("storage", dtype, key, device, count), old: with a None."""
        match reference:
            case (str(kind), np.dtype() as dtype, str(key), _, int(count), *view):
                storage = Storage(key, dtype, count)
                known = self.storages.setdefault(key, storage)
                if kind == "storage" and view in ([], [None]) and count >= 0 and storage == known:
                    return storage
        raise ValueError("a storage is not of a known kind")


class CheckpointPickle(StateDictPickle):
    """The same for a training checkpoint: it takes objects of any class, as a Record of each.

    Nothing is looked up, imported or called for them. What an object holds as a list or a dict,
    beside its attributes, is dropped.
    """

    def _step(self, opcode: str, argument: Any) -> None:
        stack = self._stack
        match opcode:
            case "GLOBAL":
                stack.append(_GLOBALS.get(argument, ClassName(argument.replace(" ", "."))))
            case "REDUCE" | "NEWOBJ" if isinstance(stack[-2], ClassName):
                arguments = stack.pop()
                stack.append(Record(stack.pop().name, arguments))
            case "BUILD" if isinstance(stack[-2], Record):
                state = stack.pop()
                stack[-1].state = state
            case _:
                super()._step(opcode, argument)

    def _extend(self, items: list[Any]) -> None:
        if not isinstance(self._stack[-1], Record):
            super()._extend(items)

    def _update(self, items: list[Any]) -> None:
        """As in a state dict, and the numbers of parameters may be keys."""
        owner = self._stack[-1]
        if isinstance(owner, Record):
            return
        if isinstance(owner, dict) and all(type(key) in (str, int) for key in items[::2]):
            owner.update(zip(items[::2], items[1::2], strict=True))
        else:
            super()._update(items)


# What torch's functions of these names do. The arguments are whatever the file says.


def _ordered_dict() -> OrderedDict[str, Any]:
    return OrderedDict()


def _torch_size(sizes: Any) -> Any:
    return sizes


def _parameter(tensor: Any, requires_grad: Any, hooks: Any) -> Any:
    return tensor


def _tensor_v2(
    storage: Any,
    offset: Any,
    shape: Any,
    strides: Any,
    requires_grad: Any,
    hooks: Any,
    metadata: Any = None,
) -> Tensor:
    if not isinstance(storage, Storage):
        raise TypeError("a tensor of what is no storage")
    return _tensor(storage, storage.dtype, offset, shape, strides, metadata)


def _tensor_v3(
    storage: Any,
    offset: Any,
    shape: Any,
    strides: Any,
    requires_grad: Any,
    hooks: Any,
    dtype: Any,
    metadata: Any = None,
) -> Tensor:
    if not isinstance(storage, Storage) or not isinstance(dtype, np.dtype):
        raise TypeError("a tensor of what is no storage or no dtype")
    return _tensor(storage, dtype, offset, shape, strides, metadata)


def _tensor(
    storage: Storage, dtype: np.dtype, offset: Any, shape: Any, strides: Any, metadata: Any
) -> Tensor:
    if not isinstance(shape, tuple) or not isinstance(strides, tuple):
        raise TypeError("a shape or strides that are no tuple")
    if not all(type(number) is int and number >= 0 for number in (offset, *shape, *strides)):
        raise ValueError("a tensor has an offset, a size or a stride that is negative or no number")
    steps = [(size - 1) * stride for size, stride in zip(shape, strides, strict=True)]
    if 0 not in shape and (offset + sum(steps) + 1) * dtype.itemsize > storage.size:
        raise ValueError(f"a tensor reaches beyond the {storage.size} bytes of its storage")
    if metadata:
        raise Refused("has a tensor that torch negates or conjugates when it is read. " + _SAVE)
    return Tensor(storage, dtype, offset, shape, strides)


_DTYPES = {
    f"torch {name}": np.dtype(name)
    for name in "float16 float32 float64 bool int8 int16 int32 int64 "
    "uint8 uint16 uint32 uint64".split()
} | {"torch bfloat16": np.dtype(jnp.bfloat16)}
_GLOBALS: dict[str, Any] = {
    **_DTYPES,
    "torch HalfStorage": _DTYPES["torch float16"],
    "torch FloatStorage": _DTYPES["torch float32"],
    "torch DoubleStorage": _DTYPES["torch float64"],
    "torch BFloat16Storage": _DTYPES["torch bfloat16"],
    "torch BoolStorage": _DTYPES["torch bool"],
    "torch CharStorage": _DTYPES["torch int8"],
    "torch ShortStorage": _DTYPES["torch int16"],
    "torch IntStorage": _DTYPES["torch int32"],
    "torch LongStorage": _DTYPES["torch int64"],
    "torch ByteStorage": _DTYPES["torch uint8"],
    "torch.storage UntypedStorage": _DTYPES["torch uint8"],
    "torch Size": _torch_size,
    "torch._utils _rebuild_parameter": _parameter,
    "torch._utils _rebuild_tensor_v2": _tensor_v2,
    "torch._utils _rebuild_tensor_v3": _tensor_v3,
    "collections OrderedDict": _ordered_dict,
}


def _global(name: str) -> Any:
    if name not in _GLOBALS:
        raise Refused(
            f"refers to {name.replace(' ', '.')!r:.100}, which is no part of a state dict and "
            f"could be harmful; nothing of it was run. {_SAVE}"
        )
    return _GLOBALS[name]


def _call(function: Any, arguments: Any) -> Any:
    if not isinstance(function, types.FunctionType) or not isinstance(arguments, tuple):
        raise TypeError("a call of what is no function, or not with a tuple")
    return function(*arguments)


def _check_attributes(owner: Any, state: Any) -> None:
    """The one attribute that torch sets: the versions of a state dict's modules, not needed."""
    if type(owner) is not OrderedDict or type(state) is not dict or set(state) - {"_metadata"}:
        raise Refused(f"sets attributes of a {type(owner).__name__}, which is not done. {_SAVE}")

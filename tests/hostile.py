"""Files that do harm where they are executed, and ways to damage good ones."""

import contextlib
import io
import json
import pickle
import re
import zipfile

import numpy as np
import pytest
from hypothesis import strategies as st

from transformer_jax.errors import UserError


class Bomb:
    """Whoever unpickles it makes the file `trace`."""

    def __init__(self, trace):
        self.trace = trace

    def __reduce__(self):
        return open, (str(self.trace), "w")


def payloads(trace):
    """What makes the file `trace` if it is unpickled, evaluated or imported."""
    bomb, code = Bomb(trace), f"open({str(trace)!r}, 'w')"
    array, arrays, archive = io.BytesIO(), io.BytesIO(), io.BytesIO()
    np.save(array, np.array([bomb], object), allow_pickle=True)
    np.savez(arrays, about=np.array([bomb], object))
    with zipfile.ZipFile(archive, "w") as file:
        file.writestr("__main__.py", code)
        file.writestr("../../outside.py", code)
        file.writestr("model/data.pkl", pickle.dumps(bomb, protocol=2))
    tag = {"py/reduce": [{"py/function": "builtins.open"}, {"py/tuple": [str(trace), "w"]}]}
    return {
        "pickle 0": pickle.dumps(bomb, protocol=0),
        "pickle 4": pickle.dumps(bomb, protocol=4),
        "npy": array.getvalue(),
        "npz": arrays.getvalue(),
        "zip": archive.getvalue(),
        "python": f"#!/usr/bin/env python3\nimport os\n{code}\n".encode(),
        "yaml": f"!!python/object/apply:builtins.open ['{trace}', 'w']\n".encode(),
        "json": json.dumps(tag).encode(),
        "npy header": b"\x93NUMPY\x01\x00v\x00" + code.encode().ljust(117) + b"\n",
    }


PAYLOADS = tuple(payloads("trace"))


@contextlib.contextmanager
def refused(trace, *names):
    """What is done within ends in a UserError that names the file; and nothing was executed."""
    with pytest.raises(UserError) as caught:
        yield
    assert not trace.exists()
    for name in names:
        assert re.search(re.escape(str(name)), str(caught.value)), caught.value


def damages(data):
    """Strategy: the bytes with a few of them changed, put in, left out, or cut off."""
    place = st.integers(0, len(data))
    run = st.sampled_from([b"", b"\0", b"\xff" * 8, b"\xff\xff\xff\x7f", b"{", b'"', b"9" * 20])
    edit = st.tuples(place, st.sampled_from([0, 1, 4, 8, len(data)]), run | st.binary(max_size=8))

    def apply(edits):
        damaged = data
        for at, length, new in edits:
            damaged = damaged[:at] + new + damaged[at + length :]
        return damaged

    return st.lists(edit, min_size=1, max_size=3).map(apply)


ODD = st.sampled_from(
    [None, True, False, -1, 0, 1, 2, 2**31, 2**63, -(2**64), 0.5, -0.0, 1e308, float("nan"), "",
     "x", "\0", "..", "../../x", "\ud800", "x" * 5000, [], {}, [1], [[]], {"a": 1}, {"class": "x"},
     [None]]
)  # fmt: skip


def changes(value):
    """Strategy: the JSON value with a few of its parts replaced, left out, or added."""
    paths = list(_paths(value))

    def apply(edits):
        changed = json.loads(json.dumps(value))
        for path, odd, how in edits:
            # A part may not be there any more.
            with contextlib.suppress(LookupError, TypeError, AttributeError):
                _change(changed, path, odd, how)
        return changed

    hows = st.sampled_from(["replace"] * 4 + ["drop", "add"])
    return st.lists(st.tuples(st.sampled_from(paths), ODD, hows), min_size=1, max_size=3).map(apply)


def _paths(value, path=()):
    items = value.items() if isinstance(value, dict) else enumerate(value)
    for key, inner in items:
        yield (*path, key)
        if isinstance(inner, dict | list):
            yield from _paths(inner, (*path, key))


def _change(value, path, odd, how):
    for key in path[:-1]:
        value = value[key]
    if how == "drop":
        del value[path[-1]]
    elif how == "replace":
        value[path[-1]] = odd
    elif isinstance(value, dict):
        value["another"] = odd
    else:
        value.append(odd)

"""Other people's tensors as parameters, and back.

A layer's matrices are [out, in] there and one tensor a layer; here they are [in, ...out] and, under
a key "layer", stacked over the layers. What is called how, each model's file says.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence

import numpy as np
from flax.traverse_util import flatten_dict, unflatten_dict

from transformer_jax.errors import UserError
from transformer_jax.typing import Params

# A parameter's path, such as "encoder/layer/feed_forward/up/kernel", and the number of layers that
# are stacked in it: the tensor's name there, or one for each layer.
Names = Callable[[str, int], Sequence[str]]
# A parameter's path and the shape of one layer's: the shape there.
Shape = Callable[[str, tuple[int, ...]], tuple[int, ...]]

LEAVES = {"kernel": "weight", "scale": "weight", "bias": "bias", "embedding": "weight"}
_FLOATS = ("float16", "bfloat16", "float32", "float64")
_SHOWN = 20  # problems in one message


class TensorsError(UserError):
    """The tensors of a file are not those of the model.

    Attributes:
      report: a line for each tensor, also for those that fit.
    """

    def __init__(self, message: str, report: Sequence[str]) -> None:
        super().__init__(message)
        self.report = tuple(report)


def their_shape(path: str, shape: tuple[int, ...]) -> tuple[int, ...]:
    """The shape there of one layer's parameter: a matrix is [out, in], all else is flat."""
    if path.endswith("embedding"):
        return shape
    if not path.endswith("kernel"):
        return (math.prod(shape),)
    inputs = math.prod(shape[:-1]) if path.endswith("out/kernel") else shape[0]
    return (math.prod(shape) // inputs, inputs)


def params_from(
    given: dict[str, np.ndarray],
    shapes: Params,
    names: Names,
    where: str,
    *,
    problems: Iterable[str] = (),
    left_out: Iterable[str] = (),
    shape_there: Shape = their_shape,
) -> Params:
    """The parameters, float32, of which each comes from tensors.

    Args:
      given: name -> array; each must find its place.
      shapes: the parameter tree that the model needs.
      names: what its parameters are called there.
      where: the file, for messages.
      problems: what is wrong with the file already.
      left_out: what of the file nobody wants, for the report.
      shape_there: the shapes there.

    Raises:
      TensorsError: names every tensor that is missing, unknown or of another shape.
    """
    left, problems = dict(given), list(problems)
    fine = []
    flat: dict[str, np.ndarray] = {}
    for path, shape in flatten_dict(shapes, sep="/").items():
        stacked = is_stacked(path)
        own_shape = shape.shape[1:] if stacked else shape.shape
        wanted, parts = shape_there(path, own_shape), []
        for layer, name in enumerate(names(path, shape.shape[0])):
            tensor = left.pop(name, None)
            if tensor is None:
                problems.append(f"missing: {name} {list(wanted)}")
            elif tensor.dtype.name not in _FLOATS:
                problems.append(f"no parameter: {name} of {tensor.dtype}")
            elif tensor.shape != wanted:
                problems.append(f"misshapen: {name} {list(tensor.shape)}, not {list(wanted)}")
            else:
                fine.append(fitting(path, layer, own_shape, name, wanted))
                matrix = tensor.T if path.endswith("kernel") else tensor
                parts.append(np.asarray(matrix.reshape(own_shape), np.float32))
        if not problems:
            flat[path] = np.stack(parts) if stacked else parts[0]
    problems += [f"unknown: {name} {list(left[name].shape)}" for name in sorted(left)]
    if problems:
        more = len(problems) - _SHOWN
        shown = problems[:_SHOWN] + ([f"and {more} more"] if more > 0 else [])
        raise TensorsError(
            f"{where} does not hold the model that its config.json describes:\n  "
            + "\n  ".join(shown),
            [*fine, *(f"left out: {name}" for name in left_out), *problems],
        )
    return unflatten_dict(flat, sep="/")


def longest(tensors: Mapping[str, np.ndarray]) -> int:
    """The most elements that a tensor has along one axis."""
    return max((max(tensor.shape, default=0) for tensor in tensors.values()), default=0)


def check_sizes(layers: int, width: int, tensors: Mapping[str, np.ndarray], where: str) -> None:
    """Raises a UserError if a config has more layers than tensors, or is wider than all of them.

    A model of the sizes that a file only says takes time and memory, even without parameters.
    """
    limits = (("layers", layers, len(tensors)), ("width", width, longest(tensors)))
    for what, size, most in limits:
        if size > most:
            raise UserError(
                f"{where} says {what}={size}, and the tensors have room for no more than {most}. "
                f"Take config.json and weights of one model."
            )


def tensors_of(
    params: Params, names: Names, *, shape_there: Shape = their_shape
) -> dict[str, np.ndarray]:
    """The tensors there of these parameters, float32."""
    tensors = {}
    for path, value in flatten_dict(params, sep="/").items():
        value = np.asarray(value, np.float32)
        parts = value if is_stacked(path) else [value]
        for name, part in zip(names(path, len(value)), parts, strict=True):
            theirs = shape_there(path, part.shape)
            matrix = part.reshape(theirs[::-1]).T if path.endswith("kernel") else part
            tensors[name] = np.ascontiguousarray(matrix.reshape(theirs))
    return tensors


def fitting(
    path: str, layer: int, shape: Sequence[int], name: str, their_shape: Sequence[int]
) -> str:
    """What a report says of a parameter, or of one layer's, and of the tensor that it is."""
    at = f"[{layer}]" if is_stacked(path) else ""
    return f"ok: {path}{at} {list(shape)} <- {name} {list(their_shape)}"


def is_stacked(path: str) -> bool:
    """Whether a parameter is one of all layers, stacked."""
    return "/layer/" in f"/{path}"

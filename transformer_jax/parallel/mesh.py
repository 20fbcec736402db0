"""The mesh of devices: which axes there are, and how many devices each takes."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence

import jax
import numpy as np
from jax.experimental import mesh_utils
from jax.sharding import AxisType, Mesh

from transformer_jax.errors import UserError

AXES = ("data", "fsdp", "context", "model")
BATCH_AXES = ("data", "fsdp")  # a batch is split over both


@dataclasses.dataclass(frozen=True)
class MeshConfig:
    """How many devices each axis takes.

    Attributes:
      data: copies of the model, each with a slice of the batch; None takes what is left over.
      fsdp: slices of the batch whose devices also share the parameters among them.
      context: devices that split the places of each row, for long rows.
      model: devices that split each layer: heads, feed-forward width and vocabulary.
    """

    data: int | None = None
    fsdp: int = 1
    context: int = 1
    model: int = 1

    def __post_init__(self) -> None:
        for name in AXES:
            size = getattr(self, name)
            if size is not None and size < 1:
                raise ValueError(f"mesh.{name}={size} must be at least 1.")


def make_mesh(config: MeshConfig, devices: Sequence[jax.Device] | None = None) -> Mesh:
    """A mesh (data, fsdp, context, model) over these devices; over all if None.

    Raises:
      UserError: the axes do not multiply to the number of devices, or cannot be laid out on them.
    """
    devices = jax.devices() if devices is None else devices
    count = len(devices)
    taken = config.fsdp * config.context * config.model
    data = count // taken if config.data is None else config.data
    if data * taken != count:
        raise UserError(
            f"The mesh data={config.data or 'rest'} x fsdp={config.fsdp} x "
            f"context={config.context} x model={config.model} does not divide the {count} devices "
            f"that are here. Set --mesh.data, --mesh.fsdp, --mesh.context and --mesh.model so that "
            f"their product is {count}."
        )
    shape = (data, config.fsdp, config.context, config.model)
    slices = len({getattr(d, "slice_index", 0) for d in devices if d.platform == "tpu"})
    try:
        if slices > 1:
            grid = _grid_of_slices(shape, slices, devices)
        else:  # an axis may take a part of a dimension of the chips, which jax.make_mesh refuses
            grid = mesh_utils.create_device_mesh(shape, devices, allow_split_physical_axes=True)
    except (NotImplementedError, ValueError) as error:
        raise UserError(
            f"The mesh {dict(zip(AXES, shape, strict=True))} cannot be laid out on the {count} "
            f"devices: {error}. Choose axes that divide the dimensions of their grid."
        ) from error
    return Mesh(grid, AXES, axis_types=(AxisType.Auto,) * len(AXES))


def _grid_of_slices(
    shape: tuple[int, ...], slices: int, devices: Sequence[jax.Device]
) -> np.ndarray:
    """Devices of several slices of TPUs; only copies of the model use the network between them."""
    data, *rest = shape
    if data % slices:
        raise UserError(
            f"mesh.data={data} must be a multiple of the {slices} slices that the devices lie in, "
            f"so that no slice shares its parameters with another. Set a smaller --mesh.fsdp."
        )
    inside, across = (data // slices, *rest), (slices, *(1 for _ in rest))
    return mesh_utils.create_hybrid_device_mesh(
        inside, across, devices=devices, allow_split_physical_axes=True
    )


def batch_shards(mesh: Mesh) -> int:
    """How many slices the mesh cuts a batch into."""
    return math.prod(mesh.shape[axis] for axis in BATCH_AXES)

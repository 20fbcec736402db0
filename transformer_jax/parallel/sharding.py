"""Where each array lives: one table from parameter paths to the axes of the mesh."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Any

import jax
import numpy as np
from jax.sharding import AbstractMesh, Mesh, NamedSharding, PartitionSpec

from transformer_jax.errors import UserError
from transformer_jax.parallel.mesh import BATCH_AXES, batch_shards
from transformer_jax.typing import Array, Constrain

# A rule: a regex that is searched in the parameter's path, and one mesh axis (or None) for each
# dimension of the parameter. A stacked parameter has one dimension more, the layers, in front;
# it is never split. A rule without axes fits any parameter: a copy on each device.
Rules = Iterable[tuple[str, tuple[str | None, ...]]]

REPLICATED: Rules = ((r"", ()),)

TRANSFORMER_RULES: Rules = (
    (r"(position|type)_embedding/embedding$", (None, None)),  # few rows, whatever the mesh
    (r"_embedding/embedding$", ("model", None)),  # never by width: look-ups would gather it
    (r"attention/(query|key|value)/kernel$", ("fsdp", "model", None)),
    (r"attention/(query|key|value)/bias$", ("model", None)),
    (r"attention/out/kernel$", ("model", None, "fsdp")),
    (r"feed_forward/(up|gate)/kernel$", ("fsdp", "model")),
    (r"feed_forward/(up|gate)/bias$", ("model",)),
    (r"feed_forward/down/kernel$", ("model", "fsdp")),
    (r"_embedding/bias$", ("model",)),
    (r"(mlm|boundary)_head/bias$", ("model",)),  # one for each row of the embedding
    (r"head/dense/kernel$", (None, None)),  # a few classes
    (r"(embedding_projection|pooler|transform(_\d)?/dense)/kernel$", (None, "fsdp")),
    (r"(norm/scale|bias)$", (None,)),
)


def path_of(path: tuple[Any, ...]) -> str:
    """The path of a leaf as text: encoder/layer/self_attention/query/kernel."""
    return jax.tree_util.keystr(path, simple=True, separator="/")


def spec_of(name: str, shape: tuple[int, ...], rules: Rules, mesh: Mesh) -> PartitionSpec:
    """The layout of one parameter; its optimizer state, whose path ends alike, has the same.

    Raises:
      UserError: no rule matches the path, its rank does not fit, or an axis does not divide.
    """
    found = next((rule for rule in rules if re.search(rule[0], name)), None)
    if found is None and shape:
        raise UserError(f"No sharding rule matches the parameter {name} of shape {shape}.")
    if found is None or not shape or not found[1]:
        return PartitionSpec()
    pattern, axes = found
    if len(shape) - len(axes) not in (0, 1):
        raise UserError(
            f"The sharding rule {pattern!r} has {len(axes)} axes; they do not fit {name} of shape "
            f"{shape}."
        )
    axes = (None,) * (len(shape) - len(axes)) + tuple(axes)
    for size, axis in zip(shape, axes, strict=True):
        if axis is not None and size % mesh.shape[axis]:
            raise UserError(
                f"mesh.{axis}={mesh.shape[axis]} does not divide {size}, a dimension of {name} "
                f"{shape}. Choose another --mesh.{axis}, or a model whose sizes it divides."
            )
    return PartitionSpec(*axes)


def shardings(tree: Any, mesh: Mesh, rules: Rules) -> Any:
    """The layout of every array of a state (arrays or shapes), by the rules."""
    rules = tuple(rules)

    def one(path: tuple[Any, ...], leaf: Any) -> NamedSharding:
        return NamedSharding(mesh, spec_of(path_of(path), leaf.shape, rules, mesh))

    return jax.tree_util.tree_map_with_path(one, tree)


def replicated(mesh: Mesh) -> NamedSharding:
    """A copy on each device."""
    return NamedSharding(mesh, PartitionSpec())


def batch_sharding(mesh: Mesh) -> NamedSharding:
    """Splits the first axis over the slices of the batch."""
    return NamedSharding(mesh, PartitionSpec(BATCH_AXES))


def constrain_activations(mesh: Mesh) -> Constrain:
    """A function for models that fixes how activations [B,T,D] are split: by rows and places."""
    if mesh.size == 1:
        return lambda x: x
    return lambda x: _constrain(x, mesh, PartitionSpec(BATCH_AXES, "context"))


def constrain_rows(tree: Any, mesh: Mesh) -> Any:
    """Fixes arrays [B,...] that are made of a batch to be split as it is, by rows; not scalars.

    Without it, what is split by places too would have its making split: many small exchanges.
    """
    if mesh.size == 1:
        return tree
    rows = PartitionSpec(BATCH_AXES)
    return jax.tree.map(lambda x: _constrain(x, mesh, rows) if x.ndim else x, tree)


def left_axes(mesh: Mesh) -> tuple[str, ...]:
    """The axes that the program here is still to be split by; others it runs apart along."""
    apart = jax.sharding.get_abstract_mesh().manual_axes
    return tuple(axis for axis in mesh.axis_names if axis not in apart)


def left_spec(spec: PartitionSpec, mesh: Mesh) -> PartitionSpec:
    """A layout by the axes that are left."""
    left = left_axes(mesh)

    def one(axes: Any) -> tuple[str, ...] | None:
        axes = (axes,) if isinstance(axes, str) else axes or ()
        return tuple(axis for axis in axes if axis in left) or None

    return PartitionSpec(*map(one, spec))


def left_mesh(mesh: Mesh) -> Mesh | AbstractMesh:
    """The mesh, as a program that runs apart along some of its axes knows it."""
    here = jax.sharding.get_abstract_mesh()
    return here if here.manual_axes else mesh


def _constrain(x: Array, mesh: Mesh, spec: PartitionSpec) -> Array:
    if not left_axes(mesh):
        return x
    layout = NamedSharding(left_mesh(mesh), left_spec(spec, mesh))
    return jax.lax.with_sharding_constraint(x, layout)


def check_batch_size(batch_size: int, mesh: Mesh, what: str) -> None:
    """Raises UserError unless the batch can be cut into equal slices."""
    if batch_size % batch_shards(mesh):
        raise UserError(
            f"{what}={batch_size} rows cannot be split over {batch_shards(mesh)} slices "
            f"(mesh.data {mesh.shape['data']} x mesh.fsdp {mesh.shape['fsdp']}); choose a multiple."
        )


def put_batch(batch: Mapping[str, np.ndarray], mesh: Mesh) -> dict[str, Array]:
    """Makes global arrays of this host's rows of a batch."""
    layout = batch_sharding(mesh)
    return {k: jax.make_array_from_process_local_data(layout, v) for k, v in batch.items()}


def put_rows(tree: Any, mesh: Mesh) -> Any:
    """Splits every leaf's first axis over the slices of the batch; scalars are copied."""
    split, copied = batch_sharding(mesh), NamedSharding(mesh, PartitionSpec())
    return jax.device_put(tree, jax.tree.map(lambda leaf: split if leaf.ndim else copied, tree))


def with_layout(shape: jax.ShapeDtypeStruct, layout: Any) -> jax.ShapeDtypeStruct:
    """A shape that says where its array is to live."""
    return jax.ShapeDtypeStruct(shape.shape, shape.dtype, sharding=layout)

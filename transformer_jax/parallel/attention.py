"""Attention on a mesh: kernels that run on each device for its rows and its heads."""

from __future__ import annotations

from typing import Any

import flax.linen as nn
import jax
from jax.sharding import Mesh, PartitionSpec

from transformer_jax.errors import UserError
from transformer_jax.layers.attention import AttentionFn, dense_attention
from transformer_jax.layers.kernels import BLOCK, FUSED, Kernel, make_kernel
from transformer_jax.layers.masks import Mask
from transformer_jax.parallel.mesh import AXES, BATCH_AXES
from transformer_jax.parallel.sharding import left_axes, left_mesh, left_spec
from transformer_jax.typing import Array, identity

_HEADS = ("model", "context")  # what splits the heads while a device attends


def attention_on(mesh: Mesh, name: Kernel, block: int = BLOCK) -> AttentionFn:
    """The kernel of this name, with blocks of this size, as it runs on the mesh.

    The plain kernels are left to XLA, which splits them by batch and heads, unless rows are split
    too. A fused kernel is a program for one device, which XLA cannot split.

    Raises:
      UserError: the devices of the mesh have no such kernel.
    """
    platform = mesh.devices.flat[0].platform
    needed = FUSED.get(name, platform)
    if platform != needed:
        raise UserError(
            f"model.attention={name} is a kernel of a {needed}, and the devices are {platform}s. "
            f"Set --model.attention chunked, which runs everywhere."
        )
    if mesh.size == 1 or name not in FUSED and mesh.shape["context"] == 1:
        return make_kernel(name, block)
    return on_each_device(make_kernel(name, block), mesh)


def without_mesh(model: nn.Module) -> nn.Module:
    """The model with plain attention, for the few short rows of an initialisation.

    Its parameters are the same; kernels and meshes may refuse such rows.

    Args:
      model: has the fields `attention_fn` and `constrain`.
    """
    return model.clone(attention_fn=dense_attention, constrain=identity)


def on_each_device(kernel: AttentionFn, mesh: Mesh) -> AttentionFn:
    """Runs a kernel on each device, for its rows and heads, over all places of a row.

    Between layers each device of the context axis has a part of the places of a row, and all heads
    (of its part of the model axis). An all-to-all gives it all places, of a part of the heads;
    after the kernel another one goes back (DeepSpeed-Ulysses, arXiv:2309.14509, section 3). The
    results are those of the kernel on one device; but for dropout, whose bits differ by device.
    """

    def attend(
        query: Array,
        key: Array,
        value: Array,
        *,
        mask: Mask | None = None,
        bias: Array | None = None,
        dropout_rate: float = 0.0,
        dropout_key: Array | None = None,
    ) -> Array:
        _check(query, key, mesh)
        places = left_spec(PartitionSpec(BATCH_AXES, "context", "model"), mesh)

        def local(
            query: Array, key: Array, value: Array, mask: Mask | None, bias: Array | None, seed: Any
        ) -> Array:
            if seed is not None:
                seed = jax.random.fold_in(seed, jax.lax.axis_index(AXES))
            mixed = kernel(
                _to_heads(query), _to_heads(key), _to_heads(value),
                mask=mask, bias=bias, dropout_rate=dropout_rate, dropout_key=seed,
            )  # fmt: skip
            return jax.lax.all_to_all(mixed, "context", 1, 2, tiled=True)

        arrays = query, key, value, mask, bias, dropout_key
        if not left_axes(mesh):
            return local(*arrays)
        return jax.shard_map(
            local,
            mesh=left_mesh(mesh),
            axis_names=set(left_axes(mesh)),
            in_specs=(places,) * 3 + (_specs(mask, mesh), _specs(bias, mesh), PartitionSpec()),
            out_specs=places,
            check_vma=False,  # kernels of Pallas do not say along which axes their results differ
        )(*arrays)

    return attend


def _to_heads(x: Array) -> Array:
    """A part of the places, [B,T/c,N,H], to a part of the heads, [B,T,N/c,H]."""
    return jax.lax.all_to_all(x, "context", 2, 1, tiled=True)


def _specs(tree: Any, mesh: Mesh) -> Any:
    """Splits masks and biases as a device needs them: its rows, its heads, all places."""

    def one(x: Array) -> PartitionSpec:
        rows = BATCH_AXES if x.shape[0] > 1 else None
        if x.ndim == 4:
            return left_spec(PartitionSpec(rows, _HEADS if x.shape[1] > 1 else None), mesh)
        return left_spec(PartitionSpec(rows), mesh)

    return jax.tree.map(one, tree)


def _check(query: Array, key: Array, mesh: Mesh) -> None:
    split, model = mesh.shape["context"], mesh.shape["model"]
    heads = query.shape[2]
    if heads % (split * model):
        raise UserError(
            f"{heads} heads cannot be split over mesh.model={model} x mesh.context={split}, whose "
            f"product must divide them."
        )
    for length in (query.shape[1], key.shape[1]):
        if length % split:
            raise UserError(
                f"Rows of {length} places cannot be split over mesh.context={split}; choose "
                f"--data.row_length as a multiple of it."
            )

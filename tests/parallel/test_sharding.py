"""Meshes and layouts: every parameter has its place, and what cannot be is refused."""

import jax
import jax.numpy as jnp
import pytest
from jax.sharding import PartitionSpec as P

from transformer_jax import Transformer, TransformerConfig
from transformer_jax.errors import UserError
from transformer_jax.parallel.mesh import MeshConfig, batch_shards, make_mesh
from transformer_jax.parallel.sharding import (
    REPLICATED,
    TRANSFORMER_RULES,
    check_batch_size,
    path_of,
    shardings,
    spec_of,
)

MESH = make_mesh(MeshConfig(data=2, fsdp=2, model=2))


def test_data_axis_takes_the_devices_that_are_left():
    shape = {"data": 4, "fsdp": 2, "context": 1, "model": 1}
    assert dict(make_mesh(MeshConfig(fsdp=2)).shape) == shape
    assert batch_shards(MESH) == 4


@pytest.mark.parametrize("config", [MeshConfig(fsdp=3), MeshConfig(data=3), MeshConfig(model=16)])
def test_mesh_that_does_not_divide_the_devices_is_refused(config):
    with pytest.raises(UserError, match="does not divide the 8 devices"):
        make_mesh(config)


def test_axis_of_size_zero_is_refused():
    with pytest.raises(ValueError, match="mesh.fsdp=0"):
        MeshConfig(fsdp=0)


def test_every_parameter_of_the_transformer_has_a_rule():
    config = TransformerConfig(attention_bias=True, norm_first=True)
    tokens = jax.ShapeDtypeStruct((1, 2), jnp.int32)
    params = jax.eval_shape(Transformer(config).init, jax.random.key(0), tokens, tokens)["params"]
    layout = shardings(params, MESH, TRANSFORMER_RULES)
    found = {path_of(path): leaf.spec for path, leaf in jax.tree_util.tree_leaves_with_path(layout)}
    assert found["token_embedding/embedding"] == P("model", None)
    assert found["decoder/layer/cross_attention/key/kernel"] == P(None, "fsdp", "model", None)
    assert found["encoder/layer/self_attention/out/kernel"] == P(None, "model", None, "fsdp")
    assert found["encoder/layer/feed_forward/down/kernel"] == P(None, "model", "fsdp")
    assert found["encoder/layer/self_attention/query/bias"] == P(None, "model", None)
    assert found["encoder/norm/scale"] == P(None)


@pytest.mark.parametrize(
    "name,shape,message",
    [
        ("encoder/mystery", (4, 4), "No sharding rule matches the parameter encoder/mystery"),
        ("token_embedding/embedding", (4,), "do not fit"),
        ("token_embedding/embedding", (7, 4), "mesh.model=2 does not divide 7"),
    ],
)
def test_what_has_no_place_is_an_error_that_names_it(name, shape, message):
    with pytest.raises(UserError, match=message):
        spec_of(name, shape, TRANSFORMER_RULES, MESH)


def test_replicated_rules_fit_anything():
    assert spec_of("my/own/thing", (3, 5, 7), REPLICATED, MESH) == P()


def test_batch_that_cannot_be_cut_is_refused():
    check_batch_size(8, MESH, "train.batch_size")
    with pytest.raises(UserError, match="train.batch_size=6 rows cannot be split over 4"):
        check_batch_size(6, MESH, "train.batch_size")

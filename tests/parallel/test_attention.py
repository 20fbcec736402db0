"""Attention whose rows or heads are split over devices is that of one device."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from transformer_jax.errors import UserError
from transformer_jax.layers.attention import chunked_attention, dense_attention
from transformer_jax.layers.fused_attention import splash_attention
from transformer_jax.layers.masks import Mask
from transformer_jax.models.bert import BertConfig
from transformer_jax.models.bert_pretraining import BertPretraining
from transformer_jax.models.transformer import Transformer, TransformerConfig
from transformer_jax.parallel.attention import attention_on, on_each_device
from transformer_jax.parallel.mesh import MeshConfig, make_mesh
from transformer_jax.parallel.sharding import TRANSFORMER_RULES, constrain_activations, shardings

B, T, N, H = 4, 16, 8, 4
MESHES = [
    MeshConfig(context=8, data=1),
    MeshConfig(context=4),
    MeshConfig(context=2, model=2),
    MeshConfig(context=2, model=4),
    MeshConfig(context=2, fsdp=2, model=2),
]
SEGMENTS = np.sort(np.random.default_rng(5).integers(0, 4, (B, T)))[:, ::-1].copy()


def draw(*shape, seed=0):
    return jnp.asarray(np.random.default_rng(seed).normal(size=shape), jnp.float32)


MASKS = {
    "none": None,
    "segments": Mask.segments(jnp.asarray(SEGMENTS)),
    "padding": Mask.padding(jnp.asarray(SEGMENTS)),
    "causal window": Mask.causal(window=5),
    "causal positions": Mask.causal(query_positions=jnp.arange(T)[None] // 2),
    "by head": Mask.from_dense(draw(B, N, T, T, seed=6) > -0.5),
    "one for all": Mask.from_dense(draw(1, 1, T, T, seed=7) > -0.5),
    "several": Mask.segments(jnp.asarray(SEGMENTS)) & Mask.causal(),
}


@pytest.mark.parametrize("kernel", ["dense", "chunked"])
@pytest.mark.parametrize("name", MASKS)
@pytest.mark.parametrize("config", MESHES, ids=str)
def test_split_rows_attend_as_whole_ones(config, name, kernel):
    mesh = make_mesh(config)
    kernel = {
        "dense": dense_attention,
        "chunked": functools.partial(chunked_attention, chunk_size=5),
    }[kernel]
    bias = draw(1, N, T, T, seed=8) if name in ("none", "several") else None
    arrays = [draw(B, T, N, H, seed=seed) for seed in range(3)]
    mixing = draw(B, T, N, H, seed=9)

    def loss(attend, query, key, value):
        mixed = attend(query, key, value, mask=MASKS[name], bias=bias)
        return (mixed * mixing).sum(), mixed

    def run(attend):
        grad = jax.value_and_grad(functools.partial(loss, attend), (0, 1, 2), has_aux=True)
        return jax.jit(grad)(*arrays)

    (_, mixed), gradients = run(dense_attention)
    with jax.set_mesh(mesh):
        (_, split), others = run(on_each_device(kernel, mesh))
    np.testing.assert_allclose(split, mixed, atol=1e-5)
    for a, b in zip(others, gradients, strict=True):
        np.testing.assert_allclose(a, b, atol=1e-5)


def test_queries_and_keys_of_other_lengths_meet():
    mesh = make_mesh(MeshConfig(context=4))
    query, key, value = draw(B, T, N, H), draw(B, 24, N, H, seed=1), draw(B, 24, N, H, seed=2)
    ids = jnp.asarray(np.random.default_rng(3).integers(0, 3, (B, 24)))
    mask = Mask.segments(jnp.asarray(SEGMENTS), ids)
    with jax.set_mesh(mesh):
        attend = on_each_device(dense_attention, mesh)
        found = jax.jit(lambda *x: attend(*x, mask=mask))(query, key, value)
    np.testing.assert_allclose(found, dense_attention(query, key, value, mask=mask), atol=1e-5)


def test_dropout_differs_by_device_and_keeps_the_mean():
    mesh = make_mesh(MeshConfig(context=4))
    query = key = jnp.zeros((B, 64, N, H))
    value = jnp.ones((B, 64, N, H))
    with jax.set_mesh(mesh):
        attend = on_each_device(dense_attention, mesh)
        run = jax.jit(lambda k: attend(query, key, value, dropout_rate=0.25, dropout_key=k))
        found, again = run(jax.random.key(0)), run(jax.random.key(0))
    np.testing.assert_array_equal(found, again)
    # The sum of 64 weights of which a quarter is dropped: its deviation is .072, 8,192 / 4 times.
    assert abs(float(found.mean()) - 1.0) < 0.01
    assert 0.06 < float(found[..., 0].std()) < 0.085
    by_head = [np.asarray(found[b, :, n, 0]) for b in range(B) for n in range(N)]
    assert len({row.tobytes() for row in by_head}) == B * N


BATCH = {
    "segments": jnp.asarray(np.where(SEGMENTS > 0, SEGMENTS, 0)),
    "positions": jnp.broadcast_to(jnp.arange(T), (B, T)),
    "tokens": jnp.asarray(np.random.default_rng(0).integers(1, 30, (B, T))),
}


@pytest.mark.parametrize("remat", ["none", "full"])
@pytest.mark.parametrize("config", MESHES[1:], ids=str)
def test_a_model_on_split_rows_is_that_of_one_device(config, remat):
    sizes = BertConfig(32, 16, 8, 32, 2, max_positions=T, dropout_rate=0.0, remat=remat)
    sizes = BertConfig(**(vars(sizes) | {"attention_dropout_rate": 0.0}))

    def loss(mesh, params):
        model = BertPretraining(sizes)
        if mesh is not None:
            model = BertPretraining(
                sizes,
                attention_fn=attention_on(mesh, "dense"),
                constrain=constrain_activations(mesh),
            )
        arrays = {k: BATCH[k] for k in ("segments", "positions")}
        logits, pairs = model.apply({"params": params}, BATCH["tokens"], **arrays)
        targets = jax.nn.one_hot(BATCH["tokens"][:, ::-1], 32)
        losses = -(jax.nn.log_softmax(logits) * targets).sum(-1)
        return (losses * (BATCH["segments"] > 0)).mean() + pairs.mean()

    params = BertPretraining(sizes).init(jax.random.key(0), BATCH["tokens"])["params"]
    want, gradients = jax.jit(jax.value_and_grad(functools.partial(loss, None)))(params)
    mesh = make_mesh(config)
    placed = jax.device_put(params, shardings(params, mesh, TRANSFORMER_RULES))
    with jax.set_mesh(mesh):
        found, others = jax.jit(jax.value_and_grad(functools.partial(loss, mesh)))(placed)
    np.testing.assert_allclose(found, want, rtol=1e-6)
    norm = np.sqrt(sum(float((x**2).sum()) for x in jax.tree.leaves(gradients)))
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-6 * norm), others, gradients)


def test_a_translator_on_split_rows_is_that_of_one_device():
    sizes = TransformerConfig(32, 16, 4, 32, 2, 2, dropout_rate=0.0)
    model, tokens = Transformer(sizes), BATCH["tokens"]
    params = model.init(jax.random.key(0), tokens, tokens)["params"]
    segments = {"source_segments": BATCH["segments"], "target_segments": BATCH["segments"]}
    want = model.apply({"params": params}, tokens, tokens[:, ::-1], **segments)
    mesh = make_mesh(MeshConfig(context=2, model=2))
    split = Transformer(
        sizes, attention_fn=attention_on(mesh, "chunked"), constrain=constrain_activations(mesh)
    )
    placed = jax.device_put(params, shardings(params, mesh, TRANSFORMER_RULES))
    with jax.set_mesh(mesh):
        found = jax.jit(split.apply)({"params": placed}, tokens, tokens[:, ::-1], **segments)
    np.testing.assert_allclose(found, want, atol=1e-5)


def test_each_device_holds_a_part_of_the_places():
    mesh = make_mesh(MeshConfig(context=4))
    attend = attention_on(mesh, "dense")
    arrays = [jax.ShapeDtypeStruct((B, T, N, H), jnp.float32)] * 3
    with jax.set_mesh(mesh):
        split = constrain_activations(mesh)
        program = jax.jit(lambda *x: split(attend(*(split(y) for y in x))))
        text = program.lower(*arrays).compile().as_text()
    counts = {op: text.count(f" {op}(") for op in ("all-to-all", "all-gather", "all-reduce")}
    assert counts["all-to-all"] >= 1 and counts["all-gather"] == counts["all-reduce"] == 0
    assert f"f32[{B},{T},{N},{H}]" not in text  # nothing is whole anywhere


@pytest.mark.parametrize(
    ("config", "shape", "complaint"),
    [
        (MeshConfig(context=8), (B, T, 4, H), "4 heads cannot be split over mesh.model=1 x"),
        (MeshConfig(context=2, model=4), (B, T, 4, H), "mesh.model=4 x mesh.context=2"),
        (MeshConfig(context=8), (B, 12, N, H), "Rows of 12 places cannot be split"),
    ],
)
def test_what_cannot_be_split_is_refused(config, shape, complaint):
    mesh = make_mesh(config)
    with pytest.raises(UserError, match=complaint):
        on_each_device(dense_attention, mesh)(*[draw(*shape)] * 3)


def test_a_kernel_of_other_devices_is_refused():
    for name, platform in (("splash", "tpu"), ("cudnn", "gpu")):
        with pytest.raises(UserError, match=f"{name} is a kernel of a {platform}, .* are cpus"):
            attention_on(make_mesh(MeshConfig()), name)
    assert attention_on(make_mesh(MeshConfig(model=2)), "dense") is dense_attention


def test_a_fused_kernel_runs_on_each_device():
    mesh = make_mesh(MeshConfig(context=2, model=2))
    kernel = functools.partial(splash_attention, interpret=True)
    arrays = [draw(2, 256, 4, 32, seed=seed) for seed in range(3)]
    ids = jnp.asarray(np.sort(np.random.default_rng(0).integers(0, 3, (2, 256)))[:, ::-1].copy())
    mask = Mask.segments(ids)
    with jax.set_mesh(mesh):
        found = jax.jit(lambda *x: on_each_device(kernel, mesh)(*x, mask=mask))(*arrays)
    np.testing.assert_allclose(found, dense_attention(*arrays, mask=mask), atol=1e-5)


def test_copies_that_run_apart_attend_on_their_own_devices():
    mesh = make_mesh(MeshConfig(data=2, context=2, model=2))
    arrays, mask = [draw(B, T, N, H, seed=seed) for seed in range(3)], MASKS["segments"]

    def attend(query, key, value, mask):
        return on_each_device(dense_attention, mesh)(query, key, value, mask=mask)

    with jax.set_mesh(mesh):
        rows = jax.sharding.PartitionSpec("data")
        apart = jax.shard_map(
            attend, mesh=mesh, in_specs=rows, out_specs=rows, axis_names={"data"}, check_vma=False
        )
        found = jax.jit(apart)(*arrays, mask)
    np.testing.assert_allclose(found, dense_attention(*arrays, mask=mask), atol=1e-5)

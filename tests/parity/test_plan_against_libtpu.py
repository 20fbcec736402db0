"""Plans with the compiler for TPUs, which `pip install -e '.[plan]'` brings."""

import dataclasses

import pytest

from transformer_jax.errors import UserError
from transformer_jax.models.bert import BertConfig
from transformer_jax.parallel.mesh import MeshConfig, make_mesh
from transformer_jax.planning.chips import parse_topology
from transformer_jax.planning.collectives import BETWEEN, summary
from transformer_jax.planning.compiler import devices_of
from transformer_jax.planning.plan import make_plan
from transformer_jax.tasks.bert_data import BertData
from transformer_jax.tasks.masked_lm import MaskedLmConfig
from transformer_jax.training.config import ExperimentConfig, TrainConfig
from transformer_jax.training.optimizer import OptimizerConfig

pytest.importorskip("libtpu")

SQUARE = parse_topology("v5e:2x2")
MODEL = BertConfig(
    vocab_size=1024, width=256, num_heads=4, feed_forward_dim=1024, num_layers=3,
    max_positions=128, dropout_rate=0.0, attention_dropout_rate=0.0, dtype="bfloat16",
)  # fmt: skip
CONFIG = ExperimentConfig(
    MaskedLmConfig(),
    MODEL,
    BertData(row_length=128),
    optimizer=OptimizerConfig(clip_norm=1.0),
    train=TrainConfig(batch_size=32, dropout_bits="rbg"),
)
LARGEST = 2 * 256 * 1024  # bytes of a layer's largest matrix in bfloat16


@pytest.fixture(scope="module")
def plans():
    """One compilation for each layout."""
    made = {}

    def of(**mesh):
        key = tuple(sorted(mesh.items()))
        if key not in made:
            made[key] = make_plan(dataclasses.replace(CONFIG, mesh=MeshConfig(**mesh)), SQUARE)
        return made[key]

    return of


@pytest.mark.parametrize("mesh", [{}, {"fsdp": 4}, {"model": 2}])
def test_the_program_runs_the_products_of_the_model_and_no_more(plans, mesh):
    """Two independent counts: dot products of the traced loss, convolutions of the program."""
    plan = plans(**mesh)
    assert plan.hardware_flops == pytest.approx(plan.flops, rel=0.03)


def test_loops_count_as_often_as_they_turn(plans):
    deep = dataclasses.replace(CONFIG, model=dataclasses.replace(MODEL, num_layers=6))
    plan = make_plan(deep, SQUARE)
    assert plan.hardware_flops == pytest.approx(plan.flops, rel=0.03)
    assert plan.flops > 1.7 * plans().flops


def test_what_remat_computes_again_is_found():
    again = dataclasses.replace(CONFIG, model=dataclasses.replace(MODEL, remat="full"))
    plan = make_plan(again, SQUARE)
    assert 1.15 < plan.hardware_flops / plan.flops < 4 / 3


def test_splash_is_planned_with_the_products_of_its_kernels():
    """Queries with keys: its backward kernels form three products more than the model has."""
    model = dataclasses.replace(MODEL, attention="splash", num_heads=2)
    plan = make_plan(dataclasses.replace(CONFIG, model=model), SQUARE)
    product = 2 * 32 * 128 * 128 * 256  # 2 x rows x queries x keys x width
    assert plan.hardware_flops == pytest.approx(plan.flops + 3 * 3 * product, rel=0.03)


@pytest.mark.parametrize("microbatches", [1, 4])
def test_copies_may_sum_their_gradients_once_and_in_float32(microbatches):
    train = dataclasses.replace(CONFIG.train, microbatches=microbatches, sum_once=True)
    plan = make_plan(dataclasses.replace(CONFIG, train=train), SQUARE)
    assert {one.dtype for one in plan.collectives} == {"f32"}
    parameters = 2.4e6 + 1024 * 256 + 128 * 256
    sums = summary(list(plan.collectives))
    assert set(sums) == {"all-reduce"}
    assert sums["all-reduce"]["bytes"] == pytest.approx(4 * parameters, rel=0.1)


def test_else_products_in_bfloat16_sum_their_gradients_in_it(plans):
    assert any("bf16" in one.dtype for one in plans().collectives)


def test_copies_of_the_model_need_sums_of_gradients_only(plans):
    found = summary(list(plans().collectives))
    assert set(found) == {"all-reduce"}
    parameters = 2.4e6 + 1024 * 256 + 128 * 256
    assert 2 * parameters < found["all-reduce"]["bytes"] < 4.5 * parameters


def test_shared_parameters_are_gathered_by_layer(plans):
    plan = plans(fsdp=4)
    gathers = [one for one in plan.collectives if one.kind == "all-gather"]
    assert {len(one.group) for one in gathers} == {4}
    largest = [one for one in gathers if one.bytes == LARGEST]
    assert sum(one.runs for one in largest) == 2 * 2 * 3  # up and down, both passes, each layer
    assert all(one.bytes <= LARGEST for one in gathers)  # never the whole stack


SMALL = 2**16  # bytes: what is gathered of a few tokens changes places


@pytest.mark.parametrize(
    ("mesh", "needed"),
    [
        ({}, {"all-reduce"}),
        ({"fsdp": 4}, {"all-reduce", "all-gather", "reduce-scatter"}),
        ({"model": 2}, {"all-reduce"}),
        ({"context": 2}, {"all-reduce", "all-to-all"}),
    ],
)
def test_no_layout_exchanges_more_than_it_needs(plans, mesh, needed):
    large = [one for one in plans(**mesh).collectives if one.bytes > SMALL]
    assert {one.kind for one in large} == needed


@pytest.mark.parametrize(
    ("topology", "slices", "mesh"),
    [
        ("v5p:4x4x4", 1, MeshConfig(model=2)),  # takes half of a dimension
        ("v5e:4x4", 2, MeshConfig(model=2)),
        ("v6e:4x4", 1, MeshConfig(fsdp=2, context=2)),
    ],
)
def test_axes_may_take_a_part_of_a_dimension(topology, slices, mesh):
    devices = devices_of(parse_topology(topology, slices=slices))
    assert make_mesh(mesh, devices).size == len(devices)


def test_slices_hold_copies_of_the_model_and_exchange_sums_only(plans):
    two = make_plan(CONFIG, parse_topology("v5e:2x2", slices=2))
    assert two.mesh["data"] == 8 and two.topology.num_chips == 8
    kinds = summary(list(two.collectives))
    parameters = summary(list(plans().collectives))["all-reduce"]["bytes"]
    # Each chip sends its quarter of the sums of its slice, and the small ones whole.
    assert parameters / 4 < kinds[BETWEEN]["bytes"] < parameters / 2


def test_parameters_are_not_shared_between_slices():
    config = dataclasses.replace(CONFIG, mesh=MeshConfig(fsdp=8))
    with pytest.raises(UserError, match="multiple of the 2 slices"):
        make_plan(config, parse_topology("v5e:2x2", slices=2))


def test_a_plan_that_does_not_fit_is_a_result():
    big = dataclasses.replace(CONFIG, train=TrainConfig(batch_size=2**17, dropout_bits="rbg"))
    plan = make_plan(big, SQUARE)
    assert not plan.fits and plan.times is None
    assert plan.compiled.memory.total > SQUARE.chip.hbm_bytes
    assert plan.to_json()["fits"] is False


def test_a_topology_that_cannot_be_wired_is_an_error_of_the_users():
    with pytest.raises(UserError, match="v5e:3x5 is none that the compiler knows"):
        make_plan(CONFIG, parse_topology("v5e:3x5"))

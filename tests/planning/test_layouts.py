"""A step exchanges between devices what its layout needs, and nothing else."""

import jax
import pytest

from transformer_jax.models.bert import BertConfig
from transformer_jax.parallel.mesh import MeshConfig, make_mesh
from transformer_jax.planning.abstract import abstract_step
from transformer_jax.planning.collectives import find_collectives
from transformer_jax.planning.hlo import parse_program
from transformer_jax.tasks.bert_data import BertData
from transformer_jax.tasks.masked_lm import MaskedLmConfig
from transformer_jax.training.config import ExperimentConfig, TrainConfig

LAYERS, ROWS, LENGTH, WIDTH, VOCAB = 3, 16, 64, 64, 1024
MODEL = BertConfig(
    vocab_size=VOCAB,
    width=WIDTH,
    num_heads=8,
    feed_forward_dim=256,
    num_layers=LAYERS,
    max_positions=LENGTH,
)
SMALL = 64  # bytes: sums of losses and weights, norms, and whether a loop goes on
# The gradient of the tied table has two parts, of the look-up and of the scores, which XLA sums
# apart on a CPU.
TABLE = 4 * VOCAB * WIDTH


def collectives(mesh, microbatches=1, dtype="float32", sum_once=False):
    """Those of a step that are not small, as (kind, bytes in all runs, devices of a group, dtype),
    and the bytes of the parameters."""
    config = ExperimentConfig(
        MaskedLmConfig(),
        BertConfig(**(vars(MODEL) | {"dtype": dtype})),
        BertData(row_length=LENGTH),
        train=TrainConfig(batch_size=ROWS, microbatches=microbatches, sum_once=sum_once),
        mesh=mesh,
    )
    step = abstract_step(config, make_mesh(mesh))
    found = find_collectives(parse_program(step.lower().compile().as_text()), 8)
    large = [(c.kind, c.bytes * c.runs, len(c.group), c.dtype) for c in found if c.bytes > SMALL]
    params = sum(x.size * 4 for x in jax.tree.leaves(step.arguments[0].params))
    return large, params


def total(found, kind, group=None):
    return sum(size for k, size, g, _ in found if k == kind and g == (group or g))


def kinds(found):
    return {kind for kind, *_ in found}


def test_copies_sum_their_gradients_once():
    found, params = collectives(MeshConfig())
    assert kinds(found) == {"all-reduce"}
    assert params <= total(found, "all-reduce") - TABLE < 1.01 * params


def test_a_sum_of_gradients_has_the_dtype_of_the_parameters():
    found, params = collectives(MeshConfig(), dtype="bfloat16")
    assert {dtype for *_, dtype in found} == {"f32"}
    assert params <= total(found, "all-reduce") - TABLE < 1.01 * params


def test_shared_parameters_are_gathered_for_each_pass_and_never_activations():
    found, params = collectives(MeshConfig(fsdp=8))
    assert kinds(found) <= {"all-reduce", "all-gather", "reduce-scatter"}
    # The matrices of the layers, once forward and once backward; those of pooler and head.
    layers = LAYERS * 4 * (4 * WIDTH**2 + 2 * WIDTH * 256)
    assert total(found, "all-gather") <= 2 * layers + 2 * 4 * WIDTH**2 * 2
    assert total(found, "all-gather") >= layers
    sums = total(found, "all-reduce") + total(found, "reduce-scatter")
    assert params <= sums - TABLE < 1.01 * params  # a CPU's compiler sums whole gradients


def test_split_rows_meet_for_attention_and_nowhere_else():
    found, params = collectives(MeshConfig(context=2))
    assert kinds(found) == {"all-reduce", "all-to-all"}
    # Queries, keys, values and what is mixed, forward and backward, of a device's rows and places.
    one = 4 * ROWS // 4 * (LENGTH // 2) * WIDTH
    assert total(found, "all-to-all") == LAYERS * 8 * one
    # Gradients over the copies and over the places; the states of a few gathered tokens.
    assert params <= total(found, "all-reduce", 4) - TABLE < 1.01 * params
    assert total(found, "all-reduce", 2) - TABLE < 1.05 * params


def test_split_layers_sum_activations_and_never_gather_them():
    found, params = collectives(MeshConfig(model=2))
    assert kinds(found) == {"all-reduce"}
    one = 4 * ROWS // 4 * LENGTH * WIDTH  # activations of a device's rows
    # Two a layer forward; backward one for the products of queries, keys and values each, and one
    # of the feed-forward network; the embedding; the scores of some tokens.
    assert total(found, "all-reduce", 2) < (LAYERS * 6 + 1.5) * one
    assert total(found, "all-reduce", 4) < 0.7 * params  # each has half of the large ones


@pytest.mark.parametrize(
    "mesh",
    [
        MeshConfig(fsdp=2, context=2, model=2),
        MeshConfig(fsdp=2, model=2),
        MeshConfig(context=2, model=2),
    ],
    ids=str,
)
def test_products_of_axes_need_what_each_needs(mesh):
    found, _ = collectives(mesh)
    # The matrices of pooler and head, whose work XLA splits over the model axis too, change places.
    moved = [size for kind, size, *_ in found if kind == "collective-permute"]
    assert sum(moved) <= 2 * 4 * WIDTH**2 * (mesh.fsdp > 1)
    found = [one for one in found if one[0] != "collective-permute"]
    needed = {"all-reduce"}
    needed |= {"all-to-all"} if mesh.context > 1 else set()
    needed |= {"all-gather", "reduce-scatter"} if mesh.fsdp > 1 else set()
    assert kinds(found) <= needed


def test_microbatches_sum_their_gradients_within_the_step():
    one, params = collectives(MeshConfig())
    parts, _ = collectives(MeshConfig(), microbatches=2)
    assert kinds(parts) == {"all-reduce"}
    assert total(parts, "all-reduce") <= 2.02 * total(one, "all-reduce")


@pytest.mark.parametrize(
    "mesh",
    [MeshConfig(), MeshConfig(fsdp=2), MeshConfig(context=2), MeshConfig(model=2)],
    ids=str,
)
def test_copies_may_sum_the_gradients_of_all_microbatches_once(mesh):
    found, params = collectives(mesh, microbatches=2, sum_once=True)
    copies = 8 // mesh.fsdp // mesh.context // mesh.model
    # Of a split parameter each device sums its part.
    part = 0.5 if mesh.fsdp > 1 or mesh.model > 1 else 0.99
    assert part * params <= total(found, "all-reduce", copies) < 1.01 * params


def test_copies_that_sum_once_exchange_nothing_else():
    found, params = collectives(MeshConfig(), microbatches=2, sum_once=True)
    [(kind, size, devices, dtype)] = found
    assert (kind, devices, dtype) == ("all-reduce", 8, "f32")
    assert params <= size < 1.01 * params

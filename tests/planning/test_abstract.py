"""The step of each config as shapes: those that a run has, on any mesh, and with no data."""

import dataclasses
from pathlib import Path

import jax
import pytest

from tests.tasks.small_texts import ROWS, write_texts
from transformer_jax.cli.config_file import load_config
from transformer_jax.data.pipeline import DataState
from transformer_jax.errors import UserError
from transformer_jax.models.bert import BertConfig
from transformer_jax.parallel.mesh import MeshConfig, make_mesh
from transformer_jax.planning.abstract import abstract_step
from transformer_jax.planning.compiler import bytes_of
from transformer_jax.tasks.bert_data import BertData
from transformer_jax.tasks.masked_lm import MaskedLmConfig
from transformer_jax.training.config import ExperimentConfig, TrainConfig
from transformer_jax.training.loop import build_task

CONFIGS = Path(__file__).resolve().parents[2] / "configs"
PRETRAINING = (
    "bert_tiny bert_base bert_large bert_large_512 roberta_base albert_base spanbert_base "
    "distilbert scibert biobert bert_demo transformer_small transformer_base_wmt "
    "transformer_big_wmt translate_demo"
).split()
SMALL = BertConfig(
    vocab_size=64, width=16, num_heads=2, feed_forward_dim=32, num_layers=2, max_positions=24
)


def small(**mesh):
    return ExperimentConfig(
        MaskedLmConfig(), SMALL, BertData(**ROWS), train=TrainConfig(batch_size=16, microbatches=2),
        mesh=MeshConfig(**mesh),
    )  # fmt: skip


@pytest.mark.parametrize("name", PRETRAINING)
def test_every_config_has_a_step_without_its_data(name):
    config = load_config(CONFIGS / f"{name}.py")
    rows = 8 * config.train.microbatches
    config = dataclasses.replace(config, train=dataclasses.replace(config.train, batch_size=rows))
    state, batch, _ = abstract_step(config, make_mesh(MeshConfig())).arguments
    assert all(x.shape[0] == rows for x in batch.values())
    assert config.data.row_length in {x.shape[1] for x in batch.values() if len(x.shape) == 2}
    tables = [x for x in jax.tree.leaves(state.params) if config.model.vocab_size in x.shape]
    assert tables


def test_shapes_are_those_of_a_run(tmp_path):
    config = small()
    real = dataclasses.replace(
        config, data=dataclasses.replace(config.data, path=str(write_texts(tmp_path)))
    )
    mesh = make_mesh(config.mesh)
    task = build_task(real, tmp_path, mesh)
    wanted, _ = next(task.train_batches(DataState(), 0, 1))
    state, batch, _ = abstract_step(config, mesh).arguments
    assert {k: (x.shape, x.dtype) for k, x in batch.items()} == {
        k: (x.shape, x.dtype) for k, x in wanted.items()
    }
    params = jax.eval_shape(task.init_params, jax.random.key(0))
    same = jax.tree.map(lambda a, b: a.shape == b.shape, state.params, params)
    assert all(jax.tree.leaves(same))


@pytest.mark.parametrize("mesh", [{}, {"fsdp": 4}, {"fsdp": 2, "model": 2}])
def test_the_step_compiles_on_a_mesh(mesh):
    config = small(**mesh)
    step = abstract_step(config, make_mesh(config.mesh))
    text = step.lower().compile().as_text()
    assert "all-reduce" in text
    assert ("all-gather" in text) == ("fsdp" in mesh)


def test_state_that_is_shared_among_devices_takes_less_of_each():
    whole, shared = (
        bytes_of(abstract_step(small(**mesh), make_mesh(MeshConfig(**mesh))).arguments[0])
        for mesh in ({}, {"fsdp": 8})
    )
    assert shared < 0.75 * whole


def test_rows_that_no_mesh_can_share_are_refused():
    config = dataclasses.replace(small(), train=TrainConfig(batch_size=12))
    with pytest.raises(UserError, match="12 rows cannot be split over 8"):
        abstract_step(config, make_mesh(config.mesh))

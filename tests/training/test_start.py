"""Training that starts from the parameters of another run."""

import dataclasses

import jax
import numpy as np
import pytest

from tests.tasks.small_texts import MODEL, ROWS, write_texts
from transformer_jax.errors import UserError
from transformer_jax.parallel.mesh import MeshConfig
from transformer_jax.tasks.bert_data import BertData
from transformer_jax.tasks.distillation import TEACHER, DistillationConfig
from transformer_jax.tasks.masked_lm import MaskedLmConfig
from transformer_jax.training.checkpoint import Checkpoints
from transformer_jax.training.config import ExperimentConfig, TrainConfig
from transformer_jax.training.loop import train
from transformer_jax.training.optimizer import OptimizerConfig
from transformer_jax.training.schedules import WarmupLinear

ALL = MeshConfig()


@pytest.fixture(scope="module")
def texts(tmp_path_factory):
    return write_texts(tmp_path_factory.mktemp("texts"))


def config_of(texts, steps=1, rate=0.0, mesh=ALL, **changes):
    """A run that changes nothing, if the rate is 0."""
    values = dict(
        task=MaskedLmConfig(),
        model=MODEL,
        data=BertData(path=str(texts), **ROWS),
        optimizer=OptimizerConfig(schedule=WarmupLinear(peak=rate, warmup=1)),
        train=TrainConfig(steps=steps, batch_size=8, checkpoint_every=steps, log_every=steps),
        mesh=mesh,
    )
    train_changes = changes.pop("train", {})
    values |= changes
    return ExperimentConfig(
        **(values | {"train": dataclasses.replace(values["train"], **train_changes)})
    )


def params_of(folder):
    checkpoints = Checkpoints(folder, read_only=True)
    params = checkpoints.read_params(checkpoints.latest())
    checkpoints.close()
    return params


@pytest.fixture(scope="module")
def first(texts, tmp_path_factory):
    """A run that has learnt something."""
    folder = tmp_path_factory.mktemp("first") / "run"
    train(config_of(texts, steps=3, rate=0.01), folder)
    return folder


@pytest.mark.parametrize("mesh", [ALL, MeshConfig(data=2, fsdp=2, model=2)])
def test_a_run_starts_from_anothers_parameters_on_any_mesh(texts, first, tmp_path, mesh):
    later = config_of(
        texts,
        mesh=mesh,
        data=BertData(path=str(texts), tokenizer=str(first), **ROWS),
        train={"init_from": str(first), "seed": 7},
    )
    train(later, tmp_path / "run")
    jax.tree.map(np.testing.assert_array_equal, params_of(tmp_path / "run"), params_of(first))
    own, copied = (next(f.glob("tokenizer.*")).read_bytes() for f in (first, tmp_path / "run"))
    assert own == copied


def test_a_resumed_run_needs_the_first_one_no_more(texts, first, tmp_path):
    settings = {"init_from": str(first), "checkpoint_every": 1}
    config = config_of(texts, steps=2, train=settings)
    moved = tmp_path / "first"
    train(dataclasses.replace(config, train=dataclasses.replace(config.train, stop_at=1)), tmp_path)
    first.rename(moved)
    try:
        train(config, tmp_path)
    finally:
        moved.rename(first)
    assert Checkpoints(tmp_path, read_only=True).latest() == 2


def test_parameters_that_do_not_fit_are_named(texts, first, tmp_path):
    layers, width, inner = MODEL.num_layers, MODEL.width, MODEL.feed_forward_dim
    other = dataclasses.replace(MODEL, feed_forward_dim=inner + 8, pooler=False)
    data = BertData(path=str(texts), **(ROWS | {"row_length": 24, "examples": "full_sentences"}))
    config = config_of(texts, model=other, data=data, train={"init_from": str(first)})
    with pytest.raises(UserError) as error:
        train(config, tmp_path / "run")
    message = str(error.value)
    assert str(first) in message
    assert f"bert/pooler/kernel {(width, width)} has no place" in message
    have, want = (layers, width, inner), (layers, width, inner + 8)
    assert f"bert/encoder/layer/feed_forward/up/kernel is {have}, not {want}" in message


def test_no_run_and_no_checkpoint_are_errors(texts, tmp_path):
    for folder in (tmp_path / "nothing", tmp_path):
        config = config_of(texts, train={"init_from": str(folder)})
        with pytest.raises(UserError, match="no checkpoints|no finished checkpoint"):
            train(config, tmp_path / "run")


def test_a_student_learns_from_a_run_and_keeps_its_teacher(texts, first, tmp_path):
    student = dataclasses.replace(MODEL, num_layers=1, type_vocab_size=0, pooler=False)
    data = BertData(path=str(texts), tokenizer=str(first), row_length=24, examples="full_sentences")
    config = config_of(
        texts,
        task=DistillationConfig(teacher=MODEL),
        model=student,
        data=data,
        optimizer=OptimizerConfig(
            schedule=WarmupLinear(peak=0.01, warmup=1), frozen=(TEACHER,), clip_norm=1.0
        ),
        steps=2,
    )
    with pytest.raises(UserError, match="--train.init_from"):
        train(config, tmp_path / "run")
    config = dataclasses.replace(
        config, train=dataclasses.replace(config.train, init_from=str(first))
    )
    train(config, tmp_path / "run")
    params = params_of(tmp_path / "run")
    jax.tree.map(np.testing.assert_array_equal, params["teacher"], params_of(first))
    student_head = params["student"]["mlm_head"]["bias"]
    assert (student_head != params["teacher"]["mlm_head"]["bias"]).any()

"""Pretraining through the loop: on 8 devices and on 1, in one go and resumed."""

import dataclasses
import json
import shutil

import jax
import numpy as np
import pytest

from tests.tasks.small_texts import MODEL, ROWS
from tests.training.test_loop import last_state, losses
from transformer_jax.errors import UserError
from transformer_jax.objectives.corruption import MaskingConfig
from transformer_jax.parallel.mesh import MeshConfig, make_mesh
from transformer_jax.tasks.bert_data import BertData
from transformer_jax.tasks.masked_lm import MaskedLmConfig
from transformer_jax.training import loop
from transformer_jax.training.config import ExperimentConfig, TrainConfig
from transformer_jax.training.loop import train
from transformer_jax.training.metrics import read_metrics
from transformer_jax.training.optimizer import OptimizerConfig
from transformer_jax.training.schedules import WarmupLinear

pytestmark = pytest.mark.usefixtures("quick_compilation")

DROPOUT = dataclasses.replace(MODEL, dropout_rate=0.1, attention_dropout_rate=0.1)
RUNS = {
    "bert": (MaskedLmConfig(score_chunk=3), DROPOUT, {}, dict(microbatches=2)),
    "albert": (
        MaskedLmConfig(MaskingConfig("ngram")),
        dataclasses.replace(
            MODEL, vocab_size=48, embedding_width=8, shared_layers=True, num_layers=2
        ),
        dict(examples="sentence_order", tokenizer="sentencepiece"),
        {},
    ),
    "roberta": (
        MaskedLmConfig(MaskingConfig("span", rate=0.2), span_boundary=True),
        dataclasses.replace(
            DROPOUT, vocab_size=272, pooler=False, type_vocab_size=1, first_position=2
        ),
        dict(examples="full_sentences", tokenizer="byte_bpe"),
        {},
    ),
}
PAIRED = {"bert": True, "albert": True, "roberta": False}
STEPS = 6


def config_of(name, folder, **options):
    task, model, data, train_options = RUNS[name]
    settings = dict(steps=STEPS, batch_size=8, log_every=1, checkpoint_every=2, keep=3)
    return ExperimentConfig(
        task=task,
        model=model,
        data=BertData(path=str(folder), **(ROWS | data)),
        optimizer=OptimizerConfig(
            schedule=WarmupLinear(peak=1e-2, warmup=2),
            weight_decay=0.01,
            kind="lamb" if name == "albert" else "adam",
        ),
        train=TrainConfig(**(settings | train_options | options)),
        mesh=MeshConfig(data=2, fsdp=2, model=2),
    )


@pytest.fixture(scope="module", params=sorted(RUNS))
def whole(request, tmp_path_factory, text_folder):
    """A run's name, and its folder after all steps in one go on 8 devices."""
    workdir = tmp_path_factory.mktemp(request.param)
    train(config_of(request.param, text_folder), workdir)
    return request.param, workdir


def assert_same_state(workdir, other):
    (got, position), (want, wanted) = last_state(workdir), last_state(other)
    for (path, a), (_, b) in zip(got, want, strict=True):
        np.testing.assert_array_equal(a, b, err_msg=jax.tree_util.keystr(path))
    assert position == wanted


def test_eight_devices_train_as_one_does(whole, tmp_path, text_folder, monkeypatch):
    name, workdir = whole
    monkeypatch.setattr(loop, "make_mesh", lambda _: make_mesh(MeshConfig(), jax.devices()[:1]))
    train(config_of(name, text_folder), tmp_path)
    one, eight = read_metrics(tmp_path), read_metrics(workdir)
    terms = {"mlm", *["pair"] * PAIRED[name], *["span_boundary"] * (name == "roberta")}
    compared = {"loss", *terms, "valid_loss", "valid_mlm", "valid_mlm_accuracy", "grad_norm"}
    assert len(one) == len(eight) == STEPS
    assert compared <= eight[-1].keys() and ("pair" in eight[-1]) == PAIRED[name]
    for a, b in zip(one, eight, strict=True):
        for key in compared & a.keys():
            assert a[key] == pytest.approx(b[key], rel=2e-4), (a["step"], key)
    assert one[0]["loss"] == pytest.approx(eight[0]["loss"], rel=2e-6)


def test_stopped_killed_and_resumed_is_bitwise_one_go(whole, tmp_path, text_folder):
    name, workdir = whole
    train(config_of(name, text_folder, stop_at=3), tmp_path)
    train(config_of(name, text_folder, stop_at=5), tmp_path)
    shutil.rmtree(tmp_path / "checkpoints" / "5")  # as if it was killed before that was there
    train(config_of(name, text_folder), tmp_path)
    assert_same_state(tmp_path, workdir)
    assert losses(tmp_path) == losses(workdir)
    position = json.loads(last_state(workdir)[1])["position"]
    assert position["epoch"] >= 1  # else no epoch's end was crossed


def test_a_run_whose_text_has_changed_does_not_go_on(whole, tmp_path, text_folder):
    name, workdir = whole
    shutil.copytree(text_folder, tmp_path / "text")
    with (tmp_path / "text" / "train.txt").open("a") as file:
        file.write("\nthe red cat sees the house\n")
    with pytest.raises(
        UserError, match=r"(?s)trained on other data.*data\.text.*take a new --workdir"
    ):
        train(config_of(name, tmp_path / "text"), workdir)

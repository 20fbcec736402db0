"""A student and its teacher in one task: what is adopted, what is frozen, what the losses are."""

import dataclasses

import jax
import numpy as np
import pytest
from scipy.special import log_softmax, softmax

from tests.tasks.small_texts import MODEL, build
from transformer_jax.data.pipeline import DataState
from transformer_jax.errors import UserError
from transformer_jax.tasks.distillation import TEACHER, DistillationConfig
from transformer_jax.training.optimizer import OptimizerConfig, make_optimizer
from transformer_jax.training.schedules import WarmupLinear
from transformer_jax.training.step import init_state, make_train_step

STUDENT = dataclasses.replace(MODEL, num_layers=1, type_vocab_size=0, pooler=False)
CONFIG = DistillationConfig(teacher=MODEL)


def build_student(folder, workdir, config=CONFIG, model=STUDENT, **data):
    data = {"examples": "full_sentences", "row_length": 24} | data
    return build(folder, workdir, config, model=model, **data)


@pytest.fixture(scope="module")
def task(tmp_path_factory, text_folder):
    return build_student(text_folder, tmp_path_factory.mktemp("run"))


@pytest.fixture(scope="module")
def teacher_params(task):
    return jax.device_get(task.init_params(jax.random.key(5))["teacher"])


@pytest.fixture(scope="module")
def batch(task):
    return next(task.train_batches(DataState(), 0, 1))[0]


def adopted(task, params):
    return task.adopt_params(params, jax.eval_shape(task.init_params, jax.random.key(0)))


def test_the_student_starts_with_every_second_layer_and_the_teachers_tables(task, teacher_params):
    params = adopted(task, teacher_params)
    jax.tree.map(np.testing.assert_array_equal, params["teacher"], teacher_params)
    student, teacher = params["student"]["bert"], teacher_params["bert"]
    assert "type_embedding" not in student and "pooler" not in student
    np.testing.assert_array_equal(
        student["token_embedding"]["embedding"], teacher["token_embedding"]["embedding"]
    )
    jax.tree.map(
        lambda mine, theirs: np.testing.assert_array_equal(mine, theirs[:1]),
        student["encoder"]["layer"],
        teacher["encoder"]["layer"],
    )
    wanted = jax.eval_shape(task.init_params, jax.random.key(0))
    jax.tree.map(lambda shape, x: np.testing.assert_equal(x.shape, shape.shape), wanted, params)


def test_losses_are_those_of_numpy(task, teacher_params, batch):
    params = adopted(task, teacher_params)
    masked = task.corrupt(batch)
    found = {k: np.asarray(v) for k, v in task.loss_terms(params, batch, None).items()}
    outputs = []
    for model, mine in ((task.model, params["student"]), (task.teacher, params["teacher"])):
        types = batch["token_types"] if model.config.type_vocab_size else None
        given = dict(segments=batch["segments"], positions=batch["positions"], token_types=types)
        logits, _ = model.apply(
            {"params": mine}, masked.tokens, **given, masked_positions=masked.positions
        )
        hidden = model.apply({"params": mine}, masked.tokens, **given, method="states").hidden
        outputs.append((np.asarray(logits, np.float64), np.asarray(hidden, np.float64)))
    (logits, hidden), (teacher_logits, teacher_hidden) = outputs
    real = np.asarray(masked.weights) > 0
    soft = -(softmax(teacher_logits / 2, -1) * log_softmax(logits / 2, -1)).sum(-1)[real].sum()
    targets = np.asarray(masked.targets)[real]
    mlm = -log_softmax(logits, -1)[real][np.arange(len(targets)), targets].sum()
    lengths = [np.linalg.norm(h, axis=-1) for h in (hidden, teacher_hidden)]
    cosine = (hidden * teacher_hidden).sum(-1) / (lengths[0] * lengths[1])
    tokens = batch["segments"] != 0
    np.testing.assert_allclose(found["soft"], [soft, real.sum()], rtol=1e-5)
    np.testing.assert_allclose(found["mlm"], [mlm, real.sum()], rtol=1e-5)
    np.testing.assert_allclose(
        found["cosine"], [(1 - cosine)[tokens].sum(), tokens.sum()], rtol=1e-4
    )
    assert task.coefficients == {"soft": 20.0, "mlm": 2.0, "cosine": 1.0}


def test_a_student_that_is_its_teacher_has_the_teachers_entropy(tmp_path, text_folder):
    # One layer of one: the student is the teacher.
    config = DistillationConfig(teacher=STUDENT)
    task = build_student(text_folder, tmp_path / "run", config)
    params = adopted(task, task.init_params(jax.random.key(1))["teacher"])
    batch = next(task.train_batches(DataState(), 0, 1))[0]
    terms = task.loss_terms(params, batch, None)
    masked = task.corrupt(batch)
    logits, _ = task.teacher.apply(
        {"params": params["teacher"]},
        masked.tokens,
        segments=batch["segments"],
        positions=batch["positions"],
        masked_positions=masked.positions,
    )
    logits = np.asarray(logits, np.float64) / 2
    entropy = -(softmax(logits, -1) * log_softmax(logits, -1)).sum(-1)
    real = np.asarray(masked.weights) > 0
    np.testing.assert_allclose(terms["soft"][0], entropy[real].sum(), rtol=1e-5)
    np.testing.assert_allclose(terms["cosine"][0], 0, atol=1e-3)


def test_a_step_moves_the_student_and_leaves_the_teacher(task, teacher_params, batch):
    config = OptimizerConfig(
        schedule=WarmupLinear(peak=0.1, warmup=1), weight_decay=0.1, frozen=(TEACHER,)
    )
    optimizer = make_optimizer(config, 10)
    step = jax.jit(make_train_step(task.loss_terms, task.coefficients, optimizer))
    params = jax.tree.map(jax.numpy.asarray, adopted(task, teacher_params))
    state, metrics = step(init_state(params, optimizer), batch, jax.random.key(0))
    jax.tree.map(np.testing.assert_array_equal, state.params["teacher"], teacher_params)
    moved = jax.tree.map(
        lambda x, y: bool((x != y).any()), state.params["student"], params["student"]
    )
    assert all(jax.tree.leaves(moved))
    moments = sum(x.size for x in jax.tree.leaves(state.opt_state))
    size = sum(x.size for x in jax.tree.leaves(params["student"]))
    assert 2 * size <= moments < 2 * size + 10
    assert np.isfinite(metrics["loss"])


def test_the_student_fills_masks_alone(task, teacher_params):
    params = adopted(task, teacher_params)
    params["teacher"] = jax.tree.map(np.zeros_like, teacher_params)
    assert len(task.mask_filler(params)(["the red [MASK] ."])[0].masks[0]) == 5


@pytest.mark.parametrize(
    "changes,data,message",
    [
        ({"num_layers": 2}, {}, "num_layers=2 must be half"),
        ({"width": 8}, {}, "model.width=8, but the teacher has 16"),
        ({"vocab_size": 65}, {}, "vocab_size"),
        ({}, {"examples": "next_sentence"}, "learns no pairs"),
    ],
)
def test_what_does_not_fit_the_teacher_is_refused(changes, data, message, tmp_path, text_folder):
    student = dataclasses.replace(STUDENT, **changes)
    with pytest.raises(UserError, match=message):
        build_student(text_folder, tmp_path / "run", model=student, **data)


def test_a_teacher_without_what_the_student_needs_is_refused(task, teacher_params):
    lacking = {"bert": teacher_params["bert"]}
    with pytest.raises(UserError, match="no parameters mlm_head"):
        adopted(task, lacking)

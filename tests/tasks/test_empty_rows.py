"""Rows of padding alone: each task's loss of them is 0 and finite, and so are all gradients."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests.tasks import (
    small_texts,
    test_choosing,
    test_classification,
    test_distillation,
    test_reading,
    test_tagging,
    test_translation,
)
from tests.tasks.fine_tuning import write_start
from transformer_jax.data.wordpiece import WordPieceTokenizer
from transformer_jax.objectives.corruption import MaskingConfig
from transformer_jax.tasks.masked_lm import MaskedLmConfig

pytestmark = pytest.mark.usefixtures("quick_compilation")

ROWS = [np.zeros(0, np.int64)] * 8
DROPOUT = dict(dropout_rate=0.1, attention_dropout_rate=0.1)
WRITERS = {
    test_choosing: test_choosing.write_questions,
    test_classification: test_classification.write_texts,
    test_reading: test_reading.write_questions,
    test_tagging: test_tagging.write_sentences,
}


def fine_tuned(tests, tmp_path):
    """The task of a file of tests, with its own data."""
    words = "the a saw was with and cat dog hen cow red green blue grey york".split()
    size = min(tests.MODEL.vocab_size, 64)
    path = tmp_path / "tokenizer.json"
    tokenizer = WordPieceTokenizer.train(words * 4, path, vocab_size=size, lowercase=True)
    start = write_start(tmp_path / "start", tests.MODEL, tokenizer)
    folder = tmp_path / "data"
    folder.mkdir()
    WRITERS[tests](folder)
    task = tests.build(start, folder, tmp_path / "run")
    return task, task._split("train").build(ROWS)


def pretrained(task):
    seeds = {"row_seeds": np.arange(8, dtype=np.uint32)}
    return task, task._split("train").build(ROWS) | seeds


def made(name, tmp_path, request):
    """A task, and a batch of its own making whose rows are all empty."""
    if name in globals():
        return fine_tuned(globals()[name], tmp_path)
    if name == "translation":
        folder = request.getfixturevalue("pairs_folder")
        model = dataclasses.replace(test_translation.MODEL, dropout_rate=0.1)
        task = test_translation.build(folder, tmp_path / "run", model=model)
        return task, task._build(task._train, ROWS)
    folder = request.getfixturevalue("text_folder")
    if name == "distillation":
        return pretrained(test_distillation.build_student(folder, tmp_path / "run"))
    model = dataclasses.replace(small_texts.MODEL, **DROPOUT)
    if name == "bert in chunks":
        config = MaskedLmConfig(score_chunk=3)
        chunked = dataclasses.replace(model, attention="chunked", attention_dropout_rate=0.0)
        return pretrained(small_texts.build(folder, tmp_path / "run", config, model=chunked))
    config = MaskedLmConfig(MaskingConfig("span", rate=0.2), span_boundary=True)
    return pretrained(small_texts.build(folder, tmp_path / "run", config, model=model))


@pytest.mark.parametrize(
    "name",
    [
        "translation",
        "bert in chunks",
        "bert with spans",
        "distillation",
        "test_classification",
        "test_tagging",
        "test_reading",
        "test_choosing",
    ],
)
def test_empty_rows_have_no_weight_no_loss_and_no_gradient(name, tmp_path, request):
    task, batch = made(name, tmp_path, request)
    params = jax.jit(task.init_params)(jax.random.key(0))

    def loss(params):
        terms = task.loss_terms(params, batch, jax.random.key(1))
        return sum(total for total, _ in terms.values()), terms

    gradients, terms = jax.jit(jax.grad(loss, has_aux=True))(params)
    assert terms.keys() >= task.coefficients.keys()
    for term, (total, weight) in terms.items():
        assert float(total) == 0 == float(weight), term
    for path, leaf in jax.tree_util.tree_leaves_with_path(gradients):
        assert not jnp.any(leaf != 0), jax.tree_util.keystr(path)  # NaN is unequal, too

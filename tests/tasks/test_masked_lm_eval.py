"""Evaluation of a pretrained encoder, counted again with plain Python."""

import collections
import dataclasses
import math

import jax
import numpy as np
import pytest
from scipy.special import log_softmax
from scipy.stats import binomtest

from tests.tasks.small_texts import MODEL, build
from transformer_jax.data.documents import read_documents
from transformer_jax.objectives.corruption import MaskingConfig
from transformer_jax.parallel.mesh import MeshConfig
from transformer_jax.tasks.masked_lm import MaskedLmConfig
from transformer_jax.tasks.masked_lm_eval import unigram_baseline, wilson_interval
from transformer_jax.training.loop import make_mean_loss, make_terms

pytestmark = pytest.mark.usefixtures("quick_compilation")


@pytest.mark.parametrize("right,total", [(0, 5), (5, 5), (1, 2), (37, 90), (4999, 10000)])
def test_interval_is_wilsons(right, total):
    want = binomtest(right, total).proportion_ci(0.95, method="wilson")
    assert wilson_interval(right, total) == pytest.approx((want.low, want.high), abs=1e-6)


def test_guessing_by_frequency_is_counted_by_hand():
    unigrams = np.array([3, 0, 9, 1])
    targets = np.array([2, 1, 2, 0, 3, 2])
    losses = [-math.log((unigrams[t] + 1) / (13 + 4)) for t in targets]
    loss, accuracy = unigram_baseline(unigrams, targets)
    assert loss == pytest.approx(sum(losses) / 6)
    assert accuracy == pytest.approx(3 / 6)


def by_hand(task, params, split, folder):
    """The metrics of a split, from the logits of all places and the words of the text."""
    seen = collections.Counter()
    for document in read_documents(str(folder), "train"):
        for encoded in task.tokenizer.encode(document):
            seen.update(encoded.ids.tolist())
    apply, masks = jax.jit(task.model.apply), jax.jit(task.corrupt)
    found, targets = collections.Counter(), []
    for batch in task.eval_batches(split, 0, 1):
        masked = jax.device_get(masks(batch))
        arrays = {k: batch[k] for k in ("segments", "positions", "token_types", "first_tokens")}
        logits, pairs = jax.device_get(apply({"params": params}, masked.tokens, **arrays))
        for row, slot in np.argwhere(masked.weights > 0):
            place = masked.positions[row, slot]
            target = batch["tokens"][row, place]
            targets.append(target)
            found["mlm"] -= log_softmax(logits[row, place].astype(float))[target]
            found["right"] += logits[row, place].argmax() == target
        for row, number in np.argwhere(batch["pair_weights"] > 0):
            label = batch["pair_labels"][row, number]
            found["pairs"] += 1
            found["pair"] -= log_softmax(pairs[row, number].astype(float))[label]
            found["pairs_right"] += pairs[row, number].argmax() == label
    counts = [seen[i] + 1 for i in range(task.tokenizer.vocab_size)]
    frequent = seen.most_common(1)[0][0]
    unigram = -sum(math.log(counts[t] / sum(counts)) for t in targets) / len(targets)
    return found, targets, unigram, targets.count(frequent) / len(targets)


@pytest.fixture(scope="module", params=[1, 8])
def task(request, tmp_path_factory, text_folder):
    workdir = tmp_path_factory.mktemp("run")
    mesh = MeshConfig(fsdp=2, model=2) if request.param == 8 else MeshConfig()
    config = MaskedLmConfig(MaskingConfig("word", rate=0.3))
    return build(text_folder, workdir, config, mesh=mesh, devices=request.param)


@pytest.fixture(scope="module")
def params(task):
    return jax.device_get(jax.jit(task.init_params)(jax.random.key(4)))


def test_metrics_are_those_counted_by_hand(task, params, text_folder):
    evaluation = task.evaluate(params, "test")
    means = make_mean_loss(task, task.mesh, make_terms(task))(params, "test")
    found, targets, unigram, frequent = by_hand(task, params, "test", text_folder)
    interval = binomtest(int(found["pairs_right"]), found["pairs"]).proportion_ci(method="wilson")
    assert len(targets) > 50 and found["pairs"] > 10
    got = dict(evaluation.metrics)
    assert got.pop("pair_interval") == pytest.approx([interval.low, interval.high], abs=1e-4)
    assert got.pop("unigram_loss") == pytest.approx(unigram, abs=1e-4)
    assert got.pop("unigram_accuracy") == pytest.approx(frequent, abs=1e-4)
    assert got == {"masked_tokens": len(targets), "pairs": found["pairs"]}
    mlm, pair = found["mlm"] / len(targets), found["pair"] / found["pairs"]
    right, pairs_right = found["right"] / len(targets), found["pairs_right"] / found["pairs"]
    want = dict(mlm=mlm, pair=pair, mlm_accuracy=right, pair_accuracy=pairs_right, loss=mlm + pair)
    assert means == pytest.approx(want, rel=1e-5)
    first, second, third = evaluation.report.splitlines()[:3]
    assert f"loss {mlm:.3f} nats, accuracy {right:.1%} of {len(targets):,}" in first
    assert f"loss {unigram:.3f} nats, accuracy {frequent:.1%}" in second
    assert f"accuracy {pairs_right:.1%} of {found['pairs']}" in third


def test_report_shows_sentences_with_their_guesses(task, params):
    shown = task.evaluate(params, "test").report.split("\n\n")[1].splitlines()
    assert len(shown) == 10
    for sentence, guesses in zip(shown[::2], shown[1::2], strict=True):
        assert sentence.count("[MASK]") == 1
        assert guesses.count("%") == 5


def test_without_pairs_there_is_no_word_of_them(tmp_path, text_folder):
    model = dataclasses.replace(MODEL, pooler=False)
    task = build(text_folder, tmp_path, model=model, examples="full_sentences")
    evaluation = task.evaluate(task.init_params(jax.random.key(0)), "valid")
    assert evaluation.metrics.keys() == {"masked_tokens", "unigram_loss", "unigram_accuracy"}
    assert "pairs" not in evaluation.report

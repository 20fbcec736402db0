"""The losses of pretraining: packed and unpacked, against numpy, in parts and at once."""

import dataclasses
import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from scipy.special import erf, log_softmax

from tests.tasks.small_texts import MODEL, build
from transformer_jax.data.pipeline import DataState
from transformer_jax.objectives.corruption import Corrupted, MaskingConfig
from transformer_jax.parallel.mesh import MeshConfig
from transformer_jax.parallel.sharding import put_batch
from transformer_jax.tasks.masked_lm import MaskedLmConfig
from transformer_jax.training.step import init_state, make_train_step

pytestmark = pytest.mark.usefixtures("quick_compilation")

SPANS = MaskedLmConfig(MaskingConfig("span", rate=0.3), span_boundary=True)
OF_TOKENS = ("tokens", "segments", "positions", "token_types", "word_starts")
OF_EXAMPLES = ("first_tokens", "pair_labels", "pair_weights")


@pytest.fixture(scope="module")
def task(tmp_path_factory, text_folder):
    """Pairs, with all three losses."""
    return build(text_folder, tmp_path_factory.mktemp("run"), SPANS)


@pytest.fixture(scope="module")
def params(task):
    return params_of(task)


@pytest.fixture(scope="module")
def batch(task):
    return last_of_epoch(task)


def params_of(task):
    """Fresh parameters, but for the biases, which would be zero."""
    params = jax.jit(task.init_params)(jax.random.key(0))
    noise = np.random.default_rng(0)

    def moved(x):
        return x + noise.normal(0, 0.2, x.shape).astype(np.float32) if x.ndim == 1 else x

    return jax.tree.map(moved, params)


@pytest.fixture(scope="module")
def plain(task, params, batch):
    """Loss, terms and gradients of the batch."""
    return losses_of(task, params, batch)


def last_of_epoch(task):
    """The batch whose last rows are empty; full ones come before."""
    for batch, following in task.train_batches(DataState(), 0, 1):
        if following.epoch:
            return batch


def corrupted(task, batch):
    return jax.device_get(jax.jit(task.corrupt)(batch))


def losses_of(task, params, batch, masked=None):
    """Loss, terms and gradients, compiled anew; with these masks instead of the task's."""

    def loss(params, batch, masked):
        with pytest.MonkeyPatch.context() as patch:
            if masked is not None:
                patch.setattr(task, "corrupt", lambda _: masked)
            terms = task.loss_terms(params, batch, None)
        return sum(c * terms[k][0] / terms[k][1] for k, c in task.coefficients.items()), terms

    run = jax.jit(jax.value_and_grad(loss, has_aux=True))
    (value, terms), gradients = run(params, batch, masked)
    return jax.device_get((value, terms, gradients))


def outputs_of(task, params, batch, masked):
    """Logits of every place [B,T,V] and of the pairs [B,E,2]."""

    @jax.jit
    def run(params, batch, masked):
        return task.model.apply(
            {"params": params},
            masked.tokens,
            segments=batch["segments"],
            positions=batch["positions"],
            token_types=batch["token_types"],
            first_tokens=batch["first_tokens"],
        )

    return jax.device_get(run(params, batch, masked))


def assert_close(got, want):
    """Trees of gradients or parameters, by the size of all of them together."""
    size = math.sqrt(sum(float(np.square(x).sum()) for x in jax.tree.leaves(want)))
    for (path, a), b in zip(
        jax.tree_util.tree_leaves_with_path(got), jax.tree.leaves(want), strict=True
    ):
        np.testing.assert_allclose(a, b, atol=2e-6 * size, err_msg=jax.tree_util.keystr(path))


def examples(batch):
    """Row, number and places of each packed example."""
    for row, segments in enumerate(batch["segments"]):
        for number in range(segments.max(initial=0)):
            yield row, number, np.flatnonzero(segments == number + 1)


def unpack(batch, masked):
    """Each example in a row of its own, with the same masks."""
    rows, masks = [], []
    for row, number, inside in examples(batch):
        size, begin = len(inside), inside[0]
        new = {name: np.zeros_like(batch[name][row]) for name in (*OF_TOKENS, *OF_EXAMPLES)}
        for name in OF_TOKENS:
            new[name][:size] = batch[name][row, inside]
        new["segments"][:size] = 1
        for name in OF_EXAMPLES[1:]:
            new[name][0] = batch[name][row, number]
        rows.append(new)
        mine = (masked.weights[row] > 0) & np.isin(masked.positions[row], inside)

        def moved(values, by, row=row, mine=mine):
            out = np.zeros_like(values[row])
            out[: mine.sum()] = values[row][mine] - by
            return out

        tokens = np.zeros_like(masked.tokens[row])
        tokens[:size] = masked.tokens[row, inside]
        masks.append(
            Corrupted(
                tokens,
                moved(masked.positions, begin),
                moved(masked.targets, 0),
                moved(masked.weights, 0),
                masked.overflow,
                moved(masked.left, begin),
                moved(masked.right, begin),
                moved(masked.offset, 0),
            )
        )
    stacked = {name: np.stack([new[name] for new in rows]) for name in rows[0]}
    return stacked, Corrupted(*(np.stack(field) for field in zip(*masks, strict=True)))


def test_packed_equals_unpacked_with_its_gradients(task, params, batch):
    masked = corrupted(task, batch)
    single, single_masked = unpack(batch, masked)
    rows = batch["segments"].max(axis=1)
    assert rows.max() >= 3 and rows.min() == 0  # packed rows, and an empty one
    found = {}
    for name, rows, masks in (("packed", batch, masked), ("single", single, single_masked)):
        found[name] = losses_of(task, params, rows, masks), outputs_of(task, params, rows, masks)
    (packed, (tokens, pairs)), (unpacked, (tokens_1, pairs_1)) = found["packed"], found["single"]
    assert {"mlm", "pair", "span_boundary"} <= packed[1].keys()
    for name, (total, weight) in packed[1].items():
        np.testing.assert_allclose(unpacked[1][name][0], total, rtol=1e-5, err_msg=name)
        assert unpacked[1][name][1] == weight > 0
    assert_close(unpacked[2], packed[2])
    for i, (row, number, inside) in enumerate(examples(batch)):
        np.testing.assert_allclose(
            tokens_1[i, : len(inside)], tokens[row, inside], rtol=1e-4, atol=1e-4
        )
        np.testing.assert_allclose(pairs_1[i, 0], pairs[row, number], rtol=1e-4, atol=1e-5)


def test_losses_and_accuracies_are_those_of_all_logits(task, params, batch, plain):
    masked = corrupted(task, batch)
    logits, pairs = outputs_of(task, params, batch, masked)
    _, terms, _ = plain
    table = log_softmax(logits.astype(np.float64), axis=-1)
    judged = log_softmax(pairs.astype(np.float64), axis=-1)
    mlm, right, count, pair, pairs_right, pairs_count = 0.0, 0, 0, 0.0, 0, 0
    for row in range(len(batch["tokens"])):
        for place, weight in zip(masked.positions[row], masked.weights[row], strict=True):
            target = batch["tokens"][row, place]  # of the text, before it was corrupted
            mlm -= weight * table[row, place, target]
            right += weight * (logits[row, place].argmax() == target)
            count += weight
    for row, number, inside in examples(batch):
        assert batch["tokens"][row, inside[0]] == task.tokenizer.cls_id
        assert batch["first_tokens"][row, number] == inside[0]
        label = batch["pair_labels"][row, number]
        pair -= judged[row, number, label]
        pairs_right += pairs[row, number].argmax() == label
        pairs_count += 1
    want = {
        "mlm": (mlm, count),
        "mlm_accuracy": (right, count),
        "pair": (pair, pairs_count),
        "pair_accuracy": (pairs_right, pairs_count),
    }
    for name, pair_of in want.items():
        np.testing.assert_allclose(terms[name], pair_of, rtol=1e-5, err_msg=name)


def test_span_boundary_loss_is_that_of_the_paper(text_folder, tmp_path):
    """Of runs, too, that are longer together than the head has places."""
    config = dataclasses.replace(SPANS, masking=MaskingConfig("span", rate=0.95))
    model = dataclasses.replace(MODEL, max_positions=48)
    task = build(text_folder, tmp_path, config, model=model, example_length=48)
    params, batch = params_of(task), last_of_epoch(task)
    masked = corrupted(task, batch)
    states = task.model.apply(
        {"params": params},
        masked.tokens,
        **{name: batch[name] for name in ("segments", "positions", "token_types")},
        method="states",
    )
    hidden, head = np.asarray(states.hidden, np.float64), params["span_boundary_head"]
    table = np.asarray(params["bert"]["token_embedding"]["embedding"], np.float64)
    total, longest = 0.0, 0
    for row in range(len(batch["tokens"])):
        chosen = set(masked.positions[row][masked.weights[row] > 0].tolist())
        for place in chosen:
            left = right = place
            while left in chosen:
                left -= 1
            while right in chosen:
                right += 1
            longest = max(longest, right - left - 1)
            offset = head["position_embedding"]["embedding"][min(place - left - 1, 19)]
            x = np.concatenate([hidden[row, left], hidden[row, right], offset])
            for part in ("transform_1", "transform_2"):
                x = x @ head[part]["dense"]["kernel"] + head[part]["dense"]["bias"]
                x = x * (1 + erf(x / math.sqrt(2))) / 2
                x = (x - x.mean()) / math.sqrt(x.var() + 1e-12)
                x = x * head[part]["norm"]["scale"] + head[part]["norm"]["bias"]
            total -= log_softmax(table @ x + head["bias"])[batch["tokens"][row, place]]
    assert longest > 20
    found = jax.jit(task.loss_terms, static_argnums=2)(params, batch, None)["span_boundary"]
    np.testing.assert_allclose(found, (total, masked.weights.sum()), rtol=1e-5)


def test_scores_in_chunks_change_neither_values_nor_gradients(
    task, params, batch, plain, monkeypatch
):
    _, terms, gradients = plain
    assert corrupted(task, batch).positions.shape[1] % 3  # the last chunk is not full
    monkeypatch.setattr(task, "config", dataclasses.replace(task.config, score_chunk=3))
    _, chunked, chunked_gradients = losses_of(task, params, batch)
    for name, value in terms.items():
        np.testing.assert_allclose(chunked[name], value, rtol=1e-6, err_msg=name)
    assert_close(chunked_gradients, gradients)


def uneven(batch):
    """Row 0 keeps all its examples, others one or none: part 2 of 4 has no row at all."""
    kept = np.array([99, 1, 0, 2, 99, 1, 0, 0])[:, None]
    inside = batch["segments"] <= kept
    there = np.arange(batch["first_tokens"].shape[1]) < kept
    return (
        batch
        | {name: np.where(inside, batch[name], 0).astype(batch[name].dtype) for name in OF_TOKENS}
        | {name: np.where(there, batch[name], 0).astype(batch[name].dtype) for name in OF_EXAMPLES}
    )


def test_accumulation_is_exact_however_uneven_the_parts_are(task, params):
    batch = uneven(next(iter(task.train_batches(DataState(), 0, 1)))[0])
    counts = corrupted(task, batch).weights.sum(axis=1)
    assert len(set(counts.tolist())) > 2 and counts.min() == 0
    optimizer = optax.sgd(1.0)
    found = {}
    for parts in (1, 2, 4):
        step = make_train_step(task.loss_terms, task.coefficients, optimizer, microbatches=parts)
        found[parts] = jax.jit(step)(init_state(params, optimizer), batch, jax.random.key(0))
    whole, metrics = found[1]
    update = jax.tree.map(jnp.subtract, whole.params, params)
    for parts in (2, 4):
        state, metrics_of_parts = found[parts]
        assert_close(jax.tree.map(jnp.subtract, state.params, params), update)
        for name, value in metrics.items():
            np.testing.assert_allclose(metrics_of_parts[name], value, rtol=2e-6, err_msg=name)


def test_masks_are_the_same_in_any_part_of_a_batch(task, batch):
    whole = corrupted(task, batch)
    for parts in (2, 4):
        for part in range(parts):
            some = corrupted(task, {k: v[part::parts] for k, v in batch.items()})
            for name in ("tokens", "positions", "targets", "weights", "left", "right", "offset"):
                np.testing.assert_array_equal(
                    getattr(some, name), getattr(whole, name)[part::parts], err_msg=name
                )


@functools.cache
def _small(**changes):
    return dataclasses.replace(MODEL, init_std=0.02, **changes)


@pytest.mark.parametrize(
    "examples,changes",
    [
        ("next_sentence", {}),
        ("sentence_order", dict(embedding_width=8, shared_layers=True, type_vocab_size=0)),
        ("full_sentences", dict(pooler=False, type_vocab_size=0)),
    ],
)
def test_fresh_parameters_know_nothing(text_folder, tmp_path, examples, changes):
    task = build(text_folder, tmp_path, SPANS, model=_small(**changes), examples=examples)
    params = jax.jit(task.init_params)(jax.random.key(0))
    terms = jax.jit(task.loss_terms, static_argnums=2)(params, last_of_epoch(task), None)
    means = {name: total / weight for name, (total, weight) in terms.items()}
    assert means["mlm"] == pytest.approx(math.log(64), abs=0.05)
    assert means["span_boundary"] == pytest.approx(math.log(64), abs=0.05)
    assert set(task.coefficients) <= set(terms)
    assert ("pair" in task.coefficients) == ("pair" in terms) == (examples != "full_sentences")
    if "pair" in terms:
        assert means["pair"] == pytest.approx(math.log(2), abs=0.02)


def test_dropout_comes_with_the_key_alone(text_folder, tmp_path):
    task = build(text_folder, tmp_path, model=dataclasses.replace(MODEL, dropout_rate=0.5))
    params, batch = params_of(task), last_of_epoch(task)

    @jax.jit
    def mlm(params, batch, key):
        return task.loss_terms(params, batch, key)["mlm"][0]

    one, again, other = (mlm(params, batch, jax.random.key(seed)) for seed in (1, 1, 2))
    plain = mlm(params, batch, None)
    assert one == again
    assert len({float(one), float(other), float(plain)}) == 3


def test_score_chunk_of_nothing_is_refused():
    with pytest.raises(ValueError, match="score_chunk=0"):
        MaskedLmConfig(score_chunk=0)


@pytest.mark.parametrize("mesh", [MeshConfig(fsdp=2, context=2), MeshConfig(context=2, data=4)])
def test_split_rows_have_the_losses_of_whole_ones(tmp_path, text_folder, mesh):
    found = []
    for one, devices in ((MeshConfig(), 1), (mesh, 8)):
        task = build(text_folder, tmp_path / str(devices), mesh=one, devices=devices)
        params = jax.jit(task.init_params)(jax.random.key(0))
        batch, _ = next(task.train_batches(DataState(), 0, 1))
        with jax.set_mesh(task.mesh):
            terms = jax.jit(task.loss_terms)(params, put_batch(batch, task.mesh), None)
        found.append({name: float(total / weight) for name, (total, weight) in terms.items()})
    assert found[1] == pytest.approx(found[0], rel=1e-6)

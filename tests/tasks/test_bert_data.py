"""The data of pretraining: batches over hosts and starts, tokenizers, and what is refused."""

import collections
import dataclasses
import json
import shutil

import jax
import numpy as np
import pytest

from tests.tasks.small_texts import MODEL, ROWS, build, write_texts
from transformer_jax.data.byte_bpe import ByteBpeTokenizer
from transformer_jax.data.documents import read_documents
from transformer_jax.data.pipeline import DataState
from transformer_jax.data.sentencepiece_encoder import SentencePieceEncoder
from transformer_jax.data.wordpiece import WordPieceTokenizer
from transformer_jax.errors import UserError
from transformer_jax.parallel.mesh import MeshConfig, make_mesh
from transformer_jax.parallel.sharding import put_batch
from transformer_jax.tasks.bert_data import BertData, run_tokenizer
from transformer_jax.tasks.masked_lm import MaskedLmConfig
from transformer_jax.training.config import ExperimentConfig, TrainConfig
from transformer_jax.training.loop import train

pytestmark = pytest.mark.usefixtures("quick_compilation")

SMALLER = dataclasses.replace(MODEL, vocab_size=48)  # SentencePiece finds no more tokens


@pytest.fixture(scope="module")
def task(tmp_path_factory, text_folder):
    return build(text_folder, tmp_path_factory.mktemp("run"))


def two_epochs(task, hosts=1):
    """Global batches with the state after each, put together from what each host reads."""
    parts = [task.train_batches(DataState(), host, hosts) for host in range(hosts)]
    found = []
    while True:
        read = [next(part) for part in parts]
        (state,) = {state for _, state in read}
        found.append(({k: np.concatenate([b[k] for b, _ in read]) for k in read[0][0]}, state))
        if state.epoch == 2:
            return found


def assert_equal(one, other):
    jax.tree.map(np.testing.assert_array_equal, one, other)


def test_hosts_together_read_the_same_batches(task):
    one = two_epochs(task)
    assert [state.epoch for _, state in one].count(0) > 1
    for hosts in (2, 4):
        several = two_epochs(task, hosts)
        assert [state for _, state in several] == [state for _, state in one]
        for (a, _), (b, _) in zip(several, one, strict=True):
            assert_equal(a, b)


def test_any_state_goes_on_as_if_nothing_had_happened(task):
    whole = two_epochs(task)
    for number, (_, state) in enumerate(whole[:-1]):
        resumed = task.train_batches(state, 0, 1)
        for want, following in whole[number + 1 :]:
            batch, after = next(resumed)
            assert_equal(batch, want)
            assert after == following


def test_masks_are_the_same_on_eight_devices(task, text_folder, tmp_path):
    (batch, _), *_ = two_epochs(task)
    want = jax.device_get(jax.jit(task.corrupt)(batch))
    for mesh in (MeshConfig(), MeshConfig(fsdp=2, model=2)):
        mesh = make_mesh(mesh, jax.devices())
        assert_equal(jax.device_get(jax.jit(task.corrupt)(put_batch(batch, mesh))), want)


def test_each_row_of_each_epoch_has_masks_of_its_own(task):
    found = two_epochs(task)
    seeds = np.concatenate([batch["row_seeds"] for batch, _ in found])
    assert len(set(seeds.tolist())) == len(seeds)
    (batch, _), (other, _) = found[0], next(x for x in found if x[1] == DataState(1, 1))
    same = {k: np.repeat(v[:1], len(v), axis=0) for k, v in batch.items() if k != "row_seeds"}
    chosen = jax.jit(task.corrupt)(same | {"row_seeds": batch["row_seeds"]})
    again = jax.jit(task.corrupt)(same | {"row_seeds": other["row_seeds"]})
    masks = {str(np.asarray(x)) for x in (*chosen.positions, *again.positions)}
    assert len(masks) == 2 * len(seeds[:8])


def evaluated(task, split="valid"):
    """The rows of a split that are not empty, one after another."""
    batches = list(task.eval_batches(split, 0, 1))
    rows = {k: np.concatenate([batch[k] for batch in batches]) for k in batches[0]}
    return {k: v[rows["segments"].any(axis=1)] for k, v in rows.items()}


def test_all_runs_are_evaluated_on_the_same_rows_and_masks(task, tmp_path, text_folder):
    """Whatever their seed, and whatever the batches: with more devices, they are larger."""
    want = evaluated(task)
    for other in (
        build(text_folder, tmp_path / "seed", seed=4),
        build(text_folder, tmp_path / "rows", batch_size=2),
        build(text_folder, tmp_path / "devices", batch_size=64, devices=8),
    ):
        assert_equal(evaluated(other), want)
    other = build(text_folder, tmp_path / "seed", seed=4)
    (one, _), (two, _) = two_epochs(task)[0], two_epochs(other)[0]
    assert (one["row_seeds"] != two["row_seeds"]).all()


def test_an_evaluation_sees_each_token_of_its_split_once(tmp_path, text_folder):
    task = build(text_folder, tmp_path, examples="sentence_order")
    tokens = evaluated(task)["tokens"]
    wanted = [
        task.tokenizer.encode([text])[0].ids
        for document in read_documents(str(text_folder), "valid")
        for text in document
    ]
    want = collections.Counter(np.concatenate(wanted).tolist())
    found = collections.Counter(tokens[~np.isin(tokens, task.tokenizer.special_ids)].tolist())
    assert found == want


def test_fingerprint_tells_text_tokenizer_and_rows_apart(task, tmp_path, text_folder):
    assert build(text_folder, tmp_path / "same").fingerprint == task.fingerprint
    other = write_texts(tmp_path, seed=1)
    changed = [
        build(other, tmp_path / "text", tokenizer=str(task_file(task, tmp_path))),
        build(text_folder, tmp_path / "tokenizer", tokenizer="sentencepiece", model=SMALLER),
        build(text_folder, tmp_path / "row", row_length=40),
        build(text_folder, tmp_path / "batch", batch_size=16),
    ]
    found = [str(sorted(x.fingerprint.items(), key=str)) for x in (task, *changed)]
    assert len(set(found)) == 5
    assert changed[0].fingerprint["tokenizer"] == task.fingerprint["tokenizer"]


def task_file(task, folder):
    task.tokenizer.save(folder / "saved.json")
    return folder / "saved.json"


def texts(folder):
    return [text for document in read_documents(str(folder), "train") for text in document]


@pytest.mark.parametrize(
    "kind", ["wordpiece", "byte_bpe", "merges", "sentencepiece", "vocab", "run"]
)
def test_a_tokenizer_is_given_as_a_file_or_as_a_folder(tmp_path, text_folder, kind):
    given, lines = tmp_path / "given", texts(text_folder)
    given.mkdir()
    data = dict(tokenizer=str(given / "tokenizer.json"))
    if kind in ("byte_bpe", "merges"):
        want = ByteBpeTokenizer.train(lines, given / "tokenizer.json", vocab_size=272)
        if kind == "merges":  # the two files of RoBERTa
            merges = json.loads((given / "tokenizer.json").read_text())["model"]["merges"]
            (given / "merges.txt").write_text("\n".join(map(" ".join, merges)) + "\n")
            (given / "vocab.json").write_text(json.dumps(_tokens(given / "tokenizer.json")))
            (given / "tokenizer.json").unlink()
            data = dict(tokenizer=str(given))
    elif kind == "sentencepiece":
        data = dict(tokenizer=str(given / "any.model"))
        want = SentencePieceEncoder.train(
            lines, given / "any.model", vocab_size=48, lowercase=False
        )
    else:
        path = given / "tokenizer.json"
        want = WordPieceTokenizer.train(lines, path, vocab_size=60, lowercase=kind != "vocab")
        if kind == "vocab":  # all that is left is its list of tokens
            names = {i: token for token, i in _tokens(path).items()}
            path.unlink()
            (given / "vocab.txt").write_text("\n".join(names[i] for i in range(60)) + "\n")
            data = dict(tokenizer=str(given / "vocab.txt"), lowercase=False)
        if kind == "run":
            data = dict(tokenizer=str(given))
    model = dataclasses.replace(MODEL, vocab_size=272)
    task = build(text_folder, tmp_path / "run", model=model, **data)
    assert task.tokenizer.vocab_size == want.vocab_size
    (a,), (b,) = (t.encode(["A Cat sees, ü"]) for t in (task.tokenizer, want))
    assert_equal(tuple(a), tuple(b))
    # A run that has started needs the file no more.
    shutil.rmtree(given)
    (tmp_path / "run" / "config.json").write_text("{}")
    again = build(text_folder, tmp_path / "run", model=model, **data)
    assert again.tokenizer.fingerprint == task.tokenizer.fingerprint


def _tokens(path):
    return json.loads(path.read_text())["model"]["vocab"]


@pytest.mark.parametrize(
    "model,data,message",
    [
        (dict(max_positions=23), {}, "up to 24 tokens.*--data.example_length 23"),
        (dict(pooler=False), {}, "pooler is False. Set --model.pooler"),
        (dict(type_vocab_size=1), {}, "--model.type_vocab_size 2"),
        ({}, dict(tokenizer="none.json"), "No tokenizer at none.json.*Name one"),
        ({}, dict(tokenizer="{empty}"), "No tokenizer at .*empty"),
        ({}, dict(tokenizer="{larger}"), "has 70 tokens, the model 64.*--model.vocab_size 70"),
        ({}, dict(path="{empty}"), "empty has no \\*.txt files"),
        ({}, dict(path="{tmp}/nowhere"), "nowhere.* is no existing folder"),
        (dict(vocab_size=20), {}, "vocab_size=20 is too small"),
        (dict(vocab_size=100), dict(tokenizer="byte_bpe"), "vocab_size=100 is too small"),
    ],
)
def test_what_does_not_fit_is_refused_and_leaves_no_run(
    tmp_path, text_folder, model, data, message
):
    (tmp_path / "empty").mkdir()
    (tmp_path / "larger").mkdir()
    larger = tmp_path / "larger" / "tokenizer.json"
    WordPieceTokenizer.train(texts(text_folder), larger, vocab_size=70, lowercase=True)
    places = dict(empty=tmp_path / "empty", larger=larger, tmp=tmp_path)
    data = {k: v.format(**places) for k, v in data.items()}
    model, run = dataclasses.replace(MODEL, **model), tmp_path / "run"
    config = config_of(text_folder, model=model, **data)
    with pytest.raises(UserError, match=f"(?s){message}"):
        train(config, run)
    assert not (run / "config.json").exists()


def config_of(folder, model=MODEL, **data):
    return ExperimentConfig(
        MaskedLmConfig(),
        model,
        BertData(**(dict(path=str(folder)) | ROWS | data)),
        train=TrainConfig(steps=2, stop_at=1, batch_size=8, checkpoint_every=1),
    )


def test_a_failed_start_leaves_no_wrong_tokenizer_behind(tmp_path, text_folder):
    wrong = tmp_path / "wrong"
    wrong.mkdir()
    write_texts(wrong, seed=5, splits=[("train", 20)])
    with pytest.raises(UserError, match="no split 'valid'"):
        train(config_of(wrong), tmp_path / "run")
    assert (tmp_path / "run" / "tokenizer.json").exists()  # else there is nothing to test
    for kind in ("wordpiece", "sentencepiece"):
        data = BertData(path=str(text_folder), tokenizer=kind)
        size = 64 if kind == "wordpiece" else 48
        found = run_tokenizer(data, size, tmp_path / "run")
        fresh = tmp_path / kind
        fresh.mkdir()
        assert found.fingerprint == run_tokenizer(data, size, fresh).fingerprint


@pytest.mark.parametrize("name", ["vocab.txt", "tokenizer.json"])
def test_a_tokenizer_of_the_user_in_the_run_s_folder_is_not_lost(tmp_path, text_folder, name):
    run = tmp_path / "run"
    run.mkdir()
    (run / name).write_text("mine")
    for given in (run / name, run):
        with pytest.raises(UserError, match="lies in the folder of this run"):
            build(text_folder, run, tokenizer=str(given))
        assert (run / name).read_text() == "mine"

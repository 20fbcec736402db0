"""Choices of endings: from a folder of SWAG to training, evaluation and refusals."""

import csv
import json
import random

import jax
import numpy as np
import pytest

from tests.tasks.fine_tuning import flags, scrambled, write_start
from transformer_jax import BertConfig, load_pretrained
from transformer_jax.cli import evaluate, export, train
from transformer_jax.data.pipeline import DataState
from transformer_jax.data.wordpiece import WordPieceTokenizer
from transformer_jax.errors import UserError
from transformer_jax.parallel.mesh import MeshConfig, make_mesh
from transformer_jax.parallel.sharding import put_batch
from transformer_jax.tasks.choosing import ChoosingConfig
from transformer_jax.tasks.choosing_data import ChoosingData

pytestmark = pytest.mark.usefixtures("quick_compilation")

COLOURS, ANIMALS = "red green blue grey".split(), "cat dog hen cow".split()
FILLERS = "the a saw was with and".split()
MODEL = BertConfig(60, 24, 2, 48, 2, max_positions=32, dropout_rate=0.0, attention_dropout_rate=0.0)
ROWS = dict(row_length=80, example_length=16, row_examples=8)
HEADER = "sent1,sent2,ending0,ending1,ending2,ending3,label".split(",")


def write_questions(folder, *, count=160, seed=0):
    """The right ending is the one with an animal."""
    draw = random.Random(seed)
    for name, size in (("train", count), ("val", 32), ("test", 8)):
        with (folder / f"{name}.csv").open("w", newline="") as file:
            writer = csv.writer(file)
            writer.writerow(HEADER if name != "test" else HEADER[:-1])
            for _ in range(size):
                label, endings = draw.randrange(4), draw.sample(COLOURS, 4)
                endings[label] = draw.choice(ANIMALS)
                context = draw.choices([*FILLERS, *ANIMALS], k=draw.randint(1, 3))
                texts = [f"{word} {draw.choice(FILLERS)}" for word in endings]
                row = [" ".join(context), draw.choice(FILLERS), *texts, label]
                writer.writerow(row if name != "test" else row[:-1])
    return folder


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory):
    file = tmp_path_factory.mktemp("tokenizer") / "tokenizer.json"
    words = [*COLOURS, *ANIMALS, *FILLERS]
    return WordPieceTokenizer.train(words * 4, file, vocab_size=60, lowercase=True)


@pytest.fixture(scope="module")
def start(tmp_path_factory, tokenizer):
    return write_start(tmp_path_factory.mktemp("start") / "bert", MODEL, tokenizer)


def build(start, folder, workdir, *, devices=1, **data):
    workdir.mkdir(exist_ok=True)
    settings = ChoosingData(str(folder), str(start), **(ROWS | data))
    mesh = make_mesh(MeshConfig(), jax.devices()[:devices])
    return ChoosingConfig().build(
        model=MODEL, data=settings, batch_size=8, seed=0, workdir=workdir, mesh=mesh
    )


def test_from_a_folder_to_a_model_that_has_learnt_and_goes_elsewhere(tmp_path, start, capfd):
    folder = write_questions(tmp_path)
    more = "--train.steps 150 --train.checkpoint_every 150 --train.log_every 50"
    arguments = flags("choose", folder, start, tmp_path / "run", ROWS, *more.split())
    assert train.main(arguments) == 0, capfd.readouterr().err
    capfd.readouterr()
    run = ["--workdir", str(tmp_path / "run"), "--split"]
    assert evaluate.main([*run, "valid"]) == 0, capfd.readouterr().err
    metrics = json.loads(capfd.readouterr().out.splitlines()[-1])
    assert metrics["questions"] == 32 and metrics["accuracy"] > 0.9
    assert evaluate.main([*run, "test"]) == 1
    assert "has no labels for test. Use --split valid." in capfd.readouterr().err

    model = ["--model", str(tmp_path / "run"), "--output", str(tmp_path / "out")]
    assert export.main(model) == 0, capfd.readouterr().err
    assert load_pretrained(tmp_path / "out").kind == "choice"
    shape = [part for key, x in ROWS.items() for part in (f"--data.{key}", str(x))]
    there = ["--model", str(tmp_path / "out"), "--config", arguments[1], *shape]
    capfd.readouterr()
    assert evaluate.main([*there, "--data.path", str(folder), "--split", "valid"]) == 0
    again = json.loads(capfd.readouterr().out.splitlines()[-1])
    assert again["accuracy"] == metrics["accuracy"]
    assert again["loss"] == pytest.approx(metrics["loss"], rel=1e-5)


def test_packed_questions_have_the_losses_that_they_have_alone(tmp_path, start, tokenizer):
    folder = write_questions(tmp_path)
    task = build(start, folder, tmp_path / "run")
    params = scrambled(task.init_params(jax.random.key(1)))
    batch = next(iter(task.eval_batches("valid", 0, 1)))
    total, weight = task.loss_terms(params, batch, None)["loss_of_choice"]
    losses, apply = [], jax.jit(task.model.apply)
    with (folder / "val.csv").open(newline="") as file:
        questions = list(csv.DictReader(file))
    numbers = batch["examples"][batch["examples"] >= 0]
    for i in numbers:
        scores = []
        for n in range(4):
            texts = questions[i]["sent1"], f"{questions[i]['sent2']} {questions[i][f'ending{n}']}"
            first, second = (encoded.ids.tolist() for encoded in tokenizer.encode(texts))
            tokens = [tokenizer.cls_id, *first, tokenizer.sep_id, *second, tokenizer.sep_id]
            types = [0] * (len(first) + 2) + [1] * (len(second) + 1)
            rows = np.array([tokens] * 4), np.array([types] * 4)
            places = np.zeros((4, 4), np.int32)
            found = apply({"params": params}, rows[0], token_types=rows[1], first_tokens=places)
            scores.append(found[0, 0, 0])
        losses.append(-jax.nn.log_softmax(np.array(scores))[int(questions[i]["label"])])
    assert weight == len(losses) == len(numbers) > 8
    assert (batch["examples"][:, 1] >= 0).any()  # two questions in a row
    np.testing.assert_allclose(total, sum(losses), rtol=1e-5)


def test_a_row_holds_whole_questions_each_of_them_once(tmp_path, start):
    task = build(start, write_questions(tmp_path, count=50), tmp_path / "run")
    rows = task._split("train")
    plan = rows.plan(0, seed=0)
    batch = rows.build([*plan, np.zeros(0, np.int64)])
    found = batch["examples"][batch["examples"] >= 0]
    assert sorted(found) == list(range(50)) and (batch["examples"][-1] == -1).all()
    assert batch["weights"].sum() == 50 and batch["examples"].shape == (len(plan) + 1, 2)
    for row, place in np.argwhere(batch["weights"] > 0):
        question = batch["examples"][row, place]
        assert batch["labels"][row, place] == rows.labels[question]
        for n in range(4):
            tokens = rows.examples.tokens[4 * question + n]
            begin = batch["first_tokens"][row, 4 * place + n]
            got = batch["tokens"][row, begin : begin + len(tokens)]
            np.testing.assert_array_equal(got, tokens)
    other = rows.plan(1, seed=0)
    assert [row.tolist() for row in plan] != [row.tolist() for row in other]


def test_eight_devices_evaluate_as_one_does(tmp_path, start):
    folder, found = write_questions(tmp_path), []
    for devices in (1, 8):
        task = build(start, folder, tmp_path / "run", devices=devices)
        params = scrambled(jax.jit(task.init_params)(jax.random.key(1)))
        batch, _ = next(task.train_batches(DataState(), 0, 1))
        with jax.set_mesh(task.mesh):
            terms = jax.jit(task.loss_terms)(params, put_batch(batch, task.mesh), None)
        found.append((float(terms["loss_of_choice"][0]), task.evaluate(params, "valid").metrics))
    np.testing.assert_allclose(found[0][0], found[1][0], rtol=1e-5)
    assert found[0][1] == found[1][1]


def test_missing_data_is_refused(tmp_path, start):
    with pytest.raises(UserError, match=r"train.csv"):
        build(start, tmp_path, tmp_path / "run").summary  # noqa: B018


@pytest.mark.parametrize("settings", [dict(row_length=60), dict(row_examples=6)])
def test_settings_that_cannot_be_are_refused(settings):
    with pytest.raises(ValueError, match=f"data.{next(iter(settings))}="):
        ChoosingData(**(ROWS | settings))
    assert ChoosingData(row_length=330).places == 40

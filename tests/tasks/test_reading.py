"""Answers in texts: from a folder of SQuAD's format to training, evaluation and refusals."""

import dataclasses
import json
import math
import random

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests.tasks.fine_tuning import flags, scrambled, write_start
from transformer_jax import BertConfig
from transformer_jax.cli import evaluate, train
from transformer_jax.data.byte_bpe import ByteBpeTokenizer
from transformer_jax.data.pipeline import DataState
from transformer_jax.data.squad import read_squad
from transformer_jax.data.wordpiece import WordPieceTokenizer
from transformer_jax.errors import UserError
from transformer_jax.models.bert_tasks import BertReader
from transformer_jax.parallel.mesh import MeshConfig, make_mesh
from transformer_jax.parallel.sharding import put_batch
from transformer_jax.tasks.answer_search import Answer
from transformer_jax.tasks.reader import Reader
from transformer_jax.tasks.reading import ReadingConfig, place_cross_entropy, score_answers
from transformer_jax.tasks.reading_data import ReadingData, read_split

pytestmark = pytest.mark.usefixtures("quick_compilation")

KINDS = {
    "colour": ["red", "green", "blue"],
    "animal": ["cat", "dog", "hen"],
    "place": ["north york", "north bath", "south york", "south bath"],
}
FILLERS = "the a saw was with and".split()
WORDS = [*KINDS, *FILLERS, *(word for texts in KINDS.values() for word in texts)]
MODEL = BertConfig(
    100, 24, 2, 48, 2, max_positions=32, dropout_rate=0.0, attention_dropout_rate=0.0
)
ROWS = dict(row_length=32, example_length=16, stride=6, max_question_tokens=4, row_examples=3)


def squad(records):
    """The JSON of (id, question, context, answer or None)."""
    paragraphs = []
    for name, question, context, answer in records:
        found = [] if answer is None else [{"text": answer, "answer_start": context.index(answer)}]
        qa = {"id": name, "question": question, "answers": found, "is_impossible": answer is None}
        paragraphs.append({"context": context, "qas": [qa]})
    return json.dumps({"data": [{"paragraphs": paragraphs}]})


def write_questions(folder, *, impossible=False, long=False, count=160, seed=0):
    """The question names a kind of thing, and the answer is the thing of this kind in the text."""
    draw = random.Random(seed)
    for split, size in (("train", count), ("valid", 24), ("test", 24)):
        records = []
        for i in range(size):
            things = {kind: draw.choice(texts) for kind, texts in KINDS.items()}
            kind = draw.choice(list(KINDS))
            answer = things[kind]
            if impossible and draw.random() < 0.4:
                del things[kind]
                answer = None
            parts = [*things.values(), *draw.choices(FILLERS, k=20 if long else 3)]
            draw.shuffle(parts)
            records.append((f"{split} {i}", kind, " ".join(parts), answer))
        (folder / f"{split}.json").write_text(squad(records))
    return folder


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory):
    file = tmp_path_factory.mktemp("tokenizer") / "tokenizer.json"
    return WordPieceTokenizer.train(WORDS * 4, file, vocab_size=90, lowercase=True)


@pytest.fixture(scope="module")
def byte_tokenizer(tmp_path_factory):
    """Two [SEP] stand between question and context, and words have several tokens."""
    file = tmp_path_factory.mktemp("bytes") / "tokenizer.json"
    return ByteBpeTokenizer.train(WORDS * 4, file, vocab_size=280)


@pytest.fixture(scope="module")
def start(tmp_path_factory, tokenizer):
    return write_start(tmp_path_factory.mktemp("start") / "bert", MODEL, tokenizer)


def build(start, folder, workdir, *, devices=1, model=MODEL, **data):
    workdir.mkdir(exist_ok=True)
    settings = ReadingData(str(folder), str(start), **(ROWS | data))
    mesh = make_mesh(MeshConfig(), jax.devices()[:devices])
    return ReadingConfig().build(
        model=model, data=settings, batch_size=8, seed=0, workdir=workdir, mesh=mesh
    )


@pytest.mark.parametrize("kind", ["all told", "impossible", "long"])
def test_from_a_folder_to_a_model_that_has_learnt(tmp_path, start, kind, capfd):
    folder = write_questions(tmp_path, impossible=kind == "impossible", long=kind == "long")
    steps = "400" if kind == "long" else "200"
    more = ["--train.steps", steps, "--train.checkpoint_every", steps]
    arguments = flags("answer", folder, start, tmp_path / "run", ROWS, *more)
    assert train.main(arguments) == 0, capfd.readouterr().err
    capfd.readouterr()
    assert evaluate.main(["--workdir", str(tmp_path / "run")]) == 0, capfd.readouterr().err
    report, _, line = capfd.readouterr().out.rstrip().rpartition("\n")
    metrics = json.loads(line)
    assert metrics["exact"] > 80 and metrics["f1"] >= metrics["exact"] and metrics["total"] == 24
    assert report.count("question  ") == 5 and report.count("found     ") == 5
    if kind == "impossible":
        assert metrics["HasAns_exact"] > 80 and metrics["NoAns_exact"] > 80
        assert metrics["best_exact"] >= metrics["exact"] and "best_f1_thresh" in metrics
        assert "true      (none)" in report
        files = tmp_path / "predicted"
        more = ["--threshold", "1e6", "--predictions", str(files)]
        assert evaluate.main(["--workdir", str(tmp_path / "run"), *more]) == 0
        metrics = json.loads(capfd.readouterr().out.splitlines()[-1])
        assert metrics["HasAns_exact"] > 80 and metrics["NoAns_exact"] == 0  # never withheld
        names = {path.name for path in files.iterdir()}
        assert names == {"predictions.json", "nbest_predictions.json", "null_odds.json"}
        given = json.loads((files / "predictions.json").read_text())
        assert len(given) == 24 and all(given.values())
    else:
        assert not {"HasAns_exact", "NoAns_exact", "best_exact"} & metrics.keys()


@pytest.mark.parametrize("twice", [False, True])
def test_windows_are_pairs_whose_answer_is_where_the_text_has_it(
    tmp_path, tokenizer, byte_tokenizer, twice
):
    tokenizer = byte_tokenizer if twice else tokenizer
    assert tokenizer.separates_twice == twice
    folder = write_questions(tmp_path, long=True, impossible=True, count=40)
    settings = ReadingData(str(folder), **(ROWS | dict(row_length=64, example_length=24)))
    rows = read_split(settings, "train", tokenizer)
    at, whole, seen = 0, 0, {}
    for question in rows.questions:
        asked = tokenizer.encode([question.question])[0].ids[:4].tolist()
        head = [tokenizer.cls_id, *asked, *[tokenizer.sep_id] * (1 + twice)]
        words = [f" {word}" for word in question.context.split()]
        words[0] = words[0].strip()
        context = np.concatenate([encoded.ids for encoded in tokenizer.encode(words)]).tolist()
        room, begin = 24 - len(head) - 1, 0
        while True:
            tokens = rows.examples.tokens[at].tolist()
            assert tokens == [*head, *context[begin : begin + room], tokenizer.sep_id]
            assert rows.examples.first_sizes[at] == len(asked) + 2
            first, last = rows.answers[at]
            assert (first == 0) == (last == 0)
            if first:
                whole += 1
                found = tokenizer.decode(tokens[first : last + 1]).strip()
                assert found == question.answers[0][0]
                seen[question.id] = seen.get(question.id, 0) + 1
            at += 1
            if begin + room >= len(context):
                break
            begin += 6
    assert at == len(rows.examples) > 60 and whole > 30
    # A window of this size shows each of these answers whole at least once, and no impossible one.
    assert seen.keys() == {question.id for question in rows.questions if not question.impossible}


def test_rows_say_where_the_answer_of_each_window_is(tmp_path, tokenizer):
    folder = write_questions(tmp_path, long=True, count=20, seed=6)
    rows = read_split(ReadingData(str(folder), **ROWS), "train", tokenizer)
    assert rows.answers[-1].all() and not rows.answers.all()  # some windows have none
    batch = rows.build([*rows.plan(0, seed=3), np.zeros(0, np.int64)])
    for name, side in (("starts", 0), ("ends", 1)):
        assert batch[name].dtype == np.int32
        for row, place in np.ndindex(batch["examples"].shape):
            number = batch["examples"][row, place]
            assert batch["weights"][row, place] == (number >= 0)
            where = batch[name][row, place]
            if number < 0:
                assert where == 0
                continue
            assert batch["segments"][row, where] == place + 1
            assert batch["positions"][row, where] == rows.answers[number, side]
    assert batch["weights"].sum() == len(rows.examples)


def test_the_loss_of_a_place_is_that_of_its_example_in_numpy():
    rng = np.random.default_rng(0)
    logits = rng.normal(size=(2, 9), scale=3).astype(np.float32)
    logits[0, 5] = 300.0  # of another example, whose exponential is infinite
    segments = np.array([[1, 1, 1, 2, 2, 2, 2, 0, 0], [1, 1, 1, 1, 1, 1, 1, 1, 1]])
    places, weights = np.array([[2, 3, 0], [4, 0, 0]]), np.array([[1, 1, 0], [1, 0, 0]], np.float32)
    total = 0.0
    for row, example in np.argwhere(weights).tolist():
        own = logits[row, segments[row] == example + 1].astype(np.float64)
        most = own.max()
        own_sum = math.log(sum(math.exp(x - most) for x in own)) + most
        total += own_sum - float(logits[row, places[row, example]])
    value = lambda x: place_cross_entropy(x, places, segments, weights)[0]  # noqa: E731
    np.testing.assert_allclose(value(jnp.asarray(logits)), total, rtol=1e-6)
    assert place_cross_entropy(logits, places, segments, weights)[1] == 3
    gradient = np.asarray(jax.grad(value)(jnp.asarray(logits)))
    assert np.isfinite(gradient).all() and (gradient[segments == 0] == 0).all()
    np.testing.assert_allclose(gradient[0, :3].sum(), 0, atol=1e-6)  # softmax minus one-hot


def test_packed_windows_have_the_losses_that_they_have_alone(tmp_path, start):
    task = build(start, write_questions(tmp_path, impossible=True), tmp_path / "run")
    params = scrambled(task.init_params(jax.random.key(1)))
    batch = next(iter(task.eval_batches("valid", 0, 1)))
    terms = task.loss_terms(params, batch, None)
    apply = jax.jit(task.model.apply)
    rows, losses = task._split("valid"), {"start": [], "end": []}
    numbers = batch["examples"][batch["examples"] >= 0]
    assert len(numbers) > 12 and (batch["segments"] == 2).any()
    for i in numbers:
        tokens = rows.examples.tokens[i][None]
        types = (np.arange(tokens.shape[1]) >= rows.examples.first_sizes[i]).astype(np.int32)[None]
        logits = apply({"params": params}, tokens, token_types=types)
        for side, name in enumerate(losses):
            losses[name].append(-jax.nn.log_softmax(logits[side][0])[rows.answers[i, side]])
    assert terms.keys() == losses.keys() == task.coefficients.keys()
    for name, (total, weight) in terms.items():
        assert weight == len(numbers) and task.coefficients[name] == 0.5
        np.testing.assert_allclose(total, sum(losses[name]), rtol=1e-5)


def test_eight_devices_evaluate_as_one_does(tmp_path, start):
    folder = write_questions(tmp_path, impossible=True)
    found = []
    for devices in (1, 8):
        task = build(start, folder, tmp_path / "run", devices=devices)
        params = scrambled(jax.jit(task.init_params)(jax.random.key(1)))
        batch, _ = next(task.train_batches(DataState(), 0, 1))
        with jax.set_mesh(task.mesh):
            terms = jax.jit(task.loss_terms)(params, put_batch(batch, task.mesh), None)
        metrics = dict(task.evaluate(params, "test").metrics)
        thresholds = [metrics.pop(f"best_{name}_thresh") for name in ("exact", "f1")]
        numbers = [float(terms[name][0]) for name in ("start", "end")] + thresholds
        found.append((numbers, metrics))
    np.testing.assert_allclose(found[0][0], found[1][0], rtol=1e-5, atol=1e-5)
    assert found[0][1] == found[1][1]


@pytest.mark.parametrize("twice", [False, True])
def test_a_reader_finds_the_best_span_of_all_windows(tmp_path, tokenizer, byte_tokenizer, twice):
    tokenizer = byte_tokenizer if twice else tokenizer
    folder = write_questions(tmp_path, long=True)
    questions = read_squad(folder / "valid.json")[:12]
    model = BertReader(dataclasses.replace(MODEL, pooler=False, vocab_size=tokenizer.vocab_size))
    params = scrambled(model.init(jax.random.key(0), jnp.zeros((1, 2), jnp.int32))["params"])
    shape = dict(max_tokens=24, stride=6, max_question_tokens=4)
    reader = Reader(model, params, tokenizer, mesh=make_mesh(MeshConfig()), **shape)
    answers = reader(questions, null=True, n_best=100, max_answer_tokens=3)
    rows = read_split(
        ReadingData(str(folder), row_length=24, stride=6, max_question_tokens=4), "valid", tokenizer
    )
    apply, several, at = jax.jit(model.apply), 0, 0
    for question, found in zip(questions, answers, strict=True):
        best, none, begin = (-math.inf, ""), math.inf, 0
        words = [f" {word}" for word in question.context.split()]
        words[0] = words[0].strip()
        pieces = tokenizer.encode(words)
        word_of = np.repeat(np.arange(len(words)), [len(piece.ids) for piece in pieces])
        asked = len(tokenizer.encode([question.question])[0].ids[:4])
        room, starts = 24 - asked - 3 - twice, [0]
        while starts[-1] + room < len(word_of):
            starts.append(starts[-1] + 6)
        several += len(starts) > 1
        for number, begin in enumerate(starts):
            tokens = rows.examples.tokens[at][None]
            at += 1
            types = (np.arange(tokens.shape[1]) >= asked + 2).astype(np.int32)[None]
            first, last = (
                np.asarray(x[0], np.float64)
                for x in apply({"params": params}, tokens, token_types=types)
            )
            none = min(none, first[0] + last[0])
            count, offset = min(room, len(word_of) - begin), asked + 2 + twice
            for a in range(count):
                if owner(begin + a, starts, room, len(word_of)) != number:
                    continue
                for b in range(a, min(a + 3, count)):
                    text = " ".join(
                        question.context.split()[word_of[begin + a] : word_of[begin + b] + 1]
                    )
                    best = max(best, (first[offset + a] + last[offset + b], text))
        text = next(answer for answer in found if answer.text)
        assert text.text == best[1]
        assert text.score == pytest.approx(best[0], abs=1e-4)
        assert question.context[text.start_char : text.end_char] == text.text
        assert next(a for a in found if not a.text).score == pytest.approx(none, abs=1e-4)
    assert several > 10


def owner(token, starts, room, count):
    """The window that shows most around a token: min(left, right) + length / 100, the first."""
    best, number = -1.0, -1
    for i, start in enumerate(starts):
        end = min(start + room, count)
        if start <= token < end:
            score = min(token - start, end - 1 - token) + 0.01 * (end - start)
            if score > best:
                best, number = score, i
    return number


def test_no_questions_have_no_answers_and_a_long_question_is_cut(start, tokenizer):
    model = BertReader(dataclasses.replace(MODEL, pooler=False))
    params = model.init(jax.random.key(0), jnp.zeros((1, 2), jnp.int32))["params"]
    reader = Reader(model, params, tokenizer, mesh=make_mesh(MeshConfig()))
    assert reader([], null=False) == []
    assert reader.max_question_tokens == 8  # a quarter of the places
    assert reader.cut("the " * 11) == 3 and reader.cut(" the cat ") == 0


def test_the_figures_are_those_of_the_answers_that_are_given(tmp_path):
    text = "red cat"
    (tmp_path / "x.json").write_text(
        squad([("a", "colour", text, "red"), ("b", "animal", text, "cat"), ("c", "?", text, None)])
    )
    none = Answer("", 0.5, 0, 0, 1.0)
    red, cat = Answer("red", 0.5, 0, 3, 2.0), Answer("cat", 0.5, 4, 7, 0.5)
    hen = cat._replace(score=0.0)
    result = score_answers(read_squad(tmp_path / "x.json"), [[red, none], [none, cat], [none, hen]])
    metrics = result.metrics
    assert metrics["exact"] == pytest.approx(200 / 3)  # b is withheld, c rightly so
    assert (metrics["HasAns_exact"], metrics["NoAns_exact"]) == (50, 100)
    # The odds of b and c are 0.5 and 1, so that a threshold between them makes both right.
    assert (metrics["best_exact"], metrics["best_exact_thresh"]) == (pytest.approx(100), 0.5)
    assert "question  animal\ntrue      cat\nfound     (none)" in result.report
    assert result.files["predictions.json"] == {"a": "red", "b": "", "c": ""}
    assert result.files["null_odds.json"] == {"a": -1.0, "b": 0.5, "c": 1.0}
    best = {"text": "red", "probability": 0.5, "score": 2.0}
    assert result.files["nbest_predictions.json"]["a"][0] == best
    answers = [[red, none], [none, cat], [none, hen]]
    result = score_answers(read_squad(tmp_path / "x.json"), answers, threshold=0.5)
    assert result.metrics["exact"] == pytest.approx(100)
    assert result.files["predictions.json"] == {"a": "red", "b": "cat", "c": ""}


def test_an_evaluation_keeps_to_the_length_of_answers(tmp_path, start):
    task = build(start, write_questions(tmp_path), tmp_path / "run")
    params = scrambled(task.init_params(jax.random.key(1)))
    lengths = []
    for most in (1, 30):
        task.config = ReadingConfig(max_answer_tokens=most)
        report = task.evaluate(params, "valid").report.splitlines()
        found = [line.removeprefix("found").split() for line in report if line.startswith("found")]
        lengths.append([len(words) for words in found])
    assert lengths[0] == [1] * 5 and max(lengths[1]) > 1


def test_the_encoder_is_the_pretrained_one_and_the_head_is_new(tmp_path, start):
    task = build(start, write_questions(tmp_path), tmp_path / "run")
    fresh = task.init_params(jax.random.key(3))
    pooler = {"kernel": jnp.zeros((24, 24)), "bias": jnp.zeros(24)}
    encoder = jax.tree.map(lambda x: x + 1, fresh["bert"])
    found = task.adopt_params({"bert": encoder | {"pooler": pooler}, "mlm_head": {}}, fresh)
    assert found["head"] is fresh["head"] and found.keys() == {"bert", "head"}
    jax.tree.map(np.testing.assert_array_equal, found["bert"], encoder)


def test_questions_that_change_change_the_fingerprint(tmp_path, start):
    task = build(start, write_questions(tmp_path), tmp_path / "run")
    same = build(start, write_questions(tmp_path), tmp_path / "run")
    assert task.fingerprint == same.fingerprint
    other = squad([("a", "colour", "red cat red", "red")])
    (tmp_path / "train.json").write_text(other)
    one = build(start, tmp_path, tmp_path / "run").fingerprint
    moved = json.loads(other)
    moved["data"][0]["paragraphs"][0]["qas"][0]["answers"][0]["answer_start"] = 8
    (tmp_path / "train.json").write_text(json.dumps(moved))
    assert task.fingerprint != one != build(start, tmp_path, tmp_path / "run").fingerprint


def test_files_are_found_by_our_names_or_by_those_of_squad(tmp_path):
    data = ReadingData(str(tmp_path))
    for name in ("train-v2.0.json", "dev-v2.0.json"):
        (tmp_path / name).write_text("{}")
    found = [data.file(split).name for split in ("train", "valid", "test")]
    assert found == ["train-v2.0.json", "dev-v2.0.json", "dev-v2.0.json"]
    (tmp_path / "test.json").write_text("{}")
    assert data.file("test").name == "test.json"
    (tmp_path / "dev-v1.1.json").write_text("{}")
    with pytest.raises(UserError, match="has dev-v1.1.json and dev-v2.0.json. Give each a folder"):
        data.file("valid")
    (tmp_path / "train-v2.0.json").unlink()
    with pytest.raises(UserError, match="no train.json, and no train-v1.1.json or train-v2.0.json"):
        data.file("train")
    with pytest.raises(UserError, match="no split 'dev'"):
        data.file("dev")


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        (dict(example_length=32, model=dataclasses.replace(MODEL, max_positions=20)), "model 20"),
        (dict(model=dataclasses.replace(MODEL, vocab_size=20)), "tokens, the model 20"),
        (dict(start=""), "There is no tokenizer. Name what training starts from"),
        (dict(folder="nowhere"), "'nowhere' is no existing folder"),
        (dict(folder=""), "'' is no existing folder"),
    ],
)
def test_what_does_not_fit_is_refused(tmp_path, start, change, complaint):
    folder = change.pop("folder", None)
    folder = write_questions(tmp_path) if folder is None else folder
    with pytest.raises(UserError, match=complaint):
        build(change.pop("start", start), folder, tmp_path / "run", **change).summary  # noqa: B018


@pytest.mark.parametrize(
    "settings",
    [
        dict(example_length=40),
        dict(example_length=8),
        dict(row_examples=0),
        dict(stride=0),
        dict(max_question_tokens=0),
    ],
)
def test_settings_that_cannot_be_are_refused(settings):
    with pytest.raises(ValueError, match=f"data.{next(iter(settings))}="):
        ReadingData(**(ROWS | settings))
    with pytest.raises(ValueError, match="task.max_answer_tokens=0"):
        ReadingConfig(max_answer_tokens=0)

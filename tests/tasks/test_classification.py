"""Fine-tuning of classes and scores: from a folder to training, evaluation and refusals."""

import dataclasses
import json
import random

import jax
import numpy as np
import pytest

from tests.interop import test_fairseq as fairseq
from tests.interop.test_originals import write_dictionary
from tests.tasks.fine_tuning import flags as run_flags
from tests.tasks.fine_tuning import write_start
from transformer_jax import BertConfig
from transformer_jax.cli import evaluate, train
from transformer_jax.data.pipeline import DataState
from transformer_jax.data.wordpiece import WordPieceTokenizer
from transformer_jax.errors import UserError
from transformer_jax.parallel.mesh import MeshConfig, make_mesh
from transformer_jax.parallel.sharding import put_batch
from transformer_jax.tasks.classification import ClassificationConfig
from transformer_jax.tasks.classification_data import ClassificationData

pytestmark = pytest.mark.usefixtures("quick_compilation")

GOOD, BAD = "great fine lovely bright warm".split(), "awful poor dull grey cold".split()
WORDS = [*GOOD, *BAD, *"the a film story with is and".split()]
MODEL = BertConfig(50, 16, 2, 32, 2, max_positions=32, dropout_rate=0.0, attention_dropout_rate=0.0)
ROWS = dict(row_length=32, example_length=16, row_examples=4)


def write_texts(folder, *, count=160, pairs=False, numbers=False, seed=0):
    draw = random.Random(seed)
    for split, size in (("train", count), ("valid", 24), ("test", 24)):
        lines = []
        for _ in range(size):
            label = draw.random() < 0.5
            words = draw.choices(WORDS[10:], k=draw.randint(2, 6)) + [
                draw.choice((BAD, GOOD)[label])
            ]
            draw.shuffle(words)
            half = len(words) // 2 if pairs else len(words)
            fields = [" ".join(words[:half])] + [" ".join(words[half:])] * pairs
            lines.append(
                "\t".join([*fields, str(float(label)) if numbers else "no yes".split()[label]])
            )
        header = ["text", *["text_b"] * pairs, "score" if numbers else "label"]
        (folder / f"{split}.tsv").write_text("\n".join(["\t".join(header), *lines]) + "\n")
    return folder


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory):
    file = tmp_path_factory.mktemp("tokenizer") / "tokenizer.json"
    return WordPieceTokenizer.train(WORDS * 4, file, vocab_size=50, lowercase=True)


@pytest.fixture(scope="module")
def start(tmp_path_factory, tokenizer):
    return write_start(tmp_path_factory.mktemp("start") / "bert", MODEL, tokenizer)


def build(start, folder, workdir, *, devices=1, model=MODEL, seed=0, **data):
    workdir.mkdir(exist_ok=True)
    settings = ClassificationData(str(folder), str(start), **(ROWS | data))
    mesh = make_mesh(MeshConfig(), jax.devices()[:devices])
    return ClassificationConfig().build(
        model=model, data=settings, batch_size=8, seed=seed, workdir=workdir, mesh=mesh
    )


@pytest.fixture
def flags(tmp_path, start):
    more = "--train.steps 150 --train.log_every 50 --train.checkpoint_every 150"
    return run_flags("classify", tmp_path, start, tmp_path / "run", ROWS, *more.split())


@pytest.mark.parametrize("kind", ["classes", "pairs", "scores"])
def test_from_a_folder_to_a_model_that_has_learnt(tmp_path, flags, kind, capfd):
    folder = write_texts(tmp_path, pairs=kind == "pairs", numbers=kind == "scores")
    more = ["--data.regression"] if kind == "scores" else []
    assert train.main([*flags, "--data.path", str(folder), *more]) == 0, capfd.readouterr().err
    capfd.readouterr()
    assert evaluate.main(["--workdir", str(tmp_path / "run")]) == 0, capfd.readouterr().err
    metrics = json.loads(capfd.readouterr().out.splitlines()[-1])
    assert metrics["examples"] == 24
    if kind == "scores":
        assert metrics["pearson"] > 0.8 and "spearman" in metrics
    else:
        assert metrics["accuracy"] > 0.9 and "f1" in metrics
        assert json.loads((tmp_path / "run" / "labels.json").read_text()) == ["no", "yes"]


def test_a_run_goes_on_without_what_it_started_from(tmp_path, flags, start, capfd):
    folder = write_texts(tmp_path)
    here = [*flags, "--data.path", str(folder)]
    moved = tmp_path / "moved"
    moved.mkdir()
    for path in start.iterdir():
        (moved / path.name).write_bytes(path.read_bytes())
    here[here.index(str(start))] = str(moved)
    assert train.main([*here, "--train.stop_at", "50"]) == 0, capfd.readouterr().err
    for path in moved.iterdir():
        path.unlink()
    assert train.main(here) == 0, capfd.readouterr().err
    lines = [json.loads(x) for x in (tmp_path / "run/metrics.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines] == [50, 100, 150]
    assert train.main([*here, "--model.dropout_rate", "0.3"]) == 1
    assert "model.dropout_rate: 0.0 -> 0.3" in capfd.readouterr().err


def test_the_encoder_is_the_pretrained_one_and_the_head_is_new(tmp_path, start):
    task = build(start, write_texts(tmp_path), tmp_path / "run")
    fresh = task.init_params(jax.random.key(3))
    pretrained = {"bert": jax.tree.map(lambda x: x + 1, fresh["bert"]), "mlm_head": {}}
    found = task.adopt_params(pretrained, fresh)
    assert found["head"] is fresh["head"] and found.keys() == {"bert", "head"}
    jax.tree.map(np.testing.assert_array_equal, found["bert"], pretrained["bert"])
    del pretrained["bert"]["pooler"]  # as RoBERTa's
    assert task.adopt_params(pretrained, fresh)["bert"]["pooler"] is fresh["bert"]["pooler"]
    with pytest.raises(UserError, match="no encoder among encoder"):
        task.adopt_params({"encoder": {}}, fresh)


@pytest.mark.parametrize("regression", [False, True])
def test_packed_examples_have_the_losses_that_they_have_alone(tmp_path, start, regression):
    folder = write_texts(tmp_path, numbers=regression, pairs=True)
    task = build(start, folder, tmp_path / "run", regression=regression)
    params = task.init_params(jax.random.key(1))
    params["head"]["dense"]["kernel"] += 0.5 * jax.random.normal(
        jax.random.key(2), params["head"]["dense"]["kernel"].shape
    )
    batch = next(iter(task.eval_batches("valid", 0, 1)))
    total, weight = task.loss_terms(params, batch, None)["loss_of_label"]
    rows = task._split("valid")
    losses = []
    for i in batch["examples"][batch["examples"] >= 0]:
        tokens = rows.examples.tokens[i][None]
        types = (np.arange(tokens.shape[1]) >= rows.examples.first_sizes[i]).astype(np.int32)[None]
        logits = task.model.apply({"params": params}, tokens, token_types=types)[0, 0]
        if regression:
            losses.append((logits[0] - rows.labels[i]) ** 2)
        else:
            losses.append(-jax.nn.log_softmax(logits)[rows.labels[i]])
    assert weight == len(losses) > 8
    np.testing.assert_allclose(total, sum(losses), rtol=1e-5)


def test_eight_devices_evaluate_as_one_does(tmp_path, start):
    folder = write_texts(tmp_path)
    found = []
    for devices in (1, 8):
        task = build(start, folder, tmp_path / "run", devices=devices)
        params = jax.jit(task.init_params)(jax.random.key(1))
        batch, _ = next(task.train_batches(DataState(), 0, 1))
        with jax.set_mesh(task.mesh):
            terms = jax.jit(task.loss_terms)(params, put_batch(batch, task.mesh), None)
        found.append((float(terms["loss_of_label"][0]), task.evaluate(params, "test").metrics))
    np.testing.assert_allclose(found[0][0], found[1][0], rtol=1e-5)
    assert found[0][1] == found[1][1]


def test_glue_is_read_and_judged_by_name(tmp_path, start):
    lines = [f"src\t{i % 2}\t\t{(BAD, GOOD)[i % 2][i % 5]} film" for i in range(30)]
    for name in ("train", "dev"):
        (tmp_path / f"{name}.tsv").write_text("\n".join(lines) + "\n")
    task = build(start, f"glue:cola:{tmp_path}", tmp_path / "run")
    assert task.labels == ("0", "1")
    metrics = task.evaluate(task.init_params(jax.random.key(0)), "valid").metrics
    assert metrics.keys() == {"examples", "matthews"}


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        (dict(example_length=32, model=dataclasses.replace(MODEL, max_positions=20)), "model 20"),
        (dict(model=dataclasses.replace(MODEL, vocab_size=20)), "has 50 tokens, the model 20"),
        (dict(regression=True), r"train.tsv:2 has the score '(no|yes)', which is no"),
        (dict(start=""), "There is no tokenizer. Name what training starts from"),
        (dict(start="nowhere"), "No tokenizer at nowhere"),
        (dict(folder="glue:sst3:x"), "GLUE has no task 'sst3'"),
        (dict(folder="glue:sst2"), "write glue:NAME:FOLDER"),
        (dict(folder="nowhere"), "'nowhere' is no existing folder"),
    ],
)
def test_what_does_not_fit_is_refused(tmp_path, start, change, complaint):
    folder = change.pop("folder", None) or write_texts(tmp_path)
    with pytest.raises(UserError, match=complaint):
        build(change.pop("start", start), folder, tmp_path / "run", **change).summary  # noqa: B018


def test_a_single_class_and_an_unknown_label_are_refused(tmp_path, start):
    (tmp_path / "train.tsv").write_text("text\tlabel\na film\tyes\n")
    with pytest.raises(UserError, match="all training examples have the label 'yes'"):
        build(start, tmp_path, tmp_path / "run")
    write_texts(tmp_path)
    (tmp_path / "valid.tsv").write_text("text\tlabel\na film\tmaybe\n")
    with pytest.raises(UserError, match=r"valid\.tsv:2 has the label 'maybe', .* none of no, yes"):
        build(start, tmp_path, tmp_path / "run").summary  # noqa: B018


def test_a_split_without_labels_is_not_evaluated(tmp_path, start):
    write_texts(tmp_path)
    (tmp_path / "test.tsv").write_text("text\na film\n")
    task = build(start, tmp_path, tmp_path / "run")
    with pytest.raises(UserError, match="no labels for test. Use --split valid"):
        task.evaluate(task.init_params(jax.random.key(0)), "test")


def test_without_a_start_it_is_asked_for(tmp_path, flags, capfd):
    folder = write_texts(tmp_path)
    place = flags.index("--train.init_from")
    without = flags[:place] + flags[place + 2 :]
    assert train.main([*without, "--data.path", str(folder)]) == 1
    assert "Name its folder, a run or one of Hugging Face" in capfd.readouterr().err
    assert not (tmp_path / "run" / "config.json").exists()


@pytest.mark.parametrize("settings", [dict(example_length=40), dict(row_examples=0)])
def test_settings_that_cannot_be_are_refused(settings):
    with pytest.raises(ValueError, match=f"data.{next(iter(settings))}="):
        ClassificationData(**(ROWS | settings))


def test_it_starts_from_an_original_checkpoint(tmp_path, flags, capfd):
    write_dictionary(tmp_path)
    size = 5 + len((tmp_path / "dict.txt").read_text().splitlines())
    tensors = fairseq.state()
    for name in list(tensors):
        if name.endswith(("embed_tokens.weight", "lm_head.bias")):
            tensors[name] = np.resize(tensors[name], (size, *tensors[name].shape[1:]))
    for name in list(tensors):
        if name.endswith("embed_positions.weight"):
            tensors[name] = np.resize(tensors[name], (18, 6))
    fairseq.write(tmp_path / "model.pt", tensors, args=fairseq.ARGS | {"max_positions": 16})
    folder = write_texts(tmp_path)
    here = [*flags, "--data.path", str(folder), "--train.stop_at", "1"]
    place = here.index("--train.init_from") + 1
    here[place] = str(tmp_path / "model.pt")
    assert train.main(here) == 0, capfd.readouterr().err
    config = json.loads((tmp_path / "run" / "config.json").read_text())
    assert config["model"]["first_position"] == 2 and config["model"]["num_layers"] == 2

"""Tags of words: from a folder of CoNLL files to training, evaluation and refusals."""

import dataclasses
import json
import random

import jax
import numpy as np
import pytest

from tests.tasks.fine_tuning import balanced, flags, scrambled, write_start
from transformer_jax import BertConfig
from transformer_jax.cli import evaluate, train
from transformer_jax.data.pipeline import DataState
from transformer_jax.data.wordpiece import WordPieceTokenizer
from transformer_jax.errors import UserError
from transformer_jax.parallel.mesh import MeshConfig, make_mesh
from transformer_jax.parallel.sharding import put_batch
from transformer_jax.tasks.tagger import Tagger
from transformer_jax.tasks.tagging import TaggingConfig, score_tags
from transformer_jax.tasks.tagging_data import TaggingData, word_examples

pytestmark = pytest.mark.usefixtures("quick_compilation")

NAMES, SURNAMES = "anna bob carla".split(), "smith jones".split()
PLACES, FILLERS = "york bath rome".split(), "the of met in".split()
WORDS = [*NAMES, *SURNAMES, *PLACES, *FILLERS]
MODEL = BertConfig(60, 16, 2, 32, 2, max_positions=64, dropout_rate=0.0, attention_dropout_rate=0.0)
ROWS = dict(row_length=64, example_length=16, row_examples=6)
TAGS = ("O", "B-LOC", "B-PER", "I-PER")  # as the files of a run have them


def sentence(draw):
    """Names of one or two words, and places."""
    pairs = []
    for _ in range(draw.randint(1, 3)):
        pairs += [(word, "O") for word in draw.choices(FILLERS, k=draw.randint(0, 2))]
        if draw.random() < 0.5:
            pairs.append((draw.choice(PLACES), "B-LOC"))
            continue
        pairs.append((draw.choice(NAMES), "B-PER"))
        if draw.random() < 0.5:
            pairs.append((draw.choice(SURNAMES), "I-PER"))
    return pairs


def write_sentences(folder, *, count=160, parts_of_speech=False, seed=0):
    draw = random.Random(seed)
    for split, size in (("train", count), ("valid", 24), ("test", 24)):
        blocks = []
        for _ in range(size):
            pairs = sentence(draw)
            if parts_of_speech:
                pairs = [(word, "NN" if tag != "O" else "DT") for word, tag in pairs]
            blocks.append("\n".join(f"{word} x {tag}" for word, tag in pairs))
        (folder / f"{split}.txt").write_text("\n\n".join(blocks) + "\n")
    return folder


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory):
    """Some words have several pieces."""
    file = tmp_path_factory.mktemp("tokenizer") / "tokenizer.json"
    tokenizer = WordPieceTokenizer.train(WORDS * 4, file, vocab_size=44, lowercase=True)
    assert any(len(encoded.ids) > 1 for encoded in tokenizer.encode(WORDS))
    return tokenizer


@pytest.fixture(scope="module")
def start(tmp_path_factory, tokenizer):
    return write_start(tmp_path_factory.mktemp("start") / "bert", MODEL, tokenizer)


def build(start, folder, workdir, *, devices=1, model=MODEL, **data):
    workdir.mkdir(exist_ok=True)
    settings = TaggingData(str(folder), str(start), **(ROWS | data))
    mesh = make_mesh(MeshConfig(), jax.devices()[:devices])
    return TaggingConfig().build(
        model=model, data=settings, batch_size=8, seed=0, workdir=workdir, mesh=mesh
    )


@pytest.mark.parametrize("kind", ["entities", "parts of speech"])
def test_from_a_folder_to_a_model_that_has_learnt(tmp_path, start, kind, capfd):
    folder = write_sentences(tmp_path, parts_of_speech=kind != "entities")
    more = "--data.example_length 64 --train.steps 200 --train.checkpoint_every 100"
    arguments = flags("tag", folder, start, tmp_path / "run", ROWS, *more.split())
    assert train.main([*arguments, "--train.stop_at", "100"]) == 0, capfd.readouterr().err
    assert train.main(arguments) == 0, capfd.readouterr().err
    capfd.readouterr()
    assert evaluate.main(["--workdir", str(tmp_path / "run")]) == 0, capfd.readouterr().err
    report, _, line = capfd.readouterr().out.rstrip().rpartition("\n")
    metrics = json.loads(line)
    assert metrics["sentences"] == 24 and metrics["accuracy"] > 0.9 and "cut" not in metrics
    labels = json.loads((tmp_path / "run" / "labels.json").read_text())
    if kind == "entities":
        assert metrics["f1"] > 0.9 and metrics["entities"] > 24 and labels == list(TAGS)
        assert "LOC" in report and "PER" in report
    else:
        assert "f1" not in metrics and labels == ["DT", "NN"]


def test_packed_sentences_have_the_losses_that_they_have_alone(tmp_path, start, tokenizer):
    task = build(start, write_sentences(tmp_path), tmp_path / "run", example_length=64)
    params = scrambled(task.init_params(jax.random.key(1)))
    batch = next(iter(task.eval_batches("valid", 0, 1)))
    total, weight = task.loss_terms(params, batch, None)["loss_of_tags"]
    sentences, losses = task.data.read("valid"), []
    apply = jax.jit(task.model.apply)
    for i in batch["examples"][batch["examples"] >= 0]:
        pieces = [encoded.ids.tolist() for encoded in tokenizer.encode(sentences[i].words)]
        tokens = [tokenizer.cls_id, *sum(pieces, []), tokenizer.sep_id]
        logits = apply({"params": params}, np.array([tokens]))[0]
        place = 1
        for piece, tag in zip(pieces, sentences[i].tags, strict=True):
            losses.append(-jax.nn.log_softmax(logits[place])[TAGS.index(tag)])
            place += len(piece)
    assert weight == len(losses) > 50 and (batch["segments"] == 2).any()
    np.testing.assert_allclose(total, sum(losses), rtol=1e-5)


def test_eight_devices_evaluate_as_one_does(tmp_path, start):
    folder, found = write_sentences(tmp_path), []
    for devices in (1, 8):
        task = build(start, folder, tmp_path / "run", devices=devices)
        params = scrambled(jax.jit(task.init_params)(jax.random.key(1)))
        batch, _ = next(task.train_batches(DataState(), 0, 1))
        with jax.set_mesh(task.mesh):
            terms = jax.jit(task.loss_terms)(params, put_batch(batch, task.mesh), None)
        found.append((float(terms["loss_of_tags"][0]), task.evaluate(params, "test").metrics))
    np.testing.assert_allclose(found[0][0], found[1][0], rtol=1e-5)
    assert found[0][1] == found[1][1]


def test_a_tagger_gives_each_word_the_tag_of_its_first_piece(start, tokenizer, tmp_path):
    task = build(start, write_sentences(tmp_path), tmp_path / "run")
    params = scrambled(task.init_params(jax.random.key(2)))
    params = balanced(task.model, params, tokenizer, WORDS)
    tagger = Tagger(
        task.model, params, tokenizer, TAGS, mesh=make_mesh(MeshConfig()), max_tokens=12
    )
    draw = random.Random(3)
    sentences = [draw.choices(WORDS, k=size) for size in (1, 3, 0, 9, 4, 12)]
    apply, lost_any, seen = jax.jit(task.model.apply), 0, set()
    for words, tags in zip(sentences, tagger(sentences), strict=True):
        pieces = [encoded.ids.tolist() for encoded in tokenizer.encode(words)] if words else []
        tokens = [tokenizer.cls_id, *sum(pieces, [])[:10], tokenizer.sep_id]
        best = np.argmax(apply({"params": params}, np.array([tokens]))[0], axis=-1)
        want, place = [], 1
        for piece in pieces:
            want.append(TAGS[best[place]] if place <= 10 else "O")
            place += len(piece)
        assert tags == want
        lost = sum(1 + sum(map(len, pieces[:i])) > 10 for i in range(len(pieces)))
        assert tagger.lost(words) == lost
        lost_any, seen = lost_any + lost, seen | set(tags)
    assert lost_any > 4 and len(seen) > 2
    assert tagger([]) == []


def test_words_that_are_cut_count_as_untagged(tmp_path, start):
    write_sentences(tmp_path)
    (tmp_path / "test.txt").write_text("\n".join(f"{name} B-PER" for name in NAMES * 6) + "\n")
    task = build(start, tmp_path, tmp_path / "run")
    metrics = task.evaluate(task.init_params(jax.random.key(0)), "test").metrics
    assert metrics["cut"] == 1 and 0 < metrics["lost_words"] < metrics["words"] == 18
    assert metrics["recall"] <= 1 - metrics["lost_words"] / 18


def test_scores_are_counted_by_hand():
    truth = [["B-PER", "I-PER", "O"], ["B-LOC"]]
    result = score_tags(truth, [["B-PER", "O", "O"], ["B-LOC"]], TAGS, cut=0, lost=0)
    assert result.metrics["f1"] == pytest.approx(0.5) and result.metrics["accuracy"] == 0.75
    assert result.metrics["entities"] == 2
    assert [line.split()[0] for line in result.report.splitlines()[-2:]] == ["LOC", "PER"]


def test_examples_of_words_have_marks_at_first_pieces(tokenizer):
    found = word_examples(tokenizer, [["the", "york"], []], max_tokens=32)
    for words, tokens, firsts in zip(
        [["the", "york"], []], found.examples.tokens, found.first_pieces, strict=True
    ):
        assert len(tokens) == len(firsts) and firsts.sum() == len(words)
        assert tokens[0] == tokenizer.cls_id and tokens[-1] == tokenizer.sep_id
        assert not firsts[0] and not firsts[-1]


def test_sentences_that_change_change_the_fingerprint(tmp_path, start):
    prints = []
    for words in ("anna B-PER\nmet O\n", "anna O\nmet B-PER\n", "bob B-PER\nmet O\n"):
        for split in ("train", "valid", "test"):
            (tmp_path / f"{split}.txt").write_text(words)
        prints.append(build(start, tmp_path, tmp_path / "run").fingerprint["examples"])
    assert len(set(prints)) == 3


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        (dict(example_length=64, model=dataclasses.replace(MODEL, max_positions=20)), "model 20"),
        (dict(column=1), "all words have the tag 'x'. Choose the column"),
        (dict(column=7), "column"),
        (dict(start=""), "There is no tokenizer. Name what training starts from"),
        (dict(folder="nowhere"), "'nowhere' is no existing folder"),
    ],
)
def test_what_does_not_fit_is_refused(tmp_path, start, change, complaint):
    folder = change.pop("folder", None) or write_sentences(tmp_path)
    with pytest.raises(UserError, match=complaint):
        build(change.pop("start", start), folder, tmp_path / "run", **change).summary  # noqa: B018


def test_a_tag_that_training_has_not_is_refused_with_its_file(tmp_path, start):
    write_sentences(tmp_path)
    (tmp_path / "valid.txt").write_text("anna B-ORG\n")
    with pytest.raises(UserError, match=r"valid.txt: .*B-ORG"):
        build(start, tmp_path, tmp_path / "run").summary  # noqa: B018


@pytest.mark.parametrize(
    "settings", [dict(example_length=80), dict(row_examples=0), dict(column=0)]
)
def test_settings_that_cannot_be_are_refused(settings):
    with pytest.raises(ValueError, match=f"data.{next(iter(settings))}="):
        TaggingData(**(ROWS | settings))


def test_whether_tags_mark_entities_is_up_to_the_model_s_and_not_to_those_that_occur():
    labels = ("O", "B-PER", "NN")
    found = score_tags([["O", "B-PER"]], [["O", "O"]], labels, cut=0, lost=0)
    assert "f1" not in found.metrics
    assert "no F1 of entities: of NN it is not known what they mark" in found.report
    found = score_tags([["O", "O"]], [["O", "O"]], ("DT", "O"), cut=0, lost=0)
    assert "f1" not in found.metrics and "no F1" not in found.report


def test_that_tags_of_another_scheme_have_no_f1_is_said():
    labels = ("O", "B-X", "I-X", "L-X", "U-X")
    report = score_tags([["O", "U-X"]], [["O", "O"]], labels, cut=0, lost=0).report
    assert "no F1 of entities: of L-X, U-X it is not known" in report

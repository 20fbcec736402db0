"""Answers of lines: those of each line alone; of a run as of the folder that it is exported to."""

import io
import json
import re
import sys

import numpy as np
import pytest

from tests.cli.encoders import WORDS, alone, write_encoder
from tests.tasks import test_reading as reading
from tests.tasks.fine_tuning import flags, write_start
from transformer_jax.cli import answer as answer_cli
from transformer_jax.cli import export, train
from transformer_jax.data.wordpiece import WordPieceTokenizer

pytestmark = pytest.mark.usefixtures("quick_compilation")

CONTEXT = "wa wb wc wd wa we"
ASKED = [("wd we", CONTEXT), ("", "wf"), ("wb", "wa  wb\nwg"), ("wp wo", "we " * 3 + "wb")]


def lines_of(asked):
    return "".join(json.dumps({"question": q, "context": c}) + "\n" for q, c in asked).encode()


def answer(folder, data, monkeypatch, capfd, *options):
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(data)))
    code = answer_cli.main(["--model", str(folder), *options])
    out, err = capfd.readouterr()
    return code, [json.loads(line) for line in out.splitlines()], err


def spans_alone(model, question, context):
    """All answers of a context of one window, {(start, end): score}; and that there is none."""
    ids, types = alone(model, question, context)
    first, last = model.model.apply({"params": model.params}, ids, token_types=types)
    first, last = np.asarray(first[0], np.float64), np.asarray(last[0], np.float64)
    places = []  # of the word that each token is of
    for word in re.finditer(r"\S+", context):
        places += [word.span()] * len(model.tokenizer.encode([word[0]])[0].ids)
    offset = ids.shape[1] - 1 - len(places)
    scores = {}
    for a, (begin, _) in enumerate(places):
        for b in range(a, len(places)):
            span, score = (begin, places[b][1]), first[offset + a] + last[offset + b]
            scores[span] = max(scores.get(span, score), score)
    return scores, first[0] + last[0]


@pytest.mark.parametrize("threshold", [None, -1e9, 0.0, 1e9])
def test_a_line_gives_what_it_gives_alone(tmp_path, monkeypatch, capfd, threshold):
    model = write_encoder(tmp_path, "reading", pooler=False)
    monkeypatch.setattr(answer_cli, "CHUNK", 3)
    options = [] if threshold is None else [f"--threshold={threshold}"]
    code, found, err = answer(tmp_path, lines_of(ASKED), monkeypatch, capfd, *options)
    assert (code, len(found), err) == (0, 4, "")
    for result, (question, context) in zip(found, ASKED, strict=True):
        scores, none = spans_alone(model, question, context)
        best = max(scores, key=scores.get)
        is_null = threshold is not None and none - scores[best] > threshold
        begin, end = (0, 0) if is_null else best
        assert result.keys() == {"answer", "probability", "start", "end", "n_best"}
        assert (result["start"], result["end"]) == (begin, end)
        assert result["answer"] == context[begin:end]
        assert len(result["n_best"]) == 1
        first = 0.0 if threshold is None else none
        assert (result["n_best"][0]["answer"] == "") == (
            threshold is not None and first > scores[best]
        )
        if len(scores) == 1:  # the softmax of the one text, and perhaps of none
            shares = np.exp([scores[best], *([] if threshold is None else [none])])
            share = shares[int(is_null)] / shares.sum()
            assert result["probability"] == pytest.approx(share, abs=2e-6)


def test_n_best_are_listed_and_differ(tmp_path, monkeypatch, capfd):
    write_encoder(tmp_path, "reading", pooler=False)
    data = lines_of(ASKED[:1])
    _, [one], _ = answer(tmp_path, data, monkeypatch, capfd)
    _, [five], _ = answer(tmp_path, data, monkeypatch, capfd, "--n-best", "5")
    assert five["n_best"][0] == one["n_best"][0] and five["answer"] == one["answer"]
    texts = [each["answer"] for each in five["n_best"]]
    assert len(set(texts)) == 5
    shares = [each["probability"] for each in five["n_best"]]
    assert shares == sorted(shares, reverse=True) and sum(shares) < 1
    _, [short], _ = answer(
        tmp_path, data, monkeypatch, capfd, "--n-best", "50", "--max-answer-tokens", "1"
    )
    assert all(len(each["answer"].split()) == 1 for each in short["n_best"])


def test_a_long_context_is_read_in_windows_and_a_long_question_is_cut(tmp_path, monkeypatch, capfd):
    model = write_encoder(tmp_path, "reading", pooler=False)
    words = np.random.default_rng(0).choice(WORDS, 40).tolist()
    counts = [len(encoded.ids) for encoded in model.tokenizer.encode(words)]
    # 40 places, of which the question takes 10 and special tokens 3: there the first window ends.
    edge = int(np.searchsorted(np.cumsum(counts), 40 - 10 - 3)) * len("wa ")
    context, found = " ".join(words), {}
    data = lines_of([("wd " * 20, context)])
    for stride in ("8", "128"):
        options = ["--stride", stride, "--n-best", "500"]
        code, [result], err = answer(tmp_path, data, monkeypatch, capfd, *options)
        assert code == 0 and err.startswith("answer: line 1: the question is cut to 10 tokens, by ")
        spans = [(each["start"], each["end"]) for each in result["n_best"]]
        texts = [each["answer"] for each in result["n_best"]]
        assert texts == [context[begin:end] for begin, end in spans]
        assert min(spans)[0] == 0 and max(end for _, end in spans) == len(context)
        found[stride] = [begin < edge and end > edge + len("wa ") for begin, end in spans]
    assert any(found["8"]) and not any(found["128"])  # windows that do not overlap meet there


@pytest.mark.parametrize(
    ("line", "complaint"),
    [
        ("wa wb", "is no JSON"),
        ("", "is no JSON"),
        ("[" * 100_000, "is no JSON"),
        ('["wa", "wb"]', "is no JSON object"),
        ('{"question": "wa"}', 'has no "context" that is a text'),
        ('{"question": 3, "context": "wa"}', 'has no "question" that is a text'),
    ],
)
def test_a_line_that_is_no_question_is_said_and_the_others_are_answered(
    tmp_path, monkeypatch, capfd, line, complaint
):
    write_encoder(tmp_path, "reading", pooler=False)
    fine = lines_of(ASKED[:1])
    data = fine + line.encode() + b"\n" + fine
    code, found, err = answer(tmp_path, data, monkeypatch, capfd)
    assert code == 0 and err == f"answer: line 2 {complaint}\n"
    assert found[1] == {"error": complaint} and found[0] == found[2] and found[0]["answer"]


@pytest.mark.parametrize("threshold", [[], ["--threshold", "0"]])
def test_a_context_without_words_has_no_answer(tmp_path, monkeypatch, capfd, threshold):
    write_encoder(tmp_path, "reading", pooler=False)
    data = lines_of([("wa", " \n")])
    code, [found], _ = answer(tmp_path, data, monkeypatch, capfd, *threshold)
    assert code == 0 and (found["answer"], found["start"], found["end"]) == ("", 0, 0)
    assert found["probability"] == float(bool(threshold))


def test_what_json_can_hold_and_utf8_cannot_is_replaced(tmp_path, monkeypatch, capfd):
    write_encoder(tmp_path, "reading", pooler=False)
    data = b'{"question": "w\\ud800", "context": "\\ud800\\ud83d\\ude00\\udc00", "id": 3}\n'
    code, [found], err = answer(tmp_path, data, monkeypatch, capfd)
    assert (code, err) == (0, "") and found["answer"] == "\ufffd\U0001f600\ufffd"


def test_a_run_answers_as_the_folder_does_that_it_is_exported_to(tmp_path, monkeypatch, capfd):
    folder = reading.write_questions(tmp_path, count=24)
    tokenizer = WordPieceTokenizer.train(
        reading.WORDS * 4, tmp_path / "tokenizer.json", vocab_size=90, lowercase=True
    )
    start = write_start(tmp_path / "start", reading.MODEL, tokenizer)
    steps = "--train.steps 6 --train.log_every 6 --train.checkpoint_every 6".split()
    run, exported = tmp_path / "run", tmp_path / "exported"
    assert train.main(flags("answer", folder, start, run, reading.ROWS, *steps)) == 0, (
        capfd.readouterr().err
    )
    assert export.main(["--model", str(run), "--output", str(exported)]) == 0
    capfd.readouterr()
    settings = json.loads((exported / "config.json").read_text())
    assert settings["architectures"] == ["BertForQuestionAnswering"]
    data = lines_of([("colour", "a dog saw the red hen"), ("place", "with north york and " * 9)])
    found = [
        answer(path, data, monkeypatch, capfd, "--n-best", "3", "--threshold", "0")
        for path in (run, exported)
    ]
    assert found[0] == found[1] and found[0][0] == 0 and len(found[0][1]) == 2


@pytest.mark.parametrize("name", ["n-best", "stride", "max-answer-tokens"])
def test_a_number_that_cannot_be_is_refused(tmp_path, monkeypatch, capfd, name):
    code, found, err = answer(tmp_path, b"", monkeypatch, capfd, f"--{name}", "0")
    assert (code, found, err) == (1, [], f"answer: --{name} 0 must be at least 1.\n")


def test_a_model_without_such_a_head_is_refused(tmp_path, monkeypatch, capfd):
    write_encoder(tmp_path, "classification", labels=("a", "b"))
    code, found, err = answer(tmp_path, lines_of(ASKED), monkeypatch, capfd)
    assert (code, found) == (1, []) and "holds no 'reading'" in err

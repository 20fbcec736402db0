"""Tags of lines: those of each line alone; of a run as of the folder that it is exported to."""

import dataclasses
import io
import json
import sys

import numpy as np
import pytest

from tests.cli.encoders import WORDS, write_encoder
from tests.tasks import test_tagging as tagging
from tests.tasks.fine_tuning import balanced, flags, write_start
from transformer_jax import save_pretrained
from transformer_jax.cli import export, train
from transformer_jax.cli import tag as tag_cli
from transformer_jax.data.wordpiece import WordPieceTokenizer

pytestmark = pytest.mark.usefixtures("quick_compilation")

ENTITIES = ("O", "B-x", "I-x", "B-y ü")
LINES = ["wa wb  wc", "", "wd", "wa\twb " * 22, " \u2003 ", "wp wo wn wm wl"]


def tag(folder, data, monkeypatch, capfd, *options):
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(data)))
    code = tag_cli.main(["--model", str(folder), *options])
    out, err = capfd.readouterr()
    return code, [json.loads(line) for line in out.splitlines()], err


def write_tagger(folder, labels):
    """A folder with a random model that uses all of its tags."""
    found = write_encoder(folder, "tagging", labels=labels, pooler=False)
    params = balanced(found.model, found.params, found.tokenizer, WORDS)
    found = dataclasses.replace(found, params=params)
    save_pretrained(folder, found)
    return found


def tags_alone(model, words):
    """The tags of the words of a sentence that is cut to 40 tokens, and how many have none."""
    pieces = [encoded.ids.tolist() for encoded in model.tokenizer.encode(words)] if words else []
    ids = [model.tokenizer.cls_id, *sum(pieces, [])[:38], model.tokenizer.sep_id]
    logits = model.model.apply({"params": model.params}, np.array([ids]))[0]
    places = np.cumsum([1, *map(len, pieces)])[: len(pieces)]
    tags = [model.labels[int(logits[p].argmax())] if p <= 38 else "O" for p in places]
    return tags, int((places > 38).sum())


@pytest.mark.parametrize("labels", [ENTITIES, ("NN", "VB", "DT")])
def test_a_line_gives_what_it_gives_alone(tmp_path, monkeypatch, capfd, labels):
    model = write_tagger(tmp_path, labels)
    monkeypatch.setattr(tag_cli, "CHUNK", 4)
    code, found, err = tag(tmp_path, "\n".join(LINES).encode(), monkeypatch, capfd)
    assert (code, len(found)) == (0, len(LINES))
    for result, line in zip(found, LINES, strict=True):
        want, lost = tags_alone(model, line.split())
        assert result["words"] == line.split() and result["tags"] == want
        assert ("entities" in result) == (labels == ENTITIES)
        if lost:
            assert err == (
                f"tag: line 4 is cut to 40 tokens; the tag of its last {lost} words is O\n"
            )
    assert err  # a line was cut
    assert {tag for result in found for tag in result["tags"]} == {*labels} | {"O"}


def test_entities_are_said_with_their_words(monkeypatch, tmp_path, capfd):
    model = write_tagger(tmp_path, ENTITIES)
    _, [result], _ = tag(tmp_path, " ".join(WORDS).encode(), monkeypatch, capfd)
    tags, _ = tags_alone(model, WORDS)
    want, i = [], 0
    while i < len(tags):
        kind, end = tags[i][2:], i + 1
        while end < len(tags) and tags[end] == f"I-{kind}":
            end += 1
        if tags[i] != "O":
            text = " ".join(WORDS[i:end])
            want.append({"type": kind, "text": text, "first": i, "last": end - 1})
        i = end
    assert result["entities"] == want and len(want) > 2


def test_a_run_tags_as_the_folder_does_that_it_is_exported_to(tmp_path, monkeypatch, capfd):
    folder = tagging.write_sentences(tmp_path, count=24)
    tokenizer = WordPieceTokenizer.train(
        tagging.WORDS * 4, tmp_path / "tokenizer.json", vocab_size=44, lowercase=True
    )
    start = write_start(tmp_path / "start", tagging.MODEL, tokenizer)
    steps = "--train.steps 20 --train.log_every 20 --train.checkpoint_every 20".split()
    run, exported = tmp_path / "run", tmp_path / "exported"
    arguments = flags("tag", folder, start, run, tagging.ROWS, *steps)
    assert train.main(arguments) == 0, capfd.readouterr().err
    assert export.main(["--model", str(run), "--output", str(exported)]) == 0
    capfd.readouterr()
    settings = json.loads((exported / "config.json").read_text())
    assert settings["architectures"] == ["BertForTokenClassification"]
    assert settings["id2label"] == {str(i): name for i, name in enumerate(tagging.TAGS)}
    data = b"the anna met bob in york\nrome\n"
    found = [tag(path, data, monkeypatch, capfd) for path in (run, exported)]
    assert found[0] == found[1] and found[0][0] == 0 and len(found[0][1]) == 2


def test_a_model_without_such_a_head_is_refused(tmp_path, monkeypatch, capfd):
    write_encoder(tmp_path, "classification", labels=("a", "b"))
    code, found, err = tag(tmp_path, b"wa\n", monkeypatch, capfd)
    assert (code, found) == (1, []) and "holds no 'tagging'" in err

"""A model that was fine-tuned elsewhere is evaluated as a run is."""

import json

import numpy as np
import pytest

from tests.cli.encoders import WORDS, alone, write_encoder
from tests.tasks.fine_tuning import CONFIGS
from transformer_jax.cli import evaluate

pytestmark = pytest.mark.usefixtures("quick_compilation")


def write_texts(folder, labels, count=20):
    rng = np.random.default_rng(0)
    lines = [(" ".join(rng.choice(WORDS, 3)), labels[i % len(labels)]) for i in range(count)]
    (folder / "test.tsv").write_text("\n".join(["text\tlabel", *map("\t".join, lines)]) + "\n")
    return lines


def flags(folder, model, *more, config="classify"):
    where = ["--model", str(model), "--data.path", str(folder), "--data.row_length", "40"]
    return [*where, "--config", str(CONFIGS / f"{config}.py"), *more]


@pytest.mark.parametrize(
    ("labels", "names"),
    [(("no", "yes", "so"), ("no", "yes", "so")), (("LABEL_0", "LABEL_1"), ("0", "1"))],
)
def test_a_classifier_is_judged_by_the_classes_of_its_own_folder(tmp_path, capfd, labels, names):
    model = write_encoder(tmp_path / "model", "classification", labels=labels)
    lines, right, losses = write_texts(tmp_path, names[::-1]), 0, []
    for text, label in lines:
        ids, types = alone(model, text)
        logits = model.model.apply({"params": model.params}, ids, token_types=types)[0, 0]
        right += int(logits.argmax()) == names.index(label)
        losses.append(float(np.log(np.exp(logits).sum()) - logits[names.index(label)]))
    assert 0 < right < len(lines)
    assert evaluate.main(flags(tmp_path, tmp_path / "model")) == 0
    metrics = json.loads(capfd.readouterr().out.splitlines()[-1])
    assert metrics["accuracy"] == pytest.approx(right / len(lines))
    assert metrics["loss"] == pytest.approx(np.mean(losses), rel=1e-4)
    assert metrics["split"] == "test" and metrics["examples"] == 20
    assert sorted(path.name for path in tmp_path.iterdir()) == ["model", "test.tsv"]


def test_label_numbers_stand_for_the_classes_of_glue(tmp_path, capfd):
    labels = ("LABEL_0", "LABEL_1")
    write_encoder(tmp_path / "model", "classification", labels=labels)
    rows = [f"src\t{i % 2}\t\tw{'abc'[i % 3]} wd" for i in range(12)]
    (tmp_path / "dev.tsv").write_text("\n".join(rows) + "\n")
    arguments = flags(f"glue:cola:{tmp_path}", tmp_path / "model", "--split", "valid")
    assert evaluate.main(arguments) == 0, capfd.readouterr().err
    assert "matthews" in json.loads(capfd.readouterr().out.splitlines()[-1])


def write_mnli(folder):
    head, classes = "index\tsentence1\tsentence2\tgold_label", "entailment neutral contradiction"
    rows = [f"{i}\twa wb\tw{'cde'[i % 3]} wf\t{classes.split()[i % 3]}" for i in range(12)]
    (folder / "dev_matched.tsv").write_text("\n".join([head, *rows]) + "\n")
    return f"glue:mnli:{folder}"


def accuracy_of(capfd, data, model, *more):
    assert evaluate.main(flags(data, model, "--split", "valid", *more)) == 0
    return json.loads(capfd.readouterr().out.splitlines()[-1])["accuracy"]


def test_classes_of_glue_are_matched_by_name_whatever_their_case_and_order(tmp_path, capfd):
    names, data = ("contradiction", "neutral", "entailment"), write_mnli(tmp_path)
    write_encoder(tmp_path / "lower", "classification", labels=names)
    write_encoder(tmp_path / "upper", "classification", labels=tuple(map(str.upper, names)))
    write_encoder(tmp_path / "other", "classification", labels=("NO", "MAYBE", "YES"))
    want = accuracy_of(capfd, data, tmp_path / "lower")
    assert accuracy_of(capfd, data, tmp_path / "upper") == want
    assert accuracy_of(capfd, data, tmp_path / "other", "--labels", ",".join(names)) == want
    assert evaluate.main(flags(data, tmp_path / "other", "--split", "valid")) == 1
    err = capfd.readouterr().err
    assert "classes are NO, MAYBE, YES, those of GLUE's mnli entailment, neutral, contr" in err
    for wrong in ("a,b", "a,b,b"):
        assert evaluate.main(flags(data, tmp_path / "other", "--labels", wrong)) == 1
        assert "--labels must name 3 different classes" in capfd.readouterr().err


def test_that_numbered_classes_of_three_are_taken_in_glue_s_order_is_said(tmp_path, capfd):
    data, names = write_mnli(tmp_path), ("LABEL_0", "LABEL_1", "LABEL_2")
    write_encoder(tmp_path / "model", "classification", labels=names)
    with pytest.warns(UserWarning, match="are taken for entailment, neutral, contradiction"):
        want = accuracy_of(capfd, data, tmp_path / "model")
    order = "entailment,neutral,contradiction"
    assert accuracy_of(capfd, data, tmp_path / "model", "--labels", order) == want


@pytest.mark.parametrize(
    ("kind", "config", "more", "complaint"),
    [
        ("tagging", "classify", [], "is of the kind 'tagging', the config of 'classification'"),
        ("encoder", "classify", [], "The model gives a number, and the labels of"),
        ("classification", "bert_tiny", [], "by a config of fine-tuning"),
        ("classification", "classify", ["--data.regression"], "The model gives classes"),
        ("classification", "classify", ["--step", "best"], "are of runs, and --model names none"),
        ("classification", "classify", ["--split", "dev"], "--split 'dev' is none of train"),
        ("classification", "nothing", [], "nothing.py does not exist"),
        ("classification", "classify", ["--threshold", "1"], "--threshold is of finding answers"),
        ("classification", "classify", ["--predictions", "x"], "--predictions is of finding answ"),
    ],
)
def test_what_does_not_fit_is_refused(tmp_path, capfd, kind, config, more, complaint):
    names = ("no", "yes")
    labels = names if kind in ("classification", "tagging") else ()
    write_encoder(tmp_path / "model", kind, labels=labels, pooler=kind == "classification")
    write_texts(tmp_path, names)
    (tmp_path / "train.txt").write_text("wa wb\n")
    arguments = flags(tmp_path, tmp_path / "model", *more, config=config)
    assert evaluate.main(arguments) == 1
    assert complaint in capfd.readouterr().err


def test_what_no_run_knows_is_refused(tmp_path, capfd):
    write_encoder(tmp_path / "model", "classification", labels=("no", "yes"))
    assert evaluate.main(["--model", str(tmp_path / "model")]) == 1
    assert "name a config of it" in capfd.readouterr().err
    for wrong in (
        ["--workdir", "x", "--data.row_length", "3"],
        ["--workdir", "x", "--labels", "a,b"],
        [],
        ["--workdir", "x", "--model", "y"],
    ):
        with pytest.raises(SystemExit):
            evaluate.main(wrong)

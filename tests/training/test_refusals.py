"""A run that is not what it was is refused by field, unless the user allows that field."""

import dataclasses
import shutil

import pytest

from tests.training.test_loop import config_for, last_state, losses
from transformer_jax.data.tokenizers import SentencePieceTokenizer
from transformer_jax.errors import UserError
from transformer_jax.training.differences import (
    differences,
    fingerprint_differences,
    host_differences,
    refusal,
)
from transformer_jax.training.loop import train
from transformer_jax.training.schedules import InverseSqrt

pytestmark = pytest.mark.usefixtures("quick_compilation")


@pytest.fixture(scope="module")
def data(tmp_path_factory, pairs_folder):
    return shutil.copytree(pairs_folder, tmp_path_factory.mktemp("data") / "pairs")


@pytest.fixture(scope="module")
def run(tmp_path_factory, data, quick_compilation):
    """The folder of a run of two steps."""
    workdir = tmp_path_factory.mktemp("run")
    train(config_for(data, stop_at=2), workdir)
    return workdir


@pytest.fixture
def copy(run, tmp_path):
    return shutil.copytree(run, tmp_path / "run")


def changed(config, group, **fields):
    return dataclasses.replace(
        config, **{group: dataclasses.replace(getattr(config, group), **fields)}
    )


@pytest.mark.parametrize(
    ("group", "fields", "named"),
    [
        ("model", dict(dtype="bfloat16"), "model.dtype: 'float32' -> 'bfloat16'"),
        ("model", dict(vocab_size=40), "model.vocab_size: 32 -> 40"),
        ("optimizer", dict(weight_decay=0.5), "optimizer.weight_decay: 0.0 -> 0.5"),
        ("data", dict(row_length=40), "data.row_length: 32 -> 40"),
        ("train", dict(batch_size=8), "train.batch_size: 16 -> 8"),
    ],
)
def test_another_model_optimizer_or_data_is_refused_by_field(run, data, group, fields, named):
    before = last_state(run)[1]
    with pytest.raises(UserError, match="holds another run; it differs in") as error:
        train(changed(config_for(data), group, **fields), run)
    assert f"\n  {named}\n" in str(error.value)
    assert f"go on with it by --allow {named.partition(':')[0]}" in str(error.value)
    assert last_state(run)[1] == before


def test_a_field_that_is_allowed_may_differ_and_then_is_the_runs(copy, data):
    config = config_for(data, stop_at=4)
    schedule = InverseSqrt(peak=1e-3, warmup=5)
    config = changed(changed(config, "model", dropout_rate=0.3), "optimizer", schedule=schedule)
    with pytest.raises(UserError, match="model.dropout_rate"):
        train(config, copy, allow=["optimizer.schedule"])
    train(config, copy, allow=["optimizer.schedule", "model.dropout_rate"])
    assert sorted(losses(copy)) == [1, 2, 3, 4]
    train(dataclasses.replace(config, train=dataclasses.replace(config.train, stop_at=5)), copy)
    assert sorted(losses(copy)) == [1, 2, 3, 4, 5]


def test_what_cannot_be_restored_is_refused_though_it_is_allowed(copy, data):
    with pytest.raises(UserError, match="another model or optimizer"):
        train(changed(config_for(data), "model", width=32), copy, allow=["model"])


def change_pairs(workdir, data):
    with (data / "train.tsv").open("a") as file:
        file.write("the cat\tle chat\n")


def change_tokenizer(workdir, data):
    texts = (data / "train.tsv").read_text().split()[::2]
    SentencePieceTokenizer.train(texts, workdir / "tokenizer.model", vocab_size=32)


@pytest.mark.parametrize(
    ("change", "named", "group"),
    [(change_pairs, "data.pairs", "data"), (change_tokenizer, "data.tokenizer", "data.tokenizer")],
)
def test_other_data_or_another_tokenizer_under_the_same_name_is_refused_unless_allowed(
    copy, data, tmp_path, change, named, group
):
    mine = shutil.copytree(data, tmp_path / "mine")
    change(copy, mine)
    with pytest.raises(UserError, match="trained on other data; it differs in") as error:
        train(config_for(mine, stop_at=3), copy)
    assert f"\n  {named}: " in str(error.value) and "--allow data." in str(error.value)
    if named == "data.pairs":
        train(config_for(mine, stop_at=3), copy, allow=[group])
        position = last_state(copy)[1]
        assert '"epoch": 1' in position and '"batch": 1' in position  # the next epoch has begun


@pytest.mark.parametrize(
    ("name", "hint"),
    [
        ("model.dropot_rate", "Do you mean model.dropout_rate"),
        ("optimiser", "Do you mean optimizer"),
        ("model.nothing", "There are .*model.width"),
        ("xyz", "There are data, mesh, model, optimizer, task, train"),
    ],
)
def test_a_field_that_there_is_not_cannot_be_allowed(run, data, name, hint):
    with pytest.raises(UserError, match=f"--allow {name}: no field has this name. {hint}"):
        train(config_for(data), run, allow=[name])


def test_differences_are_of_leaves_and_allowed_by_group():
    old = {"model": {"class": "A", "width": 1, "rate": 0.1}, "train": {"keep": 1, "seed": 0}}
    new = {"model": {"class": "A", "width": 2, "rate": 0.2}, "train": {"keep": 2, "seed": 1}}
    assert differences(old, old) == []
    widths = ["model.rate: 0.1 -> 0.2", "model.width: 1 -> 2"]
    assert differences(old, new) == [*widths, "train.seed: 0 -> 1"]
    assert differences(old, new, ["model", "train.see"]) == ["train.seed: 0 -> 1"]
    assert host_differences(old, new)[-2:] == ["train.keep: 1 -> 2", "train.seed: 0 -> 1"]
    paths = {"data": {"path": "a"}}, {"data": {"path": "b"}}
    assert host_differences(*paths) == differences(*paths) == []


def test_fingerprints_are_compared_by_the_names_of_fields():
    old = {"pairs": "a", "tokenizer": "b", "row": [1, 2], "batch_size": 8, "seed": 0}
    assert fingerprint_differences(old, old) == []
    assert fingerprint_differences(old, old | {"new": 1}) == []  # an older version had it not
    assert fingerprint_differences(old | {"gone": 1}, old) == ["data.gone: 1 -> None"]
    new = {"pairs": "c", "tokenizer": "d", "row": [1, 3], "batch_size": 9, "seed": 1}
    names = ["train.batch_size", "data.pairs", "data.row_length", "train.seed", "data.tokenizer"]
    assert [line.partition(":")[0] for line in fingerprint_differences(old, new)] == names
    assert fingerprint_differences(old, new, ["data", "train"]) == []
    assert fingerprint_differences(old, old | {"tokenizer": "d"}, ["data.pairs"]) == [
        "data.tokenizer: 'b' -> 'd'"
    ]


def test_a_refusal_names_what_to_allow():
    text = refusal(["a.b: 1 -> 2", "c: 'x: y' -> 3"])
    assert text.startswith("\n  a.b: 1 -> 2\n  c: 'x: y' -> 3\n") and text.endswith("--allow a.b,c")

"""The config.json of a run: what was written is read, and what anyone else writes is data."""

import dataclasses
import json
import typing
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.hostile import PAYLOADS, changes, damages, payloads, refused
from transformer_jax.cli.config_file import load_config
from transformer_jax.cli.run_config import CLASSES, read_run_config
from transformer_jax.errors import UserError
from transformer_jax.parallel.mesh import MeshConfig, make_mesh
from transformer_jax.tasks.run_labels import labels_of_run
from transformer_jax.training.config import ExperimentConfig
from transformer_jax.training.config_json import fits, from_json, to_json, write_config
from transformer_jax.training.loop import build_task

CONFIGS = {
    path.stem: load_config(path)
    for path in sorted((Path(__file__).resolve().parents[2] / "configs").glob("*.py"))
}
KNOWN = {n: c for n, c in CONFIGS.items() if "PretrainedSizes" not in json.dumps(to_json(c))}
SEARCH = settings(suppress_health_check=list(HealthCheck), max_examples=300)
VALUES = {
    int: st.integers(-1, 40),
    float: st.floats(0, 2) | st.integers(0, 1),
    bool: st.booleans(),
    str: st.text(max_size=4),
}


def write(folder, text):
    (folder / "config.json").write_bytes(text if isinstance(text, bytes) else text.encode())
    return folder


def fields_of(config):
    """The places of all numbers, texts and switches in a config, and the type of each."""
    hints = typing.get_type_hints(type(config))
    for field in dataclasses.fields(config):
        value = getattr(config, field.name)
        if dataclasses.is_dataclass(value):
            yield from (((field.name, *path), hint) for path, hint in fields_of(value))
        elif hints[field.name] in VALUES:
            yield (field.name,), hints[field.name]


def replaced(config, path, value):
    first, *rest = path
    inner = replaced(getattr(config, first), rest, value) if rest else value
    return dataclasses.replace(config, **{first: inner})


@SEARCH
@given(st.data())
def test_a_config_that_its_classes_accept_goes_through_its_file_and_back(tmp_path, data):
    config = KNOWN[data.draw(st.sampled_from(sorted(KNOWN)))]
    for path, hint in data.draw(
        st.lists(st.sampled_from(sorted(fields_of(config), key=str)), max_size=4)
    ):
        try:
            config = replaced(config, path, data.draw(VALUES[hint]))
        except (ValueError, TypeError):
            continue
    write_config(config, tmp_path / "config.json")
    assert read_run_config(tmp_path) == config


@SEARCH
@given(st.data())
def test_a_changed_config_is_a_config_or_a_user_error(tmp_path, data):
    config = to_json(KNOWN[data.draw(st.sampled_from(sorted(KNOWN)))])
    write(tmp_path, json.dumps(data.draw(changes(config))))
    _read_or_refuse(tmp_path)


@SEARCH
@given(st.data())
def test_a_damaged_config_is_a_config_or_a_user_error(tmp_path, data):
    config = KNOWN[data.draw(st.sampled_from(sorted(KNOWN)))]
    write(tmp_path, data.draw(damages(json.dumps(to_json(config)).encode())))
    _read_or_refuse(tmp_path)


def _read_or_refuse(folder):
    try:
        config = read_run_config(folder)
    except UserError as error:
        assert "config.json" in str(error) and len(str(error)) < 10_000
    else:
        assert isinstance(config, ExperimentConfig)
        assert from_json(json.loads(json.dumps(to_json(config))), CLASSES) == config


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda c: [], "is of a tuple, and not of a run"),
        (lambda c: c["model"], "is of a TransformerConfig, and not of a run"),
        (lambda c: c | {"task": c["model"]}, "the task is a TransformerConfig, and not a task"),
        (lambda c: c | {"task": None}, "the task is a NoneType, and not a task"),
        (lambda c: c | {"model": c["data"]}, "a TranslationData is no model of a TranslationC"),
        (lambda c: c | {"data": c["model"]}, "a TransformerConfig is no data of a TranslationC"),
        (lambda c: c | {"data": []}, "a tuple is no data of a TranslationConfig"),
        (lambda c: c | {"class": "posixpath.system"}, "no class 'posixpath.system' is known"),
        (lambda c: c | {"class": ["ExperimentConfig"]}, "no class .'ExperimentConfig'. is known"),
        (lambda c: c | {"class": "__import__"}, "no class '__import__' is known"),
        (lambda c: c | {"__init__": 1}, "has other fields in this version: __init__"),
        (lambda c: _set(c, "train", "steps", "100"), "TrainConfig.steps cannot be '100'; it is"),
        (lambda c: _set(c, "train", "steps", True), "steps cannot be True"),
        (lambda c: _set(c, "train", "steps", 10**30), "steps cannot be 1000000000"),
        (lambda c: _set(c, "train", "init_from", "\ud800"), "init_from cannot be"),
        (lambda c: _set(c, "model", "width", 64.5), "width cannot be 64.5; it is of the type int"),
        (lambda c: _set(c, "model", "dtype", "float64"), "it is of the type Literal"),
        (lambda c: _set(c, "optimizer", "schedule", 0.1), "OptimizerConfig.schedule cannot be"),
        (lambda c: _set(c, "data", "path", ["x"]), "TranslationData.path cannot be"),
    ],
)
def test_a_config_of_other_types_is_refused_by_the_name_of_the_field(tmp_path, change, message):
    config = json.loads(json.dumps(to_json(CONFIGS["translate_demo"])))
    write(tmp_path, json.dumps(change(config)))
    with pytest.raises(UserError, match=message):
        read_run_config(tmp_path)


OWN = """
from __future__ import annotations
import dataclasses
import pathlib
import typing
from transformer_jax.cli.config_file import load_config

if typing.TYPE_CHECKING:
    from nowhere import Model

@dataclasses.dataclass(frozen=True)
class OwnTask:
    size: int = 1

    def build(self, *, model: Model, data, batch_size, seed, workdir, mesh):
        pass

def get_config():
    return dataclasses.replace(load_config(pathlib.Path(DEMO)), task=OwnTask())
"""


def test_a_task_of_ones_own_may_name_types_for_a_checker_alone(tmp_path):
    demo = Path(__file__).resolve().parents[2] / "configs" / "translate_demo.py"
    own = tmp_path / "own.py"
    own.write_text(OWN.replace("DEMO", repr(str(demo))))
    write_config(load_config(own), tmp_path / "config.json")
    assert read_run_config(tmp_path, own).task.size == 1


def _set(config, part, name, value):
    config[part][name] = value
    return config


@pytest.mark.parametrize(
    "text",
    [b"", b"{", b"[" * 10**5, b'{"class":' * 10**5, b"NaN", b"\xff", b"\0", b'{"a":1,"a":1}'],
)
def test_what_is_no_json_is_damage(tmp_path, text):
    with pytest.raises(UserError, match=r"config\.json is damaged"):
        read_run_config(write(tmp_path, text))


@pytest.mark.parametrize("name", sorted(KNOWN))
def test_tasks_take_the_model_and_the_data_of_their_configs(tmp_path, name):
    write_config(CONFIGS[name], tmp_path / "config.json")
    assert read_run_config(tmp_path) == CONFIGS[name]


@pytest.mark.parametrize("payload", PAYLOADS)
def test_harmful_files_of_a_run_are_refused_and_not_run(tmp_path, payload):
    trace, folder = tmp_path / "trace", tmp_path / "run"
    folder.mkdir()
    data = payloads(trace)[payload]
    with refused(trace, "config.json"):
        read_run_config(write(folder, data))
    (folder / "labels.json").write_bytes(data)
    with refused(trace, "labels.json"):
        labels_of_run(folder, list)
    for name in ("translate_demo", "bert_demo"):
        write_config(CONFIGS[name], folder / "config.json")
        (folder / "tokenizer.json").write_bytes(data)
        (folder / "tokenizer.model").write_bytes(data)
        with refused(trace, "tokenizer."):
            build_task(read_run_config(folder), folder, make_mesh(MeshConfig()))


@pytest.mark.parametrize(
    "labels", [b"[1]", b'{"a": 1}', b'["a", "a"]', b'["\\ud800"]', b"[" * 10**5, b"\xff", b""]
)
def test_what_are_no_labels_is_refused(tmp_path, labels):
    write(tmp_path, "{}")
    (tmp_path / "labels.json").write_bytes(labels)
    with pytest.raises(UserError, match=r"labels\.json cannot be read: "):
        labels_of_run(tmp_path, list)


@pytest.mark.parametrize(
    ("value", "hint", "wanted"),
    [
        (3, float, True),
        (3.0, int, True),  # as 1e5 steps in a config file
        (3.5, int, False),
        (True, int, False),
        (True, float, False),
        (1, bool, False),
        (1, typing.Literal[True, "x"], False),
        (None, int | None, True),
        ((1, 2), tuple[int, ...], True),
        ((1, "2"), tuple[int, ...], False),
        ((1, 2), tuple[int, float], True),
        ((1,), tuple[int, float], False),
        (float("nan"), float, False),
        (2**63, int, False),
        ((1,), typing.Any, True),
        ((1,), list[int], True),  # what we do not know, the class may judge
    ],
)
def test_a_value_is_of_the_type_of_its_field(value, hint, wanted):
    assert fits(value, hint) is wanted

"""Plans without the compiler: what it says of memory, refusals, the search, and what is printed."""

import dataclasses
import json
import math

import jax
import pytest

from transformer_jax.cli import plan as command
from transformer_jax.errors import UserError
from transformer_jax.models.bert import BertConfig
from transformer_jax.planning import compiler
from transformer_jax.planning.chips import GIB, Topology
from transformer_jax.planning.collectives import Collective
from transformer_jax.planning.compiler import Compiled, Memory, needed
from transformer_jax.planning.plan import Plan
from transformer_jax.planning.roofline import Roofline
from transformer_jax.planning.search import search
from transformer_jax.tasks.bert_data import BertData
from transformer_jax.tasks.masked_lm import MaskedLmConfig
from transformer_jax.training.config import ExperimentConfig, TrainConfig

POD = Topology("v5e", (16, 16))
CONFIG = ExperimentConfig(
    MaskedLmConfig(), BertConfig(), BertData(), train=TrainConfig(batch_size=64, microbatches=4)
)
SUM = Collective("all-reduce", "f32", 1e6, 24, (0, 1), False, "")


def plan(seconds=1.0, memory=1e9, fits=True):
    times = Roofline(0.6 * seconds, 0.5 * seconds, 0.9 * seconds, 0.1, 0.1 * seconds, None)
    compiled = Compiled(Memory(memory, 0.0, 0.0), "" if fits else None, 2.0, None if fits else "x")
    known = dict(hardware_flops=2e16, collectives=(SUM,), times=times) if fits else {}
    return Plan(POD, {"data": 256}, 64, 4, 1e16, fits, compiled, **known)


@pytest.mark.parametrize(
    ("complaint", "total"),
    [
        ("Ran out of memory in memory space hbm. Used 20.70G of 15.75G hbm. Exceeded", 20.7 * GIB),
        ("required for HLO temporaries (38.48G) exceeds available HBM (15.75G).", 40.48 * GIB),
        ("something else", math.nan),
    ],
)
def test_the_compilers_complaint_says_how_much_is_needed(complaint, total):
    assert needed(complaint, 2.0 * GIB).total == pytest.approx(total, nan_ok=True)


def test_without_libtpu_one_is_told_what_to_install(monkeypatch):
    monkeypatch.setattr(compiler.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(UserError, match=r"pip install 'transformer-jax\[plan\]'"):
        compiler.devices_of(POD)


def test_a_topology_that_the_compiler_refuses_is_an_error_of_the_users(monkeypatch):
    def refuse(**_):
        raise jax.errors.JaxRuntimeError("INVALID_ARGUMENT: not divisible by 2x2x1")

    monkeypatch.setattr(compiler.importlib.util, "find_spec", lambda name: name)
    monkeypatch.setattr(compiler.topologies, "get_topology_desc", refuse)
    with pytest.raises(UserError, match="v5e:16x16 is none .* not divisible by 2x2x1"):
        compiler.devices_of(POD)


def test_mfu_is_the_models_share_of_what_the_chips_could_do():
    assert plan(2.0).mfu == pytest.approx(1e16 / (2.0 * 256 * 197e12))


def test_a_plan_that_does_not_fit_has_its_memory_and_no_times():
    found = plan(memory=2e10, fits=False).to_json()
    assert (found["fits"], found["memory_gb"], found["hbm_gb"]) == (False, 20.0, 17.18)
    assert found["mfu"] is found["step_seconds"] is found["collectives"] is None


def test_json_has_every_field_and_says_that_it_is_a_prediction():
    found = json.loads(json.dumps(plan().to_json()))
    assert found["prediction"] is True and found["assumptions"]
    assert found["constants"]["source"].startswith("https://")
    assert found["collectives"] == {"all-reduce": {"count": 24, "bytes": 24e6}}
    named = {"fits", "memory_gb", "hbm_gb", "mfu", "step_seconds", "flops", "compile_seconds"}
    assert named <= found.keys()


@pytest.mark.parametrize("fits", [True, False])
def test_the_table_says_what_the_numbers_say(fits):
    text = command.table(plan(fits=fits))
    assert text.startswith("A prediction for v5e:16x16: 256 chips, mesh data 256")
    assert ("predicted MFU   19.8%" in text) == fits and ("fits            NO" in text) != fits


def test_the_command_prints_json(monkeypatch, capsys, tmp_path):
    seen = []
    monkeypatch.setattr(command, "make_plan_apart", lambda *given: seen.append(given) or plan())
    config = "configs/bert_tiny.py"
    flags = ["--config", config, "--topology", "v5e:16x16", "--json", "--mesh.fsdp", "16"]
    assert command.main(flags) == 0
    assert json.loads(capsys.readouterr().out)["chips"] == 256
    ((config, topology),) = seen
    assert config.mesh.fsdp == 16 and topology == POD


def test_the_command_explains_its_errors(capsys):
    assert command.main(["--config", "configs/bert_tiny.py"]) == 2
    assert command.main(["--config", "configs/bert_tiny.py", "--topology", "v9:2x2"]) == 1
    assert "the kinds are v4" in capsys.readouterr().err


def seconds_of(config):
    """A made-up law: fsdp helps, two microbatches are best, and "none" does not fit."""
    slow = {"dots": 1.0, "full": 1.3, "none": 1.0}[config.model.remat]
    return slow * (1 + 0.1 * abs(config.train.microbatches - 2)) / (1 + (config.mesh.fsdp > 1))


def judge(config, topology):
    if config.mesh.model > 2:
        raise UserError("too many")
    return plan(seconds_of(config), memory=3e10, fits=config.model.remat != "none")


def test_the_search_finds_the_best_and_ranks_all():
    found = search(CONFIG, POD, judge)
    best = found[0]
    assert best.plan.fits and best.config.train.microbatches == 2
    assert best.config.mesh.fsdp > 1 and best.config.model.remat == "dots"
    assert "--model.remat dots" in best.flags and "--train.microbatches 2" in best.flags
    steps = [one.plan.times.step for one in found if one.plan.fits]
    assert steps == sorted(steps)
    assert all(one.plan.fits for one in found[: len(steps)])
    assert not any(one.config.mesh.model > 2 for one in found)
    assert len({one.flags for one in found}) == len(found)


def test_the_search_raises_what_is_wrong_with_the_config_itself():
    config = dataclasses.replace(CONFIG, mesh=dataclasses.replace(CONFIG.mesh, model=4))
    with pytest.raises(UserError, match="too many"):
        search(config, POD, judge)

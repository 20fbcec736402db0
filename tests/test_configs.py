"""Each config of BERT's family, made small, trains on a folder of text, and names its source."""

import ast
import json
import re
from pathlib import Path

import jax
import numpy as np
import pytest

from tests.cli.encoders import write_encoder
from tests.tasks.small_texts import write_texts
from transformer_jax.cli.config_file import load_config
from transformer_jax.cli.train import main
from transformer_jax.data.subword_tokenizers import load_tokenizer
from transformer_jax.training.checkpoint import Checkpoints
from transformer_jax.training.schedules import WarmupLinear

CONFIGS = Path(__file__).resolve().parents[1] / "configs"
NAMES = (
    "bert_tiny bert_base bert_large bert_large_512 roberta_base albert_base spanbert_base "
    "distilbert scibert biobert"
).split()
SMALL = (
    "--model.width 16 --model.num-heads 2 --model.feed-forward-dim 32 --model.dtype float32 "
    "--train.batch-size 16 --train.microbatches 2 --train.stop-at 2 --train.log-every 1 "
    "--data.row-length 64"
).split()
FINE_TUNED = ["answer", "choose", "classify", "tag"]  # see tests/tasks
CONTINUES = {"bert_large_512": "bert_large", "biobert": "bert_base", "distilbert": "bert_base"}


def doc_of(name):
    return ast.get_docstring(ast.parse((CONFIGS / f"{name}.py").read_text()))


@pytest.fixture(scope="module")
def texts(tmp_path_factory):
    return write_texts(tmp_path_factory.mktemp("texts"))


@pytest.fixture(scope="module")
def train_small(texts, tmp_path_factory):
    """Trains a config once, after what it continues, and gives its folder."""
    folders = {}

    def run(name):
        if name in folders:
            return folders[name]
        folders[name] = tmp_path_factory.mktemp(name) / "run"
        # What the kinds of tokenizers can make of so few words.
        vocabulary = {"roberta_base": "280", "albert_base": "50"}.get(name, "64")
        layers = "1" if name == "distilbert" else "2"
        flags = [*SMALL, "--model.vocab-size", vocabulary, "--model.num-layers", layers]
        if name == "albert_base":
            flags += ["--model.embedding-width", "8"]
        if name == "distilbert":
            sizes = "width 16 num-heads 2 feed-forward-dim 32 num-layers 2 vocab-size 64".split()
            for field, size in zip(sizes[::2], sizes[1::2], strict=True):
                flags += [f"--task.teacher.{field}", size]
            flags += ["--task.teacher.dtype", "float32"]
        if name in CONTINUES:
            before = str(run(CONTINUES[name]))
            flags += ["--train.init-from", before, "--data.tokenizer", before]
        config = str(CONFIGS / f"{name}.py")
        where = ["--data.path", str(texts), "--workdir", str(folders[name])]
        assert main(["--config", config, *where, *flags]) == 0
        return folders[name]

    return run


def test_no_config_is_left_out():
    others = {path.stem for path in CONFIGS.glob("*.py")} - {*NAMES, "bert_demo", *FINE_TUNED}
    assert all(name.startswith("trans") for name in others)  # see tests/cli/test_commands.py


@pytest.mark.parametrize("name", [*NAMES, "bert_demo"])
def test_the_config_trains_on_ones_own_text(name, train_small):
    metrics = (train_small(name) / "metrics.jsonl").read_text().splitlines()
    assert len(metrics) == 2 and "NaN" not in metrics[-1]


def test_bert_base_goes_on_with_long_rows_by_the_flags_that_it_names(texts, train_small, tmp_path):
    [flags] = re.findall(r"--train\.init_from DIR [^`]+", doc_of("bert_base"))
    flags = flags.replace("DIR", str(train_small("bert_base"))).split()
    where = ["--config", str(CONFIGS / "bert_base.py"), "--data.path", str(texts)]
    sizes = [*SMALL[: SMALL.index("--data.row-length")], "--model.num-layers", "2"]
    sizes += ["--model.vocab-size", "64", "--workdir", str(tmp_path / "run")]
    assert main([*where, *flags, *sizes]) == 0
    lines = (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()
    assert json.loads(lines[0])["learning_rate"] == pytest.approx(1.0101e-5)
    data = json.loads((tmp_path / "run" / "config.json").read_text())["data"]
    assert data["row_length"] == 512


def test_biobert_goes_on_from_a_folder_of_hugging_face(texts, tmp_path, capfd):
    bert = write_encoder(tmp_path / "bert", "pretraining", max_positions=64)
    config, folder = ["--config", str(CONFIGS / "biobert.py")], str(tmp_path / "bert")
    flags = [*config, "--data.path", str(texts), *SMALL, "--model.num-layers", "2"]
    flags += ["--model.vocab-size", "50", "--model.max-positions", "64"]
    start = ["--train.init-from", folder, "--data.tokenizer", folder]
    still = ["--optimizer.schedule.peak", "0", "--workdir", str(tmp_path / "run")]
    assert main([*flags, *start, *still]) == 0
    checkpoints = Checkpoints(tmp_path / "run", read_only=True)
    params = checkpoints.read_params(checkpoints.latest())
    checkpoints.close()
    jax.tree.map(np.testing.assert_array_equal, params, bert.params)
    own = load_tokenizer(tmp_path / "run" / "tokenizer.json")
    assert own.fingerprint == bert.tokenizer.fingerprint
    capfd.readouterr()
    write_encoder(tmp_path / "bert", "encoder", max_positions=64)  # nothing is left at random
    assert main([*flags, *start, "--workdir", str(tmp_path / "other")]) == 1
    assert "mlm_head/transform/dense/kernel (16, 16) is missing" in capfd.readouterr().err


def test_the_second_phase_of_bert_base_has_the_rates_of_the_last_tenth_of_the_whole():
    whole = load_config(CONFIGS / "bert_base.py")
    doc = doc_of("bert_base")
    value = {
        name: float(re.search(rf"--{name} ([\d.e-]+)", doc)[1])
        for name in ("train.steps", "optimizer.schedule.peak", "optimizer.schedule.warmup")
    }
    steps, peak, warmup = value.values()
    later = WarmupLinear(peak=peak, warmup=int(warmup)).build(int(steps))
    rates = whole.optimizer.schedule.build(whole.train.steps)
    assert whole.train.stop_at + steps == whole.train.steps
    for update in (0, 1, 50_000, 99_990):
        want = rates(whole.train.stop_at + update)
        np.testing.assert_allclose(later(update), want, rtol=1e-4)


@pytest.mark.parametrize("name", [*NAMES, *FINE_TUNED])
def test_the_config_names_recipe_source_published_number_and_command(name):
    doc = doc_of(name)
    assert re.search(r"arXiv:\d{4}\.\d{5}", doc) and "Published" in doc
    assert f"train.py --config configs/{name}.py" in doc
    load_config(CONFIGS / f"{name}.py")

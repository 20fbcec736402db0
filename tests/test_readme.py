"""What the README shows, runs."""

import ast
import json
import re
import tomllib
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests.cli.encoders import write_encoder
from transformer_jax import (
    PretrainedTransformer,
    Transformer,
    TransformerConfig,
    load_pretrained,
    save_pretrained,
)
from transformer_jax.cli import evaluate as evaluate_cli
from transformer_jax.cli import train as train_cli
from transformer_jax.data.tokenizers import SentencePieceTokenizer

ROOT = Path(__file__).parents[1]
DOCUMENTS = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
CONFIGS = sorted(path.stem for path in (ROOT / "configs").glob("*.py"))
COMMANDS = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["scripts"]
BLOCKS = re.findall(r"^```python\n(.*?)^```", (ROOT / "README.md").read_text(), re.M | re.S)


@pytest.mark.parametrize("name", [*CONFIGS, *COMMANDS])
def test_every_config_and_every_installed_command_is_named(name):
    text = "\n".join(path.read_text() for path in DOCUMENTS)
    assert re.search(rf"`{name}`|\b{name}\.py\b" if name in CONFIGS else rf"`{name}`", text)


def test_composing_as_the_readme_shows():
    names: dict = {}
    for block in BLOCKS[:-1]:
        if "load_pretrained" not in block:
            exec(block, names)
    assert names["weights"].shape == (2, 4, 10, 10)
    assert names["logits"].shape == (2, 5, 100)


def test_models_of_hugging_face_as_the_readme_shows(tmp_path, monkeypatch, capsys):
    texts = ["Open the file", "Close the window", "The window is open"] * 5
    tokenizer = SentencePieceTokenizer.train(texts, tmp_path / "tokenizer", vocab_size=20)
    config = TransformerConfig(20, 8, 2, 16, 1, 1, sinusoids="halves", norm_epsilon=1e-5)
    model, tokens = Transformer(config), jnp.zeros((1, 2), jnp.int32)
    params = model.init(jax.random.key(0), tokens, tokens)["params"]
    monkeypatch.chdir(tmp_path)
    save_pretrained("opus-mt-en-fr", PretrainedTransformer(config, model, params, tokenizer))
    write_encoder(tmp_path / "bert-base-uncased", "masked_lm", pooler=False)
    names: dict = {}
    for block in BLOCKS:
        if "load_pretrained" in block:
            exec(block, names)
    assert names["states"].shape[::2] == (1, 16) and names["bert"].kind == "masked_lm"
    assert len(ast.literal_eval(capsys.readouterr().out)) == 2
    jax.tree.map(
        np.testing.assert_array_equal,
        load_pretrained("copy-for-transformers").params,
        load_pretrained("opus-mt-en-fr").params,
    )


def test_own_model_and_task_train_with_the_same_loop(tmp_path, capfd):
    config, workdir = tmp_path / "count_ones.py", tmp_path / "run"
    config.write_text(BLOCKS[-1])
    run = ["--config", str(config), "--workdir", str(workdir)]
    assert train_cli.main([*run, "--train.stop-at", "100"]) == 0, capfd.readouterr().err
    assert train_cli.main([*run, "--mesh.fsdp", "2"]) == 0, capfd.readouterr().err
    assert "restored step 100" in capfd.readouterr().out
    assert evaluate_cli.main(run) == 0, capfd.readouterr().err
    metrics = json.loads(capfd.readouterr().out.splitlines()[-1])
    assert metrics["step"] == 200
    assert metrics["accuracy"] > 0.5  # chance, at best, is 0.23
    assert evaluate_cli.main(["--workdir", str(workdir)]) == 1
    assert "no class 'CountOnes' is known here" in capfd.readouterr().err

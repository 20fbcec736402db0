"""What the README shows, runs."""

import json
import re
from pathlib import Path

from transformer_jax.cli import evaluate as evaluate_cli
from transformer_jax.cli import train as train_cli

ROOT = Path(__file__).parents[1]
BLOCKS = re.findall(r"^```python\n(.*?)^```", (ROOT / "README.md").read_text(), re.M | re.S)


def test_composing_as_the_readme_shows():
    names: dict = {}
    for block in BLOCKS[:-1]:
        exec(block, names)
    assert names["weights"].shape == (2, 4, 10, 10)
    assert names["logits"].shape == (2, 5, 100)


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

"""A run that has learned a tiny language a little, of a kind that Hugging Face folders hold."""

import pytest

from transformer_jax.cli import train as train_cli

CONFIG = """
from transformer_jax.models.transformer import TransformerConfig
from transformer_jax.tasks.translation import TranslationConfig
from transformer_jax.tasks.translation_data import TranslationData
from transformer_jax.training.config import ExperimentConfig, TrainConfig
from transformer_jax.training.optimizer import OptimizerConfig
from transformer_jax.training.schedules import WarmupLinear

def get_config():
    return ExperimentConfig(
        TranslationConfig(),
        TransformerConfig(
            32, 32, 2, 64, 1, 1, dropout_rate=0.0, sinusoids="halves", norm_epsilon=1e-5,
            attention_bias=True, logits_bias=True,
        ),
        TranslationData(FOLDER, row_length=48),
        OptimizerConfig(WarmupLinear(1e-2, 20), clip_norm=1.0),
        TrainConfig(steps=250, batch_size=16, log_every=50, checkpoint_every=250),
    )
"""


@pytest.fixture(scope="session")
def translation_config(tmp_path_factory, pairs_folder):
    """A config file."""
    path = tmp_path_factory.mktemp("config") / "config.py"
    path.write_text(CONFIG.replace("FOLDER", repr(str(pairs_folder))))
    return path


@pytest.fixture(scope="session")
def translation_run(tmp_path_factory, translation_config):
    """The folder of a run of it."""
    workdir = tmp_path_factory.mktemp("translation") / "run"
    options = ["--config", str(translation_config), "--workdir", str(workdir)]
    assert train_cli.main(options) == 0
    return workdir

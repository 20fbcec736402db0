"""A tiny BERT on the documentation of installed Python packages: the run of `make demo-bert`."""

from transformer_jax.models.bert import BertConfig
from transformer_jax.tasks.bert_data import BertData
from transformer_jax.tasks.masked_lm import MaskedLmConfig
from transformer_jax.training.config import ExperimentConfig, TrainConfig
from transformer_jax.training.optimizer import OptimizerConfig
from transformer_jax.training.schedules import WarmupLinear


def get_config() -> ExperimentConfig:
    """The run."""
    return ExperimentConfig(
        task=MaskedLmConfig(),
        model=BertConfig.tiny(
            vocab_size=8000,
            max_positions=128,
            dropout_rate=0.0,
            attention_dropout_rate=0.0,
            unroll=True,
        ),
        data=BertData(path="prose:installed", row_length=128),
        optimizer=OptimizerConfig(
            schedule=WarmupLinear(peak=2e-3, warmup=500),
            b2=0.999,
            epsilon=1e-6,
            weight_decay=0.01,
            clip_norm=1.0,
        ),
        train=TrainConfig(steps=3000, batch_size=32, log_every=100, checkpoint_every=1000),
    )

"""A tiny BERT on the documentation of the installed Python packages: the run of `make demo-bert`.

Model: arXiv:1908.08962's BERT-Tiny with 8,000 tokens. Objective: arXiv:1810.04805. Data: docstrings
and documentation pages on this machine, split by package. Command: `make demo-bert`. Time: at most
12 minutes of training on two CPU cores. The learning rate is ours: the smallest models bear a
larger one than the paper's.
"""

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
            dropout_rate=0.0,  # few passes over the text: nothing is learnt by heart
            attention_dropout_rate=0.0,
            unroll=True,
        ),
        data=BertData(path="prose:installed", row_length=128),
        optimizer=OptimizerConfig(
            schedule=WarmupLinear(peak=1e-3, warmup=500),
            epsilon=1e-6,
            weight_decay=0.01,
            clip_norm=1.0,
        ),
        train=TrainConfig(steps=3000, batch_size=16, log_every=100, checkpoint_every=1000),
    )

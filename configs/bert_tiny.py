"""A BERT that a laptop trains: the smallest of the published sizes.

Source: arXiv:1908.08962 (BERT-Tiny: 2 layers, D 128), with the objective of arXiv:1810.04805.
Recipe: examples of up to 128 tokens, 15 % masked 80/10/10, next-sentence prediction; batch 256;
AdamW. The learning rate is ours: the smallest models bear a larger one than the paper's 1e-4.
Published: GLUE 64.2 (google-research/bert, README), after pretraining on Wikipedia and BooksCorpus.
Command: `python train.py --config configs/bert_tiny.py --data.path FOLDER --workdir DIR`.
"""

from transformer_jax.models.bert import BertConfig
from transformer_jax.tasks.bert_data import BertData
from transformer_jax.tasks.masked_lm import MaskedLmConfig
from transformer_jax.training.config import ExperimentConfig, TrainConfig
from transformer_jax.training.optimizer import OptimizerConfig
from transformer_jax.training.schedules import WarmupLinear


def get_config() -> ExperimentConfig:
    """The run; name the text with --data.path."""
    return ExperimentConfig(
        task=MaskedLmConfig(),
        model=BertConfig.tiny(),
        data=BertData(row_length=128),
        optimizer=OptimizerConfig(
            schedule=WarmupLinear(peak=1e-3, warmup=10_000),
            b2=0.999,
            epsilon=1e-6,
            weight_decay=0.01,
            clip_norm=1.0,
        ),
        train=TrainConfig(steps=100_000, batch_size=256),
    )

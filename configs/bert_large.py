"""BERT-large by LAMB, first phase: length 128.

Source: arXiv:1810.04805 for the model (24 layers, D 1,024, 16 heads, 340 M parameters),
arXiv:1904.00962 for LAMB; the numbers are those of NVIDIA's DeepLearningExamples: batch 65,536,
learning rate 6e-3, 7,038 updates, 28.43 % of them warm-up, decay by a square root,
counted from the first update (its PolyWarmUpScheduler).
Published, after both phases: loss 1.2437, SQuAD 1.1 dev F1 90.96 (the same).
Command: `python train.py --config configs/bert_large.py --data.path FOLDER --workdir DIR`,
then bert_large_512.py.
"""

from transformer_jax.models.bert import BertConfig
from transformer_jax.tasks.bert_data import BertData
from transformer_jax.tasks.masked_lm import MaskedLmConfig
from transformer_jax.training.config import ExperimentConfig, TrainConfig
from transformer_jax.training.optimizer import OptimizerConfig
from transformer_jax.training.schedules import WarmupPolynomial


def get_config() -> ExperimentConfig:
    """The run; name the text with --data.path."""
    return ExperimentConfig(
        task=MaskedLmConfig(),
        model=BertConfig.large(dtype="bfloat16"),
        data=BertData(row_length=128),
        optimizer=OptimizerConfig(
            kind="lamb",
            schedule=WarmupPolynomial(peak=6e-3, warmup=2000, power=0.5, from_first=True),
            b2=0.999,
            epsilon=1e-6,
            weight_decay=0.01,
            clip_norm=1.0,
        ),
        train=TrainConfig(
            steps=7038,
            batch_size=65_536,
            microbatches=16,
            checkpoint_every=500,
            dropout_bits="rbg",
        ),
    )

"""BERT-large by LAMB, second phase: length 512, from the weights of the first.

Source: as bert_large.py (arXiv:1810.04805, arXiv:1904.00962). Batch 32,768, learning rate 4e-3,
1,563 updates, 12.8 % of them warm-up;
LAMB's moments begin anew, as there.
Published: loss 1.2437, SQuAD 1.1 dev F1 90.96.
Command: `python train.py --config configs/bert_large_512.py --data.path FOLDER --workdir DIR2
--train.init_from DIR --data.tokenizer DIR`, where DIR is the first phase's.
"""

from transformer_jax.models.bert import BertConfig
from transformer_jax.tasks.bert_data import BertData
from transformer_jax.tasks.masked_lm import MaskedLmConfig
from transformer_jax.training.config import ExperimentConfig, TrainConfig
from transformer_jax.training.optimizer import OptimizerConfig
from transformer_jax.training.schedules import WarmupPolynomial


def get_config() -> ExperimentConfig:
    """The run; name the text, the first run and its tokenizer."""
    return ExperimentConfig(
        task=MaskedLmConfig(),
        model=BertConfig.large(dtype="bfloat16"),
        data=BertData(row_length=512),
        optimizer=OptimizerConfig(
            kind="lamb",
            schedule=WarmupPolynomial(peak=4e-3, warmup=200, power=0.5, from_first=True),
            b2=0.999,
            epsilon=1e-6,
            weight_decay=0.01,
            clip_norm=1.0,
        ),
        train=TrainConfig(
            steps=1563,
            batch_size=32_768,
            microbatches=64,
            checkpoint_every=100,
            dropout_bits="rbg",
        ),
    )

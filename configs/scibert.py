"""SciBERT (arXiv:1903.10676): BERT-base on scientific papers, with a vocabulary of their own.

Recipe (section 3): BERT-base, uncased, 31,000 tokens of WordPiece; 3.1 G tokens of 1.14 M papers;
length 128 with batch 256 and learning rate 1e-4, then 512 with batch 64 and 1e-5: another --workdir
with `--train.init_from DIR --data.tokenizer DIR --data.row_length 512 --train.batch_size 64
--optimizer.schedule.peak 1e-5`.
Published: the state of the art of its time on several scientific tasks (its README).
Command: `python train.py --config configs/scibert.py --data.path FOLDER --workdir DIR`,
FOLDER with papers.
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
        model=BertConfig.base(vocab_size=31000, dtype="bfloat16"),
        data=BertData(row_length=128),
        optimizer=OptimizerConfig(
            schedule=WarmupLinear(peak=1e-4, warmup=10_000),
            b2=0.999,
            epsilon=1e-6,
            weight_decay=0.01,
            clip_norm=1.0,
        ),
        train=TrainConfig(
            steps=1_000_000,
            batch_size=256,
            checkpoint_every=10_000,
            dropout_bits="rbg",
        ),
    )

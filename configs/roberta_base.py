"""RoBERTa-base (arXiv:1907.11692): full sentences, no pairs, new masks each epoch, byte-level BPE.

Recipe (fairseq's example of pretraining, for the base model): 12 layers, D 768; full sentences of
up to 512 tokens; 15 % masked 80/10/10; batch 2,048; Adam 5e-4 with b2 .98 and decay .01; 10,000
updates of warm-up, linear decay over 125,000. The positions begin at 2, as in published weights.
Published: for the large model, batch 8,192 and 500,000 updates, MNLI 90.2 and SQuAD 1.1 F1 94.6.
Command: `python train.py --config configs/roberta_base.py --data.path FOLDER --workdir DIR`.
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
        model=BertConfig.base(
            vocab_size=50265,
            type_vocab_size=1,
            first_position=2,
            pooler=False,
            norm_epsilon=1e-5,
            dtype="bfloat16",
        ),
        data=BertData(tokenizer="byte_bpe", examples="full_sentences", row_length=512),
        optimizer=OptimizerConfig(
            schedule=WarmupLinear(peak=5e-4, warmup=10_000),
            b2=0.98,
            epsilon=1e-6,
            weight_decay=0.01,
        ),
        train=TrainConfig(
            steps=125_000,
            batch_size=2048,
            microbatches=8,
            checkpoint_every=2500,
            dropout_bits="rbg",
        ),
    )

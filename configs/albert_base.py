"""ALBERT-base (arXiv:1909.11942): shared layers, factorised embeddings, sentence order, n-grams.

Recipe (section 4.1): 12 layers with one layer's parameters, D 768, embeddings of width 128
(12 M parameters); SentencePiece with 30,000 tokens; pairs of up to 512 tokens in or out of order;
n-grams of up to 3 words masked; batch 4,096; LAMB with learning rate .00176, 125,000 updates, 3,125
of them warm-up, linear decay counted from the first (google-research/albert, optimization.py).
Published: average 80.1, SQuAD 1.1 F1 89.3 (google-research/albert, README, version 1).
Command: `python train.py --config configs/albert_base.py --data.path FOLDER --workdir DIR`.
"""

from transformer_jax.models.bert import BertConfig
from transformer_jax.objectives.corruption import MaskingConfig
from transformer_jax.tasks.bert_data import BertData
from transformer_jax.tasks.masked_lm import MaskedLmConfig
from transformer_jax.training.config import ExperimentConfig, TrainConfig
from transformer_jax.training.optimizer import OptimizerConfig
from transformer_jax.training.schedules import WarmupPolynomial


def get_config() -> ExperimentConfig:
    """The run; name the text with --data.path."""
    return ExperimentConfig(
        task=MaskedLmConfig(masking=MaskingConfig("ngram")),
        model=BertConfig.base(
            vocab_size=30000,
            embedding_width=128,
            shared_layers=True,
            activation="gelu_tanh",
            dtype="bfloat16",
        ),
        data=BertData(tokenizer="sentencepiece", examples="sentence_order", row_length=512),
        optimizer=OptimizerConfig(
            kind="lamb",
            schedule=WarmupPolynomial(peak=0.00176, warmup=3125, from_first=True),
            b2=0.999,
            epsilon=1e-6,
            weight_decay=0.01,
            clip_norm=1.0,
        ),
        train=TrainConfig(
            steps=125_000,
            batch_size=4096,
            microbatches=16,
            checkpoint_every=2500,
            dropout_bits="rbg",
        ),
    )

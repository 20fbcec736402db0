"""SpanBERT-base (arXiv:1907.10529): spans are masked, and predicted from their ends too.

Recipe (sections 3 and 4.2): BERT-base, cased; geometric spans of words, p .2, at most 10, 15 % of
the tokens; the span-boundary objective with the weight 1 and positions of width 200; no pairs;
256 x 512 tokens; AdamW 1e-4 with epsilon 1e-8 and decay .1; 2.4 M updates, 10,000 of warm-up. The
paper's texts end with their document, where full sentences go on with the next one after a [SEP].
Published: SQuAD 1.1 dev F1 92.4, SQuAD 2.0 dev F1 83.6 (facebookresearch/SpanBERT, README).
Command: `python train.py --config configs/spanbert_base.py --data.path FOLDER --workdir DIR`.
"""

from transformer_jax.models.bert import BertConfig
from transformer_jax.objectives.corruption import MaskingConfig
from transformer_jax.tasks.bert_data import BertData
from transformer_jax.tasks.masked_lm import MaskedLmConfig
from transformer_jax.training.config import ExperimentConfig, TrainConfig
from transformer_jax.training.optimizer import OptimizerConfig
from transformer_jax.training.schedules import WarmupLinear


def get_config() -> ExperimentConfig:
    """The run; name the text with --data.path."""
    return ExperimentConfig(
        task=MaskedLmConfig(masking=MaskingConfig("span"), span_boundary=True),
        model=BertConfig.base(vocab_size=28996, pooler=False, dtype="bfloat16"),
        data=BertData(lowercase=False, examples="full_sentences", row_length=512),
        optimizer=OptimizerConfig(
            schedule=WarmupLinear(peak=1e-4, warmup=10_000),
            b2=0.999,
            epsilon=1e-8,
            weight_decay=0.1,
            clip_norm=1.0,
        ),
        train=TrainConfig(
            steps=2_400_000,
            batch_size=256,
            checkpoint_every=10_000,
            dropout_bits="rbg",
        ),
    )

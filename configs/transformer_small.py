"""A small Transformer for some ten thousand sentence pairs on a CPU.

Model: arXiv:1706.03762 with 3+3 pre-norm layers of width 256.
Command: `python train.py --config configs/transformer_small.py --workdir DIR --data.path FOLDER`,
FOLDER with train.tsv, valid.tsv and test.tsv of `source<TAB>target`. The README has its time and
its BLEU on 25 thousand pairs of English and German, beside a peer's.
"""

from transformer_jax.models.transformer import TransformerConfig
from transformer_jax.tasks.translation import TranslationConfig, TranslationData
from transformer_jax.training.config import ExperimentConfig, TrainConfig
from transformer_jax.training.optimizer import OptimizerConfig
from transformer_jax.training.schedules import WarmupLinear


def get_config() -> ExperimentConfig:
    """The run; name the data with --data.path."""
    return ExperimentConfig(
        task=TranslationConfig(label_smoothing=0.1, beam_size=4, length_penalty=0.6),
        model=TransformerConfig.small(norm_first=True, unroll=True),
        data=TranslationData(source_language="en", target_language="de", row_length=144),
        optimizer=OptimizerConfig(
            schedule=WarmupLinear(peak=1.5e-3, warmup=300), weight_decay=0.01, clip_norm=1.0
        ),
        train=TrainConfig(
            steps=4400,
            batch_size=8,  # rows: about 2,200 tokens, both sides together
            log_every=50,
            checkpoint_every=1100,
        ),
    )

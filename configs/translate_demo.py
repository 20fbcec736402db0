"""English to French from the catalogs of installed packages: the run of `make demo`.

Model: arXiv:1706.03762 with 3+3 pre-norm layers of width 256. Data: gettext catalogs of the
packages that the extra `demo` installs. Command: `make demo`. Time: at most 15 minutes on two CPU
cores. Aim: 30 BLEU, what a Marian model of 7 M parameters reaches on such pairs in 7 minutes.
"""

from transformer_jax.models.transformer import TransformerConfig
from transformer_jax.tasks.translation import TranslationConfig, TranslationData
from transformer_jax.training.config import ExperimentConfig, TrainConfig
from transformer_jax.training.optimizer import OptimizerConfig
from transformer_jax.training.schedules import WarmupLinear


def get_config() -> ExperimentConfig:
    """The run."""
    return ExperimentConfig(
        task=TranslationConfig(label_smoothing=0.1, beam_size=4, length_penalty=0.6),
        model=TransformerConfig.small(
            vocab_size=4000, norm_first=True, dropout_rate=0.2, unroll=True
        ),
        data=TranslationData(path="catalogs:installed", target_language="fr", row_length=96),
        optimizer=OptimizerConfig(
            schedule=WarmupLinear(peak=1.5e-3, warmup=200), weight_decay=0.01, clip_norm=1.0
        ),
        train=TrainConfig(
            steps=2200,
            batch_size=8,  # rows: about 1,500 tokens, both sides together
            log_every=50,
            checkpoint_every=550,
        ),
    )

"""Fine-tuning for classes or scores of texts, or of pairs (arXiv:1810.04805, section 4.1, A.3).

Recipe: batch 16 or 32, rate 5e-5, 3e-5 or 2e-5 with warm-up and linear decay, 2 to 4 epochs,
dropout .1. Here a batch is 8 packed rows of 128 tokens, some 32 sentences; the log says how many
rows an epoch has, and --train.steps is to be the epochs times these / 8.
Published (BERT-base, GLUE test): SST-2 93.5, MRPC 88.9 F1, CoLA 52.1, MNLI 84.6/83.4, in the mean
79.6.
Command: `python train.py --config configs/classify.py --train.init_from DIR --data.path FOLDER
--workdir runs/mine`, DIR a run or a Hugging Face folder, FOLDER with train.tsv, valid.tsv and
test.tsv; or `--data.path glue:sst2:FOLDER`.
"""

from transformer_jax.tasks.classification import ClassificationConfig
from transformer_jax.tasks.classification_data import ClassificationData
from transformer_jax.tasks.encoder_start import PretrainedSizes
from transformer_jax.training.config import ExperimentConfig, TrainConfig
from transformer_jax.training.optimizer import OptimizerConfig
from transformer_jax.training.schedules import WarmupLinear


def get_config() -> ExperimentConfig:
    """The run; name what it starts from, and the examples."""
    return ExperimentConfig(
        task=ClassificationConfig(),
        model=PretrainedSizes(unroll=True),
        data=ClassificationData(),
        optimizer=OptimizerConfig(
            schedule=WarmupLinear(peak=5e-5, warmup=60),
            b2=0.999,
            epsilon=1e-6,
            weight_decay=0.01,
            clip_norm=1.0,
        ),
        train=TrainConfig(
            steps=600, batch_size=8, log_every=20, checkpoint_every=200, dropout_bits="rbg"
        ),
    )

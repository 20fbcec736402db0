"""Fine-tuning for the choice of an ending, as SWAG's (arXiv:1810.04805, section 4.4).

Recipe: 3 epochs, batch 16, rate 2e-5 with warm-up and linear decay, dropout .1. Here a batch is 8
packed rows of 320 tokens, some 2 questions each; the log says how many rows an epoch has, and
--train.steps is to be the epochs times these / 8.
Published (BERT-base, SWAG, table 4): accuracy 81.6 dev.
Command: `python train.py --config configs/choose.py --train.init_from DIR --data.path FOLDER
--workdir runs/mine`, DIR a run or a Hugging Face folder, FOLDER with train.csv, val.csv and
test.csv.
"""

from transformer_jax.tasks.choosing import ChoosingConfig
from transformer_jax.tasks.choosing_data import ChoosingData
from transformer_jax.tasks.encoder_start import PretrainedSizes
from transformer_jax.training.config import ExperimentConfig, TrainConfig
from transformer_jax.training.optimizer import OptimizerConfig
from transformer_jax.training.schedules import WarmupLinear


def get_config() -> ExperimentConfig:
    """The run; name what it starts from, and the questions."""
    return ExperimentConfig(
        task=ChoosingConfig(),
        model=PretrainedSizes(unroll=True),
        data=ChoosingData(),
        optimizer=OptimizerConfig(
            schedule=WarmupLinear(peak=2e-5, warmup=1000),
            b2=0.999,
            epsilon=1e-6,
            weight_decay=0.01,
            clip_norm=1.0,
        ),
        train=TrainConfig(
            steps=13_800, batch_size=8, log_every=50, checkpoint_every=1000, dropout_bits="rbg"
        ),
    )

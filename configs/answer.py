"""Fine-tuning for answers that stand in a text, as SQuAD's (arXiv:1810.04805, section 4.2, 4.3).

Recipe: SQuAD 1.1: batch 32, rate 5e-5, 3 epochs, which is 8,212 updates for its 87,599 questions;
SQuAD 2.0: batch 48, rate 5e-5, 2 epochs; windows of 384 tokens, 128 apart, warm-up over a tenth
(run_squad.py of google-research/bert). Here a batch is 16 packed rows, of one window or several
each; the log says how many rows an epoch has, and --train.steps is to be the epochs times these
/ 16.
Published: BERT-base, SQuAD 1.1 dev: EM 80.8, F1 88.5; BERT-large, SQuAD 2.0 dev: F1 81.9.
Command: `python train.py --config configs/answer.py --train.init_from DIR --data.path FOLDER
--workdir runs/mine`, DIR a run or a Hugging Face folder, FOLDER with train-v1.1.json and
dev-v1.1.json, or with train.json, valid.json and test.json of the same format.
"""

from transformer_jax.tasks.encoder_start import PretrainedSizes
from transformer_jax.tasks.reading import ReadingConfig
from transformer_jax.tasks.reading_data import ReadingData
from transformer_jax.training.config import ExperimentConfig, TrainConfig
from transformer_jax.training.optimizer import OptimizerConfig
from transformer_jax.training.schedules import WarmupLinear


def get_config() -> ExperimentConfig:
    """The run; name what it starts from, and the questions."""
    return ExperimentConfig(
        task=ReadingConfig(),
        model=PretrainedSizes(unroll=True),
        data=ReadingData(),
        optimizer=OptimizerConfig(
            schedule=WarmupLinear(peak=5e-5, warmup=820),
            b2=0.999,
            epsilon=1e-6,
            weight_decay=0.01,
            clip_norm=1.0,
        ),
        train=TrainConfig(
            steps=8200, batch_size=16, log_every=50, checkpoint_every=1000, dropout_bits="rbg"
        ),
    )

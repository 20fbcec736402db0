"""Fine-tuning for tags of words, as of names in CoNLL-2003 (arXiv:1810.04805, section 5.3, A.3).

Recipe: a cased model; batch 16 or 32, rate 5e-5, 3e-5 or 2e-5 with warm-up and linear decay, 2 to
4 epochs, dropout .1; the first piece of a word decides. Here a batch is 8 packed rows of 128
tokens; the log says how many rows an epoch has, and --train.steps is to be the epochs times these
/ 8. A sentence stands alone; the paper gives it as much of its document as there is room for.
Published (BERT-base, CoNLL-2003, table 7): F1 96.4 dev, 92.4 test.
Command: `python train.py --config configs/tag.py --train.init_from DIR --data.path FOLDER
--workdir runs/mine`, DIR a run or a Hugging Face folder, FOLDER with train.txt, valid.txt and
test.txt: a word and its tag a line, a blank line between sentences.
"""

from transformer_jax.tasks.encoder_start import PretrainedSizes
from transformer_jax.tasks.tagging import TaggingConfig
from transformer_jax.tasks.tagging_data import TaggingData
from transformer_jax.training.config import ExperimentConfig, TrainConfig
from transformer_jax.training.optimizer import OptimizerConfig
from transformer_jax.training.schedules import WarmupLinear


def get_config() -> ExperimentConfig:
    """The run; name what it starts from, and the sentences."""
    return ExperimentConfig(
        task=TaggingConfig(),
        model=PretrainedSizes(unroll=True),
        data=TaggingData(),
        optimizer=OptimizerConfig(
            schedule=WarmupLinear(peak=5e-5, warmup=100),
            b2=0.999,
            epsilon=1e-6,
            weight_decay=0.01,
            clip_norm=1.0,
        ),
        train=TrainConfig(
            steps=1000, batch_size=8, log_every=20, checkpoint_every=200, dropout_bits="rbg"
        ),
    )

"""The base Transformer of "Attention Is All You Need" on WMT 2014 English to German.

Source: arXiv:1706.03762, table 3 and section 5.
6+6 layers, D 512, F 2048, 8 heads, post-norm, dropout .1;
shared vocabulary of 37,000; batches of about 25,000 source and 25,000 target tokens; Adam with
b2 .98, 4,000 updates of warm-up; label smoothing .1; the mean of the last 5 checkpoints, beam 4,
length penalty .6.
Published: 27.3 BLEU (tokenised, compound split) on newstest2014;
sacreBLEU's score of detokenised text is another.
Expected time: the paper's, 12 hours on 8 P100 GPUs (section 5.2).
Command: `python train.py --config configs/transformer_base_wmt.py --workdir DIR`, once TFDS has
prepared wmt14_translate/de-en.
"""

from transformer_jax.models.transformer import TransformerConfig
from transformer_jax.tasks.translation import TranslationConfig, TranslationData
from transformer_jax.training.config import ExperimentConfig, TrainConfig
from transformer_jax.training.optimizer import OptimizerConfig
from transformer_jax.training.schedules import Noam


def get_config() -> ExperimentConfig:
    """The run."""
    return ExperimentConfig(
        task=TranslationConfig(label_smoothing=0.1, beam_size=4, length_penalty=0.6),
        model=TransformerConfig(vocab_size=37000, dtype="bfloat16"),
        data=TranslationData(
            path="tfds:wmt14_translate/de-en",
            source_language="en",
            target_language="de",
            row_length=256,
        ),
        optimizer=OptimizerConfig(schedule=Noam(width=512, warmup=4000)),
        train=TrainConfig(
            steps=100_000,
            batch_size=104,  # rows of 256: about 25,000 tokens a side
            checkpoint_every=1500,
            keep=5,
            average_last=5,
        ),
    )

"""BERT-base, uncased (arXiv:1810.04805): the first nine tenths of its training, at length 128.

Recipe (section 3.1 and appendix A.2): 12 layers, D 768, 12 heads (110 M parameters); pairs of up to
128 tokens, a tenth of them shorter; 15 % masked 80/10/10; batch 256; Adam 1e-4 with b2 .999 and
decay .01, not on biases and norms; 10,000 updates of warm-up, linear decay over 1 M. The paper's
last tenth has pairs of 512 tokens, by the second command: the learning rate goes on where the first
one left it, at 1.0101e-5, and falls to zero; Adam's moments begin anew.
Published, after both phases: SQuAD 1.1 dev F1 88.4 (google-research/bert: 88.5 in the paper).
Command: `python train.py --config configs/bert_base.py --data.path FOLDER --workdir DIR`, then
`python train.py --config configs/bert_base.py --data.path FOLDER --workdir DIR2
--train.init_from DIR --data.tokenizer DIR --data.row_length 512 --train.steps 100000
--optimizer.schedule.peak 1.0101e-5 --optimizer.schedule.warmup 1`.
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
        model=BertConfig.base(dtype="bfloat16"),
        data=BertData(row_length=128),
        optimizer=OptimizerConfig(
            schedule=WarmupLinear(peak=1e-4, warmup=10_000),
            b2=0.999,
            epsilon=1e-6,
            weight_decay=0.01,
            clip_norm=1.0,
        ),
        train=TrainConfig(
            steps=1_000_000,
            stop_at=900_000,
            batch_size=256,
            checkpoint_every=10_000,
            dropout_bits="rbg",
        ),
    )

"""DistilBERT (arXiv:1910.01108): 6 layers that learn from BERT-base.

Recipe: 6 layers, D 768 (66 M parameters), no token types, no pooler, starting with every second
layer of the teacher; soft cross-entropy at temperature 2, masked tokens and the cosine of the last
states, weighted 5, 2 and 1 (its README; .33 each in another example there); batches of up to 4,096
examples of 512 tokens; AdamW 5e-4, 5 % of the updates warm-up. Three epochs are some 60,000 updates
of 500,000 tokens of the paper's corpus.
Published: GLUE dev 77.0, where the teacher has 79.5.
Command: `python train.py --config configs/distilbert.py --data.path FOLDER --workdir DIR2
--train.init_from DIR --data.tokenizer DIR`, where DIR is a run of bert_base.py. For a teacher of
other sizes, set --task.teacher.* and --model.* accordingly.
"""

from transformer_jax.models.bert import BertConfig
from transformer_jax.tasks.bert_data import BertData
from transformer_jax.tasks.distillation import TEACHER, DistillationConfig
from transformer_jax.training.config import ExperimentConfig, TrainConfig
from transformer_jax.training.optimizer import OptimizerConfig
from transformer_jax.training.schedules import WarmupLinear


def get_config() -> ExperimentConfig:
    """The run; name the text, the teacher's run and its tokenizer."""
    return ExperimentConfig(
        task=DistillationConfig(teacher=BertConfig.base(dtype="bfloat16")),
        model=BertConfig.base(num_layers=6, type_vocab_size=0, pooler=False, dtype="bfloat16"),
        data=BertData(examples="full_sentences", row_length=512),
        optimizer=OptimizerConfig(
            schedule=WarmupLinear(peak=5e-4, warmup=3000),
            b2=0.98,
            epsilon=1e-6,
            clip_norm=5.0,
            frozen=(TEACHER,),
        ),
        train=TrainConfig(
            steps=60_000,
            batch_size=1024,
            microbatches=4,
            checkpoint_every=2500,
            dropout_bits="rbg",
        ),
    )

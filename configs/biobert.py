"""BioBERT (arXiv:1901.08746): BERT-base, cased, goes on with biomedical abstracts.

Recipe (sections 2.2 and 3): from the weights and with the vocabulary of BERT-base, cased; PubMed,
1 M updates (version 1.1); batch 192 of 512 tokens; what is not named there is as in BERT.
Published: over BERT, +.62 F1 on entities, +2.80 F1 on relations, +12.24 MRR on questions.
Command: `python train.py --config configs/biobert.py --data.path FOLDER --workdir DIR2
--train.init_from DIR --data.tokenizer DIR`, FOLDER with abstracts, and DIR a Hugging Face folder
of BERT-base, cased, with its pretraining heads (or its name, hf:google-bert/bert-base-cased, with
the extra `hub`), or a run of bert_base.py with `--model.vocab_size 28996 --data.no-lowercase`.
"""

from transformer_jax.models.bert import BertConfig
from transformer_jax.tasks.bert_data import BertData
from transformer_jax.tasks.masked_lm import MaskedLmConfig
from transformer_jax.training.config import ExperimentConfig, TrainConfig
from transformer_jax.training.optimizer import OptimizerConfig
from transformer_jax.training.schedules import WarmupLinear


def get_config() -> ExperimentConfig:
    """The run; name the text, BERT's run and its tokenizer."""
    return ExperimentConfig(
        task=MaskedLmConfig(),
        model=BertConfig.base(vocab_size=28996, dtype="bfloat16"),
        data=BertData(lowercase=False, row_length=512),
        optimizer=OptimizerConfig(
            schedule=WarmupLinear(peak=1e-4, warmup=10_000),
            b2=0.999,
            epsilon=1e-6,
            weight_decay=0.01,
            clip_norm=1.0,
        ),
        train=TrainConfig(
            steps=1_000_000,
            batch_size=192,
            checkpoint_every=10_000,
            dropout_bits="rbg",
        ),
    )

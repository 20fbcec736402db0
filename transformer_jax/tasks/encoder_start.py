"""What fine-tuning starts from: a pretrained encoder, its sizes and its tokenizer."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Literal

from transformer_jax.data.encoder_tokenizer import EncoderTokenizer
from transformer_jax.errors import UserError
from transformer_jax.interop.bert_config import family_of
from transformer_jax.layers.kernels import Kernel
from transformer_jax.layers.stacks import Remat
from transformer_jax.models.bert import BertConfig
from transformer_jax.tasks.run_tokenizer import open_tokenizer, store_tokenizer, tokenizer_of_run
from transformer_jax.typing import Params


@dataclasses.dataclass(frozen=True)
class PretrainedSizes:
    """In place of a BertConfig: that of train.init_from, a run or a Hugging Face folder.

    Attributes: as of `BertConfig`; None leaves what it is there.
    """

    dropout_rate: float | None = None
    attention_dropout_rate: float | None = None
    attention: Kernel | None = None
    attention_block: int | None = None
    dtype: Literal["float32", "bfloat16"] | None = None
    remat: Remat | None = None
    unroll: bool | None = None

    def applied_to(self, config: BertConfig) -> BertConfig:
        """The config with these changes."""
        changes = {name: x for name, x in dataclasses.asdict(self).items() if x is not None}
        return dataclasses.replace(config, **changes)


def encoder_tokenizer(
    path: str, lowercase: bool, model: BertConfig, workdir: Path
) -> EncoderTokenizer:
    """The tokenizer of the run in `workdir`, which is copied there from `path` at its start.

    Raises:
      UserError: it is missing or damaged, or has more tokens than the model.
    """

    def copy(folder: Path) -> Path:
        if not path:
            raise UserError(
                "There is no tokenizer. Name what training starts from, --train.init_from DIR, or "
                "a tokenizer, --data.tokenizer FILE."
            )
        return store_tokenizer(open_tokenizer(Path(path), lowercase), folder)

    return tokenizer_of_run(workdir, model.vocab_size, path or None, copy)


def with_pooler(config: BertConfig) -> BertConfig:
    """The sizes with the pooler that a classifier of this family has in `transformers`."""
    relu = family_of(config) == "distilbert"
    return dataclasses.replace(config, pooler=True, pooler_activation="relu" if relu else "tanh")


def adopt_encoder(params: Params, fresh: Params) -> Params:
    """Fresh parameters with a pretrained encoder in the place of theirs.

    A pooler that the pretrained encoder does not have stays fresh, as RoBERTa's is.

    Args:
      params: with the encoder under "bert"; what else is there is left behind.
      fresh: {"bert": ..., "head": ...}.

    Raises:
      UserError: there is no encoder in it.
    """
    if "bert" not in params:
        raise UserError(f"There is no encoder among {', '.join(sorted(params))}.")
    bert: Mapping = params["bert"]
    spare = {name for name in ("pooler",) if name in bert and name not in fresh["bert"]}
    kept = {name: x for name, x in bert.items() if name not in spare}
    if "pooler" in fresh["bert"] and "pooler" not in bert:
        kept["pooler"] = fresh["bert"]["pooler"]
    return {"bert": kept, "head": fresh["head"]}

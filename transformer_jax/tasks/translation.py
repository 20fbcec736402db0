"""Translation: packed sentence pairs in, label-smoothed cross-entropy and BLEU out."""

from __future__ import annotations

import dataclasses
import functools
import hashlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from transformer_jax.data.packing import filled, pack
from transformer_jax.data.pipeline import DataState, batches, pack_pairs
from transformer_jax.data.tokenizers import SentencePieceTokenizer
from transformer_jax.decoding.search_config import SearchConfig
from transformer_jax.errors import UserError
from transformer_jax.models.transformer import Transformer, TransformerConfig
from transformer_jax.objectives.losses import label_smoothed_cross_entropy, token_accuracy
from transformer_jax.parallel.attention import attention_on, without_mesh
from transformer_jax.parallel.sharding import TRANSFORMER_RULES, Rules, constrain_activations
from transformer_jax.tasks.task import Evaluation
from transformer_jax.tasks.translation_data import (
    Corpus,
    TranslationData,
    read_corpus,
    read_split,
)
from transformer_jax.tasks.translation_eval import score_translations
from transformer_jax.tasks.translation_search import Translator
from transformer_jax.typing import Array, Batch, Params, Terms


@dataclasses.dataclass(frozen=True)
class TranslationConfig:
    """The objective and the search.

    Attributes:
      label_smoothing: e of section 5.4.
      beam_size: hypotheses of the beam search that `evaluate` translates with.
      length_penalty: alpha of its length penalty ((5 + length) / 6)^alpha.
    """

    label_smoothing: float = 0.1
    beam_size: int = 4
    length_penalty: float = 0.6

    def __post_init__(self) -> None:
        if not 0.0 <= self.label_smoothing < 1.0:
            raise ValueError(f"task.label_smoothing={self.label_smoothing} must be in [0, 1).")
        if self.beam_size < 1:
            raise ValueError(f"task.beam_size={self.beam_size} must be at least 1.")

    def build(
        self,
        *,
        model: TransformerConfig,
        data: TranslationData,
        batch_size: int,
        seed: int,
        workdir: Path,
        mesh: Mesh,
    ) -> Translation:
        """Reads the pairs; trains the tokenizer on them, or loads the run's own.

        Raises:
          UserError: the data is missing, malformed or empty, or does not fit the model.
        """
        return Translation(self, model, data, batch_size, seed, workdir, mesh)


class Translation:
    """The task; see `Task` for its members."""

    coefficients: Mapping[str, float] = {"cross_entropy": 1.0}
    sharding_rules: Rules = TRANSFORMER_RULES

    def __init__(
        self,
        config: TranslationConfig,
        model: TransformerConfig,
        data: TranslationData,
        batch_size: int,
        seed: int,
        workdir: Path,
        mesh: Mesh,
    ) -> None:
        self.config, self.data, self.workdir = config, data, workdir
        self.batch_size, self.seed, self.mesh = batch_size, seed, mesh
        self.model = Transformer(
            model,
            attention_fn=attention_on(mesh, model.attention, model.attention_block),
            constrain=constrain_activations(mesh),
        )
        self.tokenizer = self._load_tokenizer(model.vocab_size)
        self._corpora: dict[str, Corpus] = {}

    def init_params(self, key: Array) -> Params:
        """Fresh parameters of the model."""
        tokens = jnp.zeros((1, 2), jnp.int32)
        return without_mesh(self.model).init(key, tokens, tokens)["params"]

    def loss_terms(self, params: Params, batch: Batch, key: Array | None) -> Terms:
        """Label-smoothed cross-entropy; and for information the plain one, and the accuracy."""
        logits: Any = self.model.apply(
            {"params": params},
            batch["source"],
            batch["target_inputs"],
            source_segments=batch["source_segments"],
            target_segments=batch["target_segments"],
            source_positions=batch["source_positions"],
            target_positions=batch["target_positions"],
            deterministic=key is None,
            rngs=None if key is None else {"dropout": key},
        )
        targets, weights = batch["targets"], batch["target_segments"] != 0
        smoothing = self.config.label_smoothing
        loss = label_smoothed_cross_entropy(logits, targets, weights, smoothing=smoothing)
        if key is not None:
            return {"cross_entropy": loss}
        return {
            "cross_entropy": loss,
            "nll": label_smoothed_cross_entropy(logits, targets, weights),
            "accuracy": token_accuracy(logits, targets, weights),
        }

    def train_batches(
        self, start: DataState, process_index: int, process_count: int
    ) -> Iterator[tuple[Batch, DataState]]:
        """Packed rows; each epoch packs anew, as a pure function of seed and epoch."""
        return batches(
            self._plan,
            functools.partial(self._build, self._train),
            batch_size=self.batch_size,
            start=start,
            process_index=process_index,
            process_count=process_count,
        )

    def eval_batches(self, split: str, process_index: int, process_count: int) -> Iterable[Batch]:
        """Packed rows of one pass; pairs longer than a row are left out."""
        corpus = self._corpus(split)
        rows = pack(corpus.lengths, corpus.capacity, seed=0, epoch=0)
        endless = batches(
            lambda epoch: rows,
            functools.partial(self._build, corpus),
            batch_size=self.batch_size,
            process_index=process_index,
            process_count=process_count,
            prefetch=0,
        )
        for _ in range(-(-len(rows) // self.batch_size)):
            yield next(endless)[0]

    def count_tokens(self, batch: Batch) -> int:
        """Tokens of both sides that are not padding."""
        sides = (batch["source_segments"], batch["target_segments"])
        return sum(int(np.count_nonzero(side)) for side in sides)

    def evaluate(self, params: Params, split: str) -> Evaluation:
        """Translates a split with beam search and scores it with sacreBLEU."""
        pairs = read_split(self.data, split)
        translate = self.translator(params, self.search)
        found = translate(translate.encode([source for source, _ in pairs]))
        return score_translations(pairs, [best.text for best, *_ in found])

    @property
    def search(self) -> SearchConfig:
        """The search that `evaluate` translates with."""
        return SearchConfig(
            beam_size=self.config.beam_size, length_penalty=self.config.length_penalty
        )

    def translator(self, params: Params, search: SearchConfig, seed: int = 0) -> Translator:
        """A function that translates with these parameters."""
        return Translator(
            self.model, params, self.tokenizer, mesh=self.mesh, search=search, seed=seed
        )

    @functools.cached_property
    def fingerprint(self) -> Mapping[str, Any]:
        """What the batches depend on: the pairs as tokens, the tokenizer, the rows."""
        digest = hashlib.sha256()
        for side in (self._train.source, self._train.target):
            digest.update(side.tokens.tobytes() + side.offsets.tobytes())
        return {
            "pairs": digest.hexdigest()[:16],
            "tokenizer": self.tokenizer.fingerprint,
            "row": list(self._train.capacity),
            "batch_size": self.batch_size,
            "seed": self.seed,
        }

    @functools.cached_property
    def summary(self) -> str:
        """Sizes of the data, and how well rows are filled (mean of both sides)."""
        train = self._train
        rows = self._plan(0)
        share = filled(rows, train.lengths, train.capacity)
        source_row, target_row = train.capacity
        valid = self._corpus("valid")  # read now, so that a bad file is found before training
        return (
            f"{self.data.path}: {len(train.lengths):,} training pairs, {len(valid.lengths):,} to "
            f"validate ({train.dropped:,} + {valid.dropped:,} longer than a row dropped), "
            f"vocabulary {self.tokenizer.vocab_size:,}\n"
            f"{len(rows):,} rows of {source_row} + {target_row} tokens an epoch, filled "
            f"{share[0]:.1%} + {share[1]:.1%}, mean {np.mean(share):.1%}"
        )

    @property
    def _train(self) -> Corpus:
        return self._corpus("train")

    def _corpus(self, split: str) -> Corpus:
        if split not in self._corpora:
            self._corpora[split] = read_corpus(self.data, split, self.tokenizer)
        return self._corpora[split]

    def _plan(self, epoch: int) -> list[np.ndarray]:
        return pack(self._train.lengths, self._train.capacity, seed=self.seed, epoch=epoch)

    def _build(self, corpus: Corpus, rows: Sequence[np.ndarray]) -> dict[str, np.ndarray]:
        tokenizer = self.tokenizer
        return pack_pairs(
            corpus.source,
            corpus.target,
            rows,
            capacity=corpus.capacity,
            bos_id=tokenizer.bos_id,
            eos_id=tokenizer.eos_id,
        )

    def _load_tokenizer(self, vocab_size: int) -> SentencePieceTokenizer:
        path = self.workdir / "tokenizer.model"
        # Before config.json is there, the folder is no run yet: a tokenizer that is left in it is
        # of a start that failed, maybe on other data.
        is_run = (self.workdir / "config.json").exists()
        if not is_run and jax.process_index() == 0:
            texts = (text for pair in read_split(self.data, "train") for text in pair)
            SentencePieceTokenizer.train(texts, path, vocab_size=vocab_size)
        tokenizer = SentencePieceTokenizer(path)
        if tokenizer.vocab_size != vocab_size:
            raise UserError(
                f"{path} has {tokenizer.vocab_size} tokens, the model {vocab_size}. Set "
                f"--model.vocab_size {tokenizer.vocab_size}."
            )
        return tokenizer

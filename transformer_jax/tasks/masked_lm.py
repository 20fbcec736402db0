"""Pretraining of encoders: masked tokens, pairs and span boundaries of packed text."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from transformer_jax.data.corpus_rows import PretrainingRows
from transformer_jax.data.pipeline import DataState, batches
from transformer_jax.errors import UserError
from transformer_jax.models.bert import BertConfig
from transformer_jax.models.bert_pretraining import BertPretraining, Boundaries
from transformer_jax.models.heads import SpanBoundaryHead, tied_logits
from transformer_jax.objectives.chunked_cross_entropy import (
    chunked_cross_entropy,
    chunked_token_accuracy,
)
from transformer_jax.objectives.corruption import (
    Corrupted,
    MaskingConfig,
    corrupt,
    predictions_for,
)
from transformer_jax.objectives.losses import label_smoothed_cross_entropy, token_accuracy
from transformer_jax.parallel.attention import attention_on, without_mesh
from transformer_jax.parallel.sharding import (
    TRANSFORMER_RULES,
    Rules,
    constrain_activations,
    constrain_rows,
    put_batch,
)
from transformer_jax.tasks.bert_data import BertData, read_rows, run_tokenizer
from transformer_jax.tasks.fill_mask import Guess, MaskFiller
from transformer_jax.tasks.masked_lm_eval import report_pretraining
from transformer_jax.tasks.task import Evaluation
from transformer_jax.typing import Array, Batch, Params, Terms

_EVAL_SEED = 0  # of the examples and masks that all runs are evaluated on
_SHOWN = 5  # sentences with a mask that an evaluation fills, to read


@dataclasses.dataclass(frozen=True)
class MaskedLmConfig:
    """The objective. Whether there is a loss of pairs, data.examples says.

    Attributes:
      masking: which tokens are predicted, and what stands in their places.
      span_boundary: predicts them from the ends of their span, too, with the same weight (SpanBERT,
        arXiv:1907.10529, section 3.2).
      score_chunk: predictions of each row that are scored over the vocabulary at a time, which
        saves memory and costs a product; None: all at once.
    """

    masking: MaskingConfig = MaskingConfig()
    span_boundary: bool = False
    score_chunk: int | None = None

    def __post_init__(self) -> None:
        if self.score_chunk is not None and self.score_chunk < 1:
            raise ValueError(f"task.score_chunk={self.score_chunk} must be at least 1.")

    def build(
        self,
        *,
        model: BertConfig,
        data: BertData,
        batch_size: int,
        seed: int,
        workdir: Path,
        mesh: Mesh,
    ) -> MaskedLm:
        """Trains or copies the tokenizer, or loads the run's own; reads text when it is needed.

        Raises:
          UserError: the data is missing, malformed or empty, or does not fit the model.
        """
        return MaskedLm(self, model, data, batch_size, seed, workdir, mesh)


class MaskedLm:
    """The task; see `Task` for its members."""

    sharding_rules: Rules = TRANSFORMER_RULES

    def __init__(
        self,
        config: MaskedLmConfig,
        model: BertConfig,
        data: BertData,
        batch_size: int,
        seed: int,
        workdir: Path,
        mesh: Mesh,
    ) -> None:
        self.config, self.data = config, data
        self.batch_size, self.seed, self.mesh = batch_size, seed, mesh
        self.has_pairs = data.examples != "full_sentences"
        _check(model, data)
        self.model = BertPretraining(
            model,
            span_boundary=config.span_boundary,
            attention_fn=attention_on(mesh, model.attention, model.attention_block),
            constrain=constrain_activations(mesh),
        )
        self.tokenizer = run_tokenizer(data, model.vocab_size, workdir)
        names = ["mlm"] + ["pair"] * self.has_pairs + ["span_boundary"] * config.span_boundary
        self.coefficients: Mapping[str, float] = dict.fromkeys(names, 1.0)
        self._rows: dict[str, PretrainingRows] = {}

    def init_params(self, key: Array) -> Params:
        """Fresh parameters of the model."""
        return without_mesh(self.model).init(key, jnp.zeros((1, 2), jnp.int32))["params"]

    def own_params(self, params: Params) -> Params:
        """Those of `model`, among all that are trained or kept."""
        return params

    def loss_terms(self, params: Params, batch: Batch, key: Array | None) -> Terms:
        """Cross-entropy of the masked tokens, of the pairs, and of tokens by their span's ends."""
        masked = self.corrupt(batch)
        states: Any = self.model.apply(
            {"params": params},
            masked.tokens,
            segments=batch["segments"],
            positions=batch["positions"],
            token_types=batch["token_types"] if self.model.config.type_vocab_size else None,
            masked_positions=masked.positions,
            first_tokens=batch["first_tokens"],
            boundaries=self._boundaries(masked) if self.config.span_boundary else None,
            deterministic=key is None,
            rngs=None if key is None else {"dropout": key},
            method="states",
        )
        tables: Any = self.model.apply({"params": params}, method="tables")
        table, bias, boundary_bias = tables
        terms = {"mlm": self._cross_entropy(states.masked, table, bias, masked)}
        labels = batch["pair_labels"], batch["pair_weights"]
        if self.has_pairs:
            terms["pair"] = label_smoothed_cross_entropy(states.pairs, *labels)
        if self.config.span_boundary:
            ends = states.boundary, table, boundary_bias
            terms["span_boundary"] = self._cross_entropy(*ends, masked)
        if key is None:  # for information
            terms["mlm_accuracy"] = self._accuracy(states.masked, table, bias, masked)
            if self.has_pairs:
                terms["pair_accuracy"] = token_accuracy(states.pairs, *labels)
        return terms

    def corrupt(self, batch: Batch) -> Corrupted:
        """Masks a batch; a pure function of its arrays."""
        masking = self.config.masking
        masked = corrupt(
            batch["row_seeds"],
            batch["tokens"],
            batch["segments"],
            batch["word_starts"],
            config=masking,
            mask_id=self.tokenizer.mask_id,
            special_ids=self.tokenizer.special_ids,
            vocab_size=self.tokenizer.vocab_size,
            predictions=predictions_for(self.data.row_length, masking.rate),
        )
        return constrain_rows(masked, self.mesh)

    def train_batches(
        self, start: DataState, process_index: int, process_count: int
    ) -> Iterator[tuple[Batch, DataState]]:
        """Packed rows; each epoch cuts, packs and masks anew, a pure function of seed and epoch."""
        return self._batches("train", self.seed, start, process_index, process_count)

    def eval_batches(self, split: str, process_index: int, process_count: int) -> Iterable[Batch]:
        """Packed rows of one pass, with the same examples and masks for every run."""
        endless = self._batches(split, _EVAL_SEED, DataState(), process_index, process_count)
        for batch, following in endless:
            yield batch
            if following.epoch:
                break

    def _batches(
        self, split: str, seed: int, start: DataState, process_index: int, process_count: int
    ) -> Iterator[tuple[Batch, DataState]]:
        """Endless batches with a seed for the masks of each row, by its place in the data."""
        rows = self._split(split)
        endless = batches(
            functools.partial(rows.plan, seed=seed),
            rows.build,
            batch_size=self.batch_size,
            start=start,
            process_index=process_index,
            process_count=process_count,
        )
        share = self.batch_size // process_count
        here = start
        for batch, following in endless:
            first = here.batch * self.batch_size + process_index * share
            # Of each row by itself, so that the size of the batches changes no mask.
            places = (np.random.SeedSequence([seed, here.epoch, first + i]) for i in range(share))
            seeds = np.concatenate([place.generate_state(1) for place in places])
            yield batch | {"row_seeds": seeds}, following
            here = following

    def count_tokens(self, batch: Batch) -> int:
        """Tokens that are not padding."""
        return int(np.count_nonzero(batch["segments"]))

    def evaluate(self, params: Params, split: str) -> Evaluation:
        """Compares with the frequencies of the training text; fills the masks of some sentences."""
        terms = jax.jit(lambda params, batch: self.loss_terms(params, batch, None))
        masks = jax.jit(self.corrupt)
        totals: dict[str, np.ndarray] = {}
        targets: list[np.ndarray] = []
        sentences: list[np.ndarray] = []
        for batch in self.eval_batches(split, 0, 1):
            with jax.set_mesh(self.mesh):
                placed = put_batch(batch, self.mesh)
                found, masked = jax.device_get((terms(params, placed), masks(placed)))
            for name, pair in found.items():
                totals[name] = totals.get(name, np.zeros(2)) + np.asarray(pair, np.float64)
            targets.append(masked.targets[masked.weights > 0])
            sentences += self._sentences(batch)[: _SHOWN - len(sentences)]
        filler = self.mask_filler(params)
        guesses = filler.guess(sentences)
        shown = [self._shown(*pair) for pair in zip(sentences, guesses, strict=True)]
        unigrams = self._split("train").unigrams()
        return report_pretraining(totals, unigrams, np.concatenate(targets), shown)

    def mask_filler(self, params: Params, *, top: int = 5) -> MaskFiller:
        """A function that fills masks with these parameters, with so many guesses for each."""
        own = self.own_params(params)
        return MaskFiller(self.model, own, self.tokenizer, mesh=self.mesh, top=top)

    @functools.cached_property
    def fingerprint(self) -> Mapping[str, Any]:
        """What the batches depend on: the text as tokens, the tokenizer, the rows."""
        return {
            "text": self._split("train").fingerprint,
            "tokenizer": self.tokenizer.fingerprint,
            "row": [self.data.row_length, self.data.places],
            "batch_size": self.batch_size,
            "seed": self.seed,
        }

    @functools.cached_property
    def summary(self) -> str:
        """Sizes of the data, and how well rows are filled."""
        train, valid = self._split("train"), self._split("valid")  # read now: what is bad shows
        plan = train.plan(0, seed=self.seed)
        return (
            f"{self.data.path}: {train.summary}; to validate {valid.summary}; vocabulary "
            f"{self.tokenizer.vocab_size:,}\n{len(plan):,} rows of {self.data.row_length} tokens "
            f"an epoch, filled {train.filled(plan):.1%}"
        )

    def _split(self, split: str) -> PretrainingRows:
        if split not in self._rows:
            self._rows[split] = read_rows(self.data, split, self.tokenizer)
        return self._rows[split]

    def _boundaries(self, masked: Corrupted) -> Boundaries:
        # Spans that touch may be longer together than the head has places.
        offsets = jnp.clip(masked.offset - 1, 0, SpanBoundaryHead.max_span - 1)
        return Boundaries(masked.left, masked.right, offsets)

    def _cross_entropy(
        self, states: Array, table: Array, bias: Array, to: Corrupted
    ) -> tuple[Array, Array]:
        where, size = (states, table, bias, to.targets, to.weights), self.config.score_chunk
        if size is not None:
            return chunked_cross_entropy(*where, chunk_size=size)
        return label_smoothed_cross_entropy(tied_logits(*where[:3]), *where[3:])

    def _accuracy(
        self, states: Array, table: Array, bias: Array, to: Corrupted
    ) -> tuple[Array, Array]:
        where, size = (states, table, bias, to.targets, to.weights), self.config.score_chunk
        if size is not None:
            return chunked_token_accuracy(*where, chunk_size=size)
        return token_accuracy(tied_logits(*where[:3]), *where[3:])

    def _sentences(self, batch: Batch) -> list[np.ndarray]:
        """The first segment of each row, with a mask for a whole word near its middle."""
        found, t = [], self.tokenizer
        for row in range(len(batch["tokens"])):
            first = (batch["segments"][row] == 1) & (batch["token_types"][row] == 0)
            ids = batch["tokens"][row][first].copy()
            starts = np.append(batch["word_starts"][row][first], True)
            whole = starts[:-1] & starts[1:] & ~np.isin(ids, t.special_ids)
            if whole.any():
                at = np.flatnonzero(whole)
                ids[at[len(at) // 2]] = t.mask_id
                found.append(ids)
        return found

    def _shown(self, ids: np.ndarray, masks: list[list[Guess]]) -> str:
        """A sentence with its mask, and what was guessed for it."""
        (at,) = np.flatnonzero(ids == self.tokenizer.mask_id)
        before, after = (self.tokenizer.decode(part.tolist()) for part in (ids[:at], ids[at + 1 :]))
        guesses = ", ".join(f"{token} {p:.0%}" for token, p in masks[0])
        return f"{before} [MASK] {after}\n    {guesses}"


def _check(model: BertConfig, data: BertData) -> None:
    """Raises a UserError where the model cannot take the examples."""
    if data.longest > model.max_positions:
        raise UserError(
            f"Examples have up to {data.longest} tokens, and the model {model.max_positions} "
            f"positions. Set --data.example_length {model.max_positions}, or "
            f"--model.max_positions {data.longest}."
        )
    if data.examples != "full_sentences" and not model.pooler:
        raise UserError(
            f"data.examples={data.examples} are judged by the pooled state, and model.pooler is "
            f"False. Set --model.pooler, or --data.examples full_sentences."
        )
    if data.examples != "full_sentences" and model.type_vocab_size == 1:
        raise UserError(
            f"data.examples={data.examples} have tokens of two types, and the model of one. Set "
            f"--model.type_vocab_size 2, or 0 for none."
        )

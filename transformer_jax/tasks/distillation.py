"""A small encoder learns from a large one: DistilBERT (arXiv:1910.01108)."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import Mesh

from transformer_jax.errors import UserError
from transformer_jax.models.bert import BertConfig
from transformer_jax.models.bert_pretraining import BertPretraining, PretrainingStates
from transformer_jax.models.heads import tied_logits
from transformer_jax.objectives.corruption import Corrupted, MaskingConfig
from transformer_jax.objectives.distillation import (
    every_second_layer,
    hidden_cosine,
    soft_cross_entropy,
)
from transformer_jax.objectives.losses import label_smoothed_cross_entropy, token_accuracy
from transformer_jax.parallel.attention import attention_on, without_mesh
from transformer_jax.parallel.sharding import constrain_activations
from transformer_jax.tasks.bert_data import BertData
from transformer_jax.tasks.masked_lm import MaskedLm, MaskedLmConfig
from transformer_jax.typing import Array, Batch, Params, Terms

TEACHER = r"^teacher/"  # for `OptimizerConfig.frozen`


@dataclasses.dataclass(frozen=True)
class DistillationConfig:
    """The objective: soft, mlm and cosine, each with its weight (section 3 of the paper).

    The parameters are {"student", "teacher"}; `OptimizerConfig.frozen` must hold the teacher's, and
    `TrainConfig.init_from` names the run that they come from. Both losses of tokens are of the
    masked ones.

    Attributes:
      teacher: sizes of the teacher, as its run has them; its width is the student's.
      masking: which tokens are predicted, and what stands in their places.
      temperature: T, which both predictions are softened with.
      soft: weight of the cross-entropy with the teacher's predictions, times T^2.
      mlm: weight of the cross-entropy with the masked tokens.
      cosine: weight of the cosine loss between the last hidden states.
    """

    teacher: BertConfig = BertConfig()
    masking: MaskingConfig = MaskingConfig()
    temperature: float = 2.0
    soft: float = 5.0
    mlm: float = 2.0
    cosine: float = 1.0

    def __post_init__(self) -> None:
        if self.temperature <= 0:
            raise ValueError(f"task.temperature={self.temperature} must be positive.")
        for name in ("soft", "mlm", "cosine"):
            if getattr(self, name) < 0:
                raise ValueError(f"task.{name}={getattr(self, name)} must not be negative.")

    def build(
        self,
        *,
        model: BertConfig,
        data: BertData,
        batch_size: int,
        seed: int,
        workdir: Path,
        mesh: Mesh,
    ) -> Distillation:
        """As `MaskedLmConfig.build`; `model` is the student.

        Raises:
          UserError: the data does not fit the model, or the student not the teacher.
        """
        return Distillation(self, model, data, batch_size, seed, workdir, mesh)


class Distillation(MaskedLm):
    """The task; see `Task` for its members, and `adopt_params`."""

    def __init__(
        self,
        config: DistillationConfig,
        model: BertConfig,
        data: BertData,
        batch_size: int,
        seed: int,
        workdir: Path,
        mesh: Mesh,
    ) -> None:
        _check(config.teacher, model, data)
        base = MaskedLmConfig(masking=config.masking)
        super().__init__(base, model, data, batch_size, seed, workdir, mesh)
        self.distillation, teacher = config, config.teacher
        self.teacher = BertPretraining(
            teacher,
            attention_fn=attention_on(mesh, teacher.attention, teacher.attention_block),
            constrain=constrain_activations(mesh),
        )
        self.coefficients: Mapping[str, float] = {
            "soft": config.soft * config.temperature**2,
            "mlm": config.mlm,
            "cosine": config.cosine,
        }

    def init_params(self, key: Array) -> Params:
        """Fresh parameters of both models; `adopt_params` puts the teacher's in their place."""
        teacher = without_mesh(self.teacher).init(key, jnp.zeros((1, 2), jnp.int32))["params"]
        return {"student": super().init_params(key), "teacher": teacher}

    def adopt_params(self, params: Params, fresh: Params) -> Params:
        """The teacher with these parameters, and the student with every second layer of it.

        Raises:
          UserError: the teacher lacks what the student needs.
        """
        picked = every_second_layer(params)
        return {"student": _part_like(fresh["student"], picked, ""), "teacher": params}

    def loss_terms(self, params: Params, batch: Batch, key: Array | None) -> Terms:
        """The three losses of the paper; and for information the accuracy."""
        masked = self.corrupt(batch)
        found = self._states(self.model, params["student"], batch, masked, key)
        wanted = self._states(self.teacher, jax.lax.stop_gradient(params["teacher"]), batch, masked)
        logits = self._logits(self.model, params["student"], found)
        teacher = self._logits(self.teacher, params["teacher"], wanted)
        temperature = self.distillation.temperature
        terms = {
            "soft": soft_cross_entropy(logits, teacher, masked.weights, temperature),
            "mlm": label_smoothed_cross_entropy(logits, masked.targets, masked.weights),
            "cosine": hidden_cosine(found.hidden, wanted.hidden, batch["segments"] != 0),
        }
        if key is None:
            terms["mlm_accuracy"] = token_accuracy(logits, masked.targets, masked.weights)
        return terms

    def own_params(self, params: Params) -> Params:
        """Those of the student."""
        return params["student"]

    def _states(
        self,
        model: BertPretraining,
        params: Params,
        batch: Batch,
        masked: Corrupted,
        key: Array | None = None,
    ) -> PretrainingStates:
        states: Any = model.apply(
            {"params": params},
            masked.tokens,
            segments=batch["segments"],
            positions=batch["positions"],
            token_types=batch["token_types"] if model.config.type_vocab_size else None,
            masked_positions=masked.positions,
            deterministic=key is None,
            rngs=None if key is None else {"dropout": key},
            method="states",
        )
        return states

    def _logits(self, model: BertPretraining, params: Params, states: PretrainingStates) -> Array:
        tables: Any = model.apply({"params": params}, method="tables")
        return tied_logits(states.masked, *tables[:2])


def _check(teacher: BertConfig, student: BertConfig, data: BertData) -> None:
    """Raises a UserError where the student cannot learn from the teacher."""
    for name in ("width", "vocab_size", "max_positions", "first_position"):
        if getattr(teacher, name) != getattr(student, name):
            raise UserError(
                f"model.{name}={getattr(student, name)}, but the teacher has "
                f"{getattr(teacher, name)}. Make them equal."
            )
    if 2 * student.num_layers - teacher.num_layers not in (0, 1):
        raise UserError(
            f"model.num_layers={student.num_layers} must be half of the teacher's "
            f"{teacher.num_layers}: the student starts with every second layer."
        )
    if data.examples != "full_sentences":
        raise UserError(
            f"A student learns no pairs: data.examples={data.examples} must be full_sentences."
        )


def _part_like(wanted: Any, found: Any, path: str) -> Any:
    """What a tree has under the paths of another."""
    if not isinstance(wanted, Mapping):
        return found
    missing = [name for name in wanted if name not in found]
    if missing:
        raise UserError(f"The teacher has no parameters {path}{missing[0]}, which the student has.")
    return {name: _part_like(wanted[name], found[name], f"{path}{name}/") for name in wanted}

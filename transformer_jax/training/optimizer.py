"""Adam, AdamW and LAMB with clipping, and weight decay that is selected by path."""

from __future__ import annotations

import dataclasses
import re
from typing import Any, Literal

import jax
import optax

from transformer_jax.errors import UserError
from transformer_jax.parallel.sharding import path_of
from transformer_jax.training.lamb import scale_by_trust_ratio
from transformer_jax.training.layer_decay import hold_layers, scale_by_layer
from transformer_jax.training.schedules import Noam, Schedule

NO_DECAY = (r"bias$", r"(^|/)scale$")


@dataclasses.dataclass(frozen=True)
class OptimizerConfig:
    """Adam (arXiv:1412.6980); with weight decay, AdamW (arXiv:1711.05101); or LAMB.

    Attributes:
      schedule: the learning rate.
      b1: decay of the first moment.
      b2: decay of the second moment.
      epsilon: added to the root of the second moment.
      weight_decay: decoupled decay, times the learning rate.
      no_decay: regexes of the paths of parameters that do not decay.
      clip_norm: largest norm of the whole gradient; None clips nothing.
      kind: "lamb" multiplies the update of each tensor of each layer by its trust ratio
        (arXiv:1904.00962, algorithm 2). The ratio of those in `no_decay` is 1, as in
        google-research/albert (lamb_optimizer.py) and NVIDIA/apex (multi_tensor_lamb.cu). Both
        moments are bias-corrected, as in the paper and apex; ALBERT's own code does not.
      layer_decay: multiplies the rate of each layer below the heads by this once more, the last
        layer's not, and that of the embeddings as if they were a layer below the first
        (arXiv:2003.10555, appendix B).
      frozen: regexes of the paths of parameters that stay as they are, and need no moments.
      frozen_layers: so many of the encoder's first layers stay as they are. No path names one: the
        parameters of all layers are stacked in one array.
    """

    schedule: Schedule = Noam()
    b1: float = 0.9
    b2: float = 0.98
    epsilon: float = 1e-9
    weight_decay: float = 0.0
    no_decay: tuple[str, ...] = NO_DECAY
    clip_norm: float | None = None
    kind: Literal["adam", "lamb"] = "adam"
    layer_decay: float = 1.0
    frozen: tuple[str, ...] = ()
    frozen_layers: int = 0

    def __post_init__(self) -> None:
        if self.kind not in ("adam", "lamb"):
            raise ValueError(f"optimizer.kind={self.kind!r} must be 'adam' or 'lamb'.")
        if not (0 <= self.b1 < 1 and 0 <= self.b2 < 1):
            raise ValueError(f"optimizer.b1={self.b1} and b2={self.b2} must be in [0, 1).")
        if self.epsilon <= 0:
            raise ValueError(f"optimizer.epsilon={self.epsilon} must be positive.")
        if not 0 < self.layer_decay <= 1:
            raise ValueError(f"optimizer.layer_decay={self.layer_decay} must be in (0, 1].")
        if self.frozen_layers < 0:
            raise ValueError(f"optimizer.frozen_layers={self.frozen_layers} must be at least 0.")
        if self.clip_norm is not None and self.clip_norm <= 0:
            raise ValueError(f"optimizer.clip_norm={self.clip_norm} must be positive.")


def without(params: Any, patterns: tuple[str, ...]) -> Any:
    """True for the parameters whose path no regex is found in."""

    def free(path: tuple[Any, ...], _: Any) -> bool:
        return not any(re.search(pattern, path_of(path)) for pattern in patterns)

    return jax.tree_util.tree_map_with_path(free, params)


def make_optimizer(config: OptimizerConfig, steps: int) -> optax.GradientTransformation:
    """The optimizer for a run whose schedule ends after `steps` updates."""

    def decays(params: Any) -> Any:
        return without(params, config.no_decay)

    held = [hold_layers(config.frozen_layers)] if config.frozen_layers else []
    parts = [*held]  # so that they have no part in the norm, and moments of zero
    if config.clip_norm is not None:
        parts.append(optax.clip_by_global_norm(config.clip_norm))
    parts.append(optax.scale_by_adam(config.b1, config.b2, config.epsilon))
    if config.weight_decay:
        parts.append(optax.add_decayed_weights(config.weight_decay, mask=decays))
    if config.kind == "lamb":
        parts.append(optax.masked(scale_by_trust_ratio(), decays))
    if config.layer_decay < 1:
        parts.append(scale_by_layer(config.layer_decay))
    parts.append(optax.scale_by_learning_rate(config.schedule.build(steps)))
    parts += held  # their weights do not decay
    if not config.frozen:
        return optax.chain(*parts)

    def label(params: Any) -> Any:
        _check_frozen(params, config.frozen)
        trained = without(params, config.frozen)
        return jax.tree.map(lambda t: "trained" if t else "frozen", trained)

    kinds = {"trained": optax.chain(*parts), "frozen": optax.set_to_zero()}
    return optax.multi_transform(kinds, label)


def _check_frozen(params: Any, patterns: tuple[str, ...]) -> None:
    """Raises a UserError if a pattern freezes nothing, or if all that there is is frozen."""
    paths = [path_of(path) for path, _ in jax.tree_util.tree_leaves_with_path(params)]
    shown = ", ".join(paths[:: max(1, len(paths) // 5)])
    for pattern in patterns:
        if not any(re.search(pattern, path) for path in paths):
            raise UserError(
                f"optimizer.frozen {pattern!r} matches no parameter. Paths are as {shown}; for the "
                f"first layers alone there is optimizer.frozen_layers."
            )
    if all(any(re.search(pattern, path) for pattern in patterns) for path in paths):
        raise UserError(
            f"optimizer.frozen {' '.join(map(repr, patterns))} freezes all parameters, and nothing "
            f"is left to train. Paths are as {shown}."
        )

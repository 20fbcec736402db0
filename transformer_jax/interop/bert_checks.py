"""What a config.json says of a BERT, looked at before a model is made of it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from transformer_jax.errors import UserError
from transformer_jax.interop.tensors import longest
from transformer_jax.parsing import is_text


def check_settings(
    settings: Mapping[str, Any], tensors: Mapping[str, np.ndarray], where: str
) -> None:
    """Raises a UserError for numbers, a class or labels that cannot be those of these tensors."""
    odd = [k for k, v in settings.items() if type(v) is int and abs(v) >= 2**31]
    architectures, count = settings.get("architectures"), settings.get("num_labels")
    if architectures and (type(architectures) is not list or type(architectures[0]) is not str):
        odd.append("architectures")
    if type(count) is int and not 0 <= count <= longest(tensors):
        odd.append("num_labels")
    names = settings.get("id2label")
    if names is not None and not _are_labels(names):
        odd.append("id2label")
    if odd:
        shown = ", ".join(f"{name}={settings[name]!r:.40}" for name in odd)
        raise UserError(f"{where}: {shown} cannot be.")


def _are_labels(names: Any) -> bool:
    """Whether it has a text for each of "0", "1", ..."""
    return (
        isinstance(names, dict)
        and all(is_text(str(name)) for name in names.values())
        and {str(i) for i in range(len(names))} == names.keys()
    )

"""Attention maps as one HTML page to explore, which needs no network."""

from __future__ import annotations

import base64
import importlib.resources
import json
import os
import zlib
from typing import Any

import numpy as np

from transformer_jax.files import write_whole
from transformer_jax.visualize.maps import (
    AttentionMaps,
    AttentionPart,
    printable,
    token_label,
)

STEPS = 65535  # a weight is kept as a whole number of 1/STEPS, in 16 bits
PLACEHOLDER = "{{DATA}}"


def write_html(maps: AttentionMaps, path: str | os.PathLike[str]) -> None:
    """Writes the page. Its weights are rounded to 1/65535; `save_arrays` keeps the exact ones.

    What it shows is in its address: #part=cross&layer=0&head=mean&query=3&scale=root&zoom=1.

    Raises:
      UserError: the file cannot be written.
    """
    data = {
        "title": printable(maps.title),
        "steps": STEPS,
        "parts": [_part(part) for part in maps.parts],
    }
    text = json.dumps(data)  # ASCII, with U+2028 and the like escaped
    for char in "<>&":  # nothing that HTML could take for its own
        text = text.replace(char, f"\\u{ord(char):04x}")
    template = importlib.resources.files(__package__).joinpath("attention.html")
    before, after = template.read_text("utf-8").split(PLACEHOLDER)
    write_whole(path, (before + text + after).encode())


def _part(part: AttentionPart) -> dict[str, Any]:
    steps = np.rint(np.clip(part.weights, 0, 1) * STEPS).astype("<u2")
    return {
        "name": part.name,
        "shape": part.weights.shape,
        "queries": [token_label(token) for token in part.query_tokens],
        "keys": [token_label(token) for token in part.key_tokens],
        "weights": base64.b64encode(zlib.compress(steps.tobytes())).decode("ascii"),
    }

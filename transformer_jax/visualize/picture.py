"""One attention map as a picture, for a paper or a report."""

from __future__ import annotations

import io
import os
import textwrap
import warnings
from typing import Any

import numpy as np

from transformer_jax.errors import UserError
from transformer_jax.files import write_whole
from transformer_jax.visualize.maps import (
    AttentionMaps,
    AttentionPart,
    printable,
    token_label,
)

MOST_LABELS = 96  # of a longer side the positions are shown, as its tokens would overlap
LONGEST_LABEL = 20  # characters
POINTS = 72  # in an inch

# Fonts for what matplotlib's own lacks, where they are installed.
_FONTS = ("Noto Sans CJK SC", "Noto Sans CJK JP", "PingFang SC", "Hiragino Sans", "Microsoft YaHei")


def write_png(
    maps: AttentionMaps,
    path: str | os.PathLike[str],
    *,
    part: str = "cross",
    layer: int = -1,
    head: int | None = None,
) -> None:
    """Draws the map of one head, or the mean over all heads, as a heat map with its tokens.

    Args:
      maps: where the map is taken from.
      path: the PNG file.
      part: name of the attention.
      layer: index of the layer; a negative one counts from the last.
      head: index of the head, likewise; None means the mean over heads.

    Raises:
      UserError: there is no such part, layer or head, or the file cannot be written.
    """
    chosen = _part(maps, part)
    layer = _index("layer", layer, chosen.weights.shape[0])
    if head is None:
        weights, name = chosen.weights[layer].mean(axis=0), "mean over heads"
    else:
        head = _index("head", head, chosen.weights.shape[1])
        weights, name = chosen.weights[layer, head], f"head {head}"
    title = f"{printable(maps.title)}\n{part}, layer {layer}, {name}".strip()
    write_whole(path, _draw(weights, chosen, title))


def _part(maps: AttentionMaps, name: str) -> AttentionPart:
    parts = {part.name: part for part in maps.parts}
    if name not in parts:
        raise UserError(f"There is no attention {name!r} here, only {', '.join(parts)}.")
    return parts[name]


def _index(what: str, index: int, count: int) -> int:
    if not -count <= index < count:
        raise UserError(f"There is no {what} {index}: {what}s are numbered 0 to {count - 1}.")
    return index % count


def _draw(weights: np.ndarray, part: AttentionPart, title: str) -> bytes:
    """The PNG of a map [T,S]; a character that no font has is drawn as a box."""
    from matplotlib.figure import Figure  # only here: it is slow to import
    from matplotlib.font_manager import get_font_names

    installed = set(get_font_names())
    style: dict[str, Any] = {
        "family": ["DejaVu Sans", *(font for font in _FONTS if font in installed)],
        "parse_math": False,  # a token may hold dollars
        "usetex": False,
    }
    rows, columns = _labels(part.query_tokens), _labels(part.key_tokens)
    cell = min(0.3, 9 / max(weights.shape))  # inches, as all lengths here
    font = min(10, cell * POINTS * 0.85)
    width = max(4, weights.shape[1] * cell) + 1.8 + _length(rows, font)
    height = max(1.5, weights.shape[0] * cell) + 1 + _length(columns, font)
    title = "\n".join(textwrap.fill(line, int(width * 10)) for line in title.split("\n"))

    figure = Figure(figsize=(width, height), layout="constrained")
    axes = figure.add_subplot()
    image = axes.imshow(weights, cmap="Blues", vmin=0, vmax=weights.max() or 1)
    figure.colorbar(image, ax=axes, label="attention weight", shrink=0.8)
    figure.suptitle(title, fontsize=11, **style)
    axes.set_xlabel("key")
    axes.set_ylabel("query")
    for axis, labels, angle in ((axes.xaxis, columns, 90), (axes.yaxis, rows, 0)):
        if labels:
            axis.set_ticks(range(len(labels)), labels, rotation=angle, fontsize=font, **style)
    file = io.BytesIO()
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Glyph .* missing from font")
        figure.savefig(file, format="png", dpi=150, bbox_inches="tight")
    return file.getvalue()


def _labels(tokens: tuple[str, ...]) -> list[str]:
    """What to write on a side; nothing if it is too long for that."""
    return [_short(token_label(token)) for token in tokens] if len(tokens) <= MOST_LABELS else []


def _length(labels: list[str], font: float) -> float:
    return max(map(len, labels), default=0) * font * 0.65 / POINTS


def _short(label: str) -> str:
    return label if len(label) <= LONGEST_LABEL else label[: LONGEST_LABEL - 1] + "…"

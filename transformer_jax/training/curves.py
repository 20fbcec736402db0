"""The loss curve of a run as a picture."""

from __future__ import annotations

from pathlib import Path

from transformer_jax.training.metrics import read_metrics


def draw_loss(workdir: Path) -> Path | None:
    """Draws training and validation loss over steps to workdir/loss.png; None without metrics."""
    metrics = read_metrics(workdir)
    curves = {
        "training": [(m["step"], m["loss"]) for m in metrics if m.get("loss") is not None],
        "validation": [
            (m["step"], m["valid_loss"]) for m in metrics if m.get("valid_loss") is not None
        ],
    }
    if not any(curves.values()):
        return None
    import matplotlib  # only here: it is slow to import

    matplotlib.use("Agg")  # a file, no window
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(figsize=(7, 4), layout="constrained")
    for name, points in curves.items():
        if points:
            axes.plot(*zip(*points, strict=True), label=name, marker="." * (len(points) < 30))
    axes.set_xlabel("step")
    axes.set_ylabel("loss (nats a token)")
    axes.set_title(workdir.name)
    axes.grid(alpha=0.3)
    axes.legend()
    path = workdir / "loss.png"
    figure.savefig(path, dpi=150)
    pyplot.close(figure)
    return path

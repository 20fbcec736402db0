"""Vectors of texts: `python -m transformer_jax.cli.embed --model DIR --output FILE.npy < lines`.

Row i of the array, float32 [lines, width], is of line i; an empty line has the vector of no text.
What is odd about a line is said on stderr.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import get_args

import numpy as np

from transformer_jax.cli.lines import read_lines
from transformer_jax.cli.model_folder import open_bert
from transformer_jax.errors import UserError
from transformer_jax.files import temporary_beside
from transformer_jax.interrupts import sure_interrupts
from transformer_jax.parallel.mesh import MeshConfig, make_mesh
from transformer_jax.tasks.embedding import Embedder, Pooling

CHUNK = 4096  # lines that are read, sorted by length and encoded before the next are read


def main(argv: Sequence[str] | None = None) -> int:
    """Writes the vectors of stdin's lines.

    Returns:
      0; 1 after an error of the user's; 130 after Ctrl-C.
    """
    args = _parser().parse_args(argv)
    try:
        with sure_interrupts():
            vectors = _embed(args)
            _write(args.output, vectors)
    except UserError as error:
        print(f"embed: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("\nembed: stopped, and nothing is written.", file=sys.stderr)
        return 130
    lines, width = vectors.shape
    print(f"written: {args.output}, {lines:,} vectors of {width}")
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="embed", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--model", type=Path, required=True, help="a run of train.py, or a Hugging Face folder")
    add("--output", type=Path, required=True, help="file to write, .npy")
    add("--pooling", choices=get_args(Pooling), default="mean", help="of the states (mean)")
    add("--normalize", action="store_true", help="give each vector the length 1")
    add("--step", help="of a run: a step, latest (default), or best: by validation loss")
    add("--average", type=int, help="of a run: newest checkpoints to average")
    return parser


def _embed(args: argparse.Namespace) -> np.ndarray:
    if args.output.suffix != ".npy":
        raise UserError(f"--output {args.output} must end in .npy.")
    if not args.output.resolve().parent.is_dir():
        raise UserError(f"--output {args.output}: its folder does not exist.")
    encoder = open_bert(args.model, "encoder", step=args.step, average=args.average)
    embedder = Embedder(encoder, mesh=make_mesh(MeshConfig()), pooling=args.pooling)
    found = [np.zeros((0, encoder.config.width), np.float32)]
    for lines, first in read_lines("embed", CHUNK):
        examples = embedder.examples(lines)
        for i in np.flatnonzero(examples.cut):
            most, over = embedder.max_tokens, examples.cut[i]
            print(f"embed: line {first + i} is cut to {most} tokens, by {over}", file=sys.stderr)
        found.append(embedder(examples))
    vectors = np.concatenate(found)
    if args.normalize:
        vectors /= np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1e-12)
    return vectors


def _write(path: Path, vectors: np.ndarray) -> None:
    temporary = temporary_beside(path)
    try:
        with temporary.open("wb") as file:
            np.save(file, vectors)
        os.replace(temporary, path)
    except OSError as error:
        raise UserError(f"--output {path} cannot be written: {error}.") from error
    finally:
        temporary.unlink(missing_ok=True)


if __name__ == "__main__":
    sys.exit(main())

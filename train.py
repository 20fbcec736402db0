"""Trains a run; see `python train.py --help`."""

import sys

from transformer_jax.cli.train import main

if __name__ == "__main__":
    sys.exit(main())

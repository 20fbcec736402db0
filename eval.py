"""Evaluates a run; see `python eval.py --help`."""

import sys

from transformer_jax.cli.evaluate import main

if __name__ == "__main__":
    sys.exit(main())

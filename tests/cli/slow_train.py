"""train.py whose steps take a while, so that what a test does to it comes in the midst of a run."""

import sys
import time

from transformer_jax.cli.train import main
from transformer_jax.training.metrics import Clock

count = Clock.count


def slow_count(clock, tokens):
    time.sleep(0.2)
    count(clock, tokens)


if __name__ == "__main__":
    Clock.count = slow_count
    sys.exit(main())

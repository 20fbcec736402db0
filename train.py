"""Trains a run; see `python train.py --help`."""

from transformer_jax.cli.train import program

if __name__ == "__main__":
    program()

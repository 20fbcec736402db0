"""Search for likely token sequences over a pure step function: greedy and beam search."""

"""Losses as {name: (sum, weight)}, so that they add up exactly over microbatches and devices."""

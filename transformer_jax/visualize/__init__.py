"""Attention weights of one example, as arrays, as a page to explore and as a picture."""

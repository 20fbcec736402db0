"""Models: compositions of layers, each with its config."""

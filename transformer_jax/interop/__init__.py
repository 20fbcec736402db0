"""Other people's checkpoints: names, shapes, files."""

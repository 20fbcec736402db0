"""The mathematics: pure functions, and thin modules that own their parameters."""

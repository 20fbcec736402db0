"""Parity is that of programs as users run them, with all optimizations."""

import jax

jax.config.update("jax_disable_most_optimizations", False)

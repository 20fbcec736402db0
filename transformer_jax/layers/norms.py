"""The layer norm of all models (Ba et al. 2016, section 3)."""

import functools

import flax.linen as nn

# flax's own default, E[x^2] - E[x]^2, loses digits where the mean is larger than the deviation:
# six of a float32's 24 bits when it is eight times as large.
LayerNorm = functools.partial(nn.LayerNorm, use_fast_variance=False)

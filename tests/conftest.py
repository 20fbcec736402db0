"""All tests run on 8 simulated devices; what is not told otherwise uses the first."""

import jax

jax.config.update("jax_platforms", "cpu")
jax.config.update("jax_num_cpu_devices", 8)

import jax.numpy as jnp
import numpy as np

from transformer_jax.decoding.step import top_log_probs


def test_impossible_tokens_get_minus_infinity_and_never_nan():
    logits = jnp.array([[1.0, -jnp.inf, 1.0, -jnp.inf], [-jnp.inf] * 4], jnp.bfloat16)
    log_probs, ids = top_log_probs(logits, 3)
    assert log_probs.dtype == jnp.float32 and ids[0].tolist()[:2] == [0, 2]
    np.testing.assert_allclose(log_probs[0, :2], np.log(0.5), rtol=1e-6)
    assert log_probs[0, 2] == -jnp.inf and bool(jnp.all(log_probs[1] == -jnp.inf))

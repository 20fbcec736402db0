import jax.numpy as jnp
import numpy as np

from transformer_jax.decoding.length_score import gnmt_length_penalty, length_penalty


def test_rules_are_those_of_the_papers():
    log_prob, length = jnp.array([-7.0]), jnp.array([7])
    np.testing.assert_allclose(gnmt_length_penalty(0.6)(log_prob, length), -7 / 2**0.6, rtol=1e-6)
    np.testing.assert_allclose(length_penalty(1.0)(log_prob, length), -1.0, rtol=1e-6)
    assert gnmt_length_penalty(0.0)(log_prob, length) == length_penalty(0.0)(log_prob, length) == -7

import jax.numpy as jnp
import numpy as np

from transformer_jax.decoding.token_rules import all_of, force_end, suppress

LOG_PROBS = jnp.log(jnp.array([[0.1, 0.2, 0.3, 0.4]]))


def test_suppressed_tokens_are_impossible_and_the_others_as_before():
    got = suppress([3, 0])(LOG_PROBS, jnp.int32(0))
    np.testing.assert_array_equal(got[0], [-np.inf, LOG_PROBS[0, 1], LOG_PROBS[0, 2], -np.inf])


def test_only_the_last_token_is_forced_to_be_the_end():
    rule = force_end(2, max_length=5)
    np.testing.assert_array_equal(rule(LOG_PROBS, jnp.int32(3)), LOG_PROBS)
    np.testing.assert_array_equal(rule(LOG_PROBS, jnp.int32(4)), [[-np.inf, -np.inf, 0.0, -np.inf]])


def test_rules_come_one_after_the_other_and_none_is_no_rule():
    rule = all_of([suppress([2]), force_end(2, max_length=1)])
    np.testing.assert_array_equal(rule(LOG_PROBS, jnp.int32(0)), [[-np.inf, -np.inf, 0.0, -np.inf]])
    assert all_of([]) is None

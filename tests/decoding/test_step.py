import jax
import jax.numpy as jnp
import numpy as np
import pytest

from transformer_jax.decoding.step import top_k, top_log_probs


def test_impossible_tokens_get_minus_infinity_and_never_nan():
    logits = jnp.array([[1.0, -jnp.inf, 1.0, -jnp.inf], [-jnp.inf] * 4], jnp.bfloat16)
    log_probs, ids = top_log_probs(logits, 3)
    assert log_probs.dtype == jnp.float32 and ids[0].tolist()[:2] == [0, 2]
    np.testing.assert_allclose(log_probs[0, :2], np.log(0.5), rtol=1e-6)
    assert log_probs[0, 2] == -jnp.inf and bool(jnp.all(log_probs[1] == -jnp.inf))


@pytest.mark.parametrize("size", [3, 1023, 1024, 1025, 4000, 4095])
@pytest.mark.parametrize("count", [1, 3, 8])
def test_few_of_many_are_those_of_a_full_ranking_in_the_same_order(size, count):
    count = min(count, size)
    rng = np.random.default_rng(size)
    few_values = rng.integers(0, 40, (2, 5, size)).astype(np.float32)  # so that many are equal
    few_values[0, 0] = 7.0
    few_values[0, 1, : size // 2] = -np.inf
    few_values[0, 2] = -np.inf
    for values in (few_values, rng.normal(size=(2, 5, size)).astype(np.float32)):
        got, want = top_k(jnp.asarray(values), count), jax.lax.top_k(values, count)
        np.testing.assert_array_equal(got[0], want[0])
        np.testing.assert_array_equal(got[1], want[1])

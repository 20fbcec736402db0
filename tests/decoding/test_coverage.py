import jax.numpy as jnp
import numpy as np

from transformer_jax.decoding.coverage import coverage_penalty


def test_equals_the_formula_and_spares_padding():
    attention = np.random.default_rng(0).uniform(0.1, 1.6, (2, 3, 5))
    valid = np.array([[1, 1, 1, 1, 1], [1, 1, 1, 0, 0]], bool)
    got = coverage_penalty(jnp.asarray(attention), jnp.asarray(valid), 0.2)
    for b, k in np.ndindex(2, 3):
        terms = [np.log(min(a, 1.0)) for a, v in zip(attention[b, k], valid[b], strict=True) if v]
        np.testing.assert_allclose(got[b, k], 0.2 * sum(terms), rtol=1e-6)


def test_what_was_not_looked_at_at_all_stays_finite_and_all_looked_at_costs_nothing():
    valid = jnp.ones((1, 3), bool)
    nothing, all_of_it = jnp.zeros((1, 1, 3)), jnp.full((1, 1, 3), 1.2)
    assert -100.0 < float(coverage_penalty(nothing, valid, 1.0)[0, 0]) < -10.0
    assert float(coverage_penalty(all_of_it, valid, 1.0)[0, 0]) == 0.0

"""The shared embedding: its scale, its two uses, ids that are none."""

import jax
import jax.numpy as jnp
import numpy as np

from transformer_jax.layers.embeddings import TokenEmbedding


def test_look_up_scales_by_root_width_and_logits_do_not():
    module = TokenEmbedding(vocab_size=5, width=4)
    tokens = jnp.array([[1, 4]])
    variables = module.init(jax.random.key(0), tokens)
    table = np.asarray(variables["params"]["embedding"])
    np.testing.assert_allclose(module.apply(variables, tokens), table[[[1, 4]]] * 2.0, rtol=1e-6)
    x = jax.random.normal(jax.random.key(1), (1, 2, 4))
    np.testing.assert_allclose(
        module.apply(variables, x, method="logits"), np.asarray(x) @ table.T, atol=1e-6
    )


def test_initial_vectors_have_variance_one_over_width():
    module = TokenEmbedding(vocab_size=2000, width=64)
    table = module.init(jax.random.key(0), jnp.zeros((1, 1), int))["params"]["embedding"]
    np.testing.assert_allclose(table.var(), 1 / 64, rtol=0.05)


def test_ids_outside_the_vocabulary_give_nan_never_anothers_vector():
    module = TokenEmbedding(vocab_size=5, width=4)
    tokens = jnp.array([[0, 5, -1]])
    out = module.apply(module.init(jax.random.key(0), tokens), tokens)
    assert jnp.isfinite(out[0, 0]).all()
    assert jnp.isnan(out[0, 1:]).all()

"""The cache that stays against the cache that moves, with a real decoder."""

import functools

import jax
import jax.numpy as jnp
import numpy as np

from transformer_jax import Transformer, TransformerConfig
from transformer_jax.decoding.beam import beam_search, repeat_for_beams
from transformer_jax.decoding.beam_cache import BeamCache

BATCH, BEAMS, LENGTH = 5, 3, 9
IDS = dict(batch_size=BATCH, beam_size=BEAMS, bos_id=3, eos_id=10, max_length=LENGTH)
CONFIG = TransformerConfig(
    vocab_size=11,
    width=8,
    num_heads=2,
    feed_forward_dim=12,
    encoder_layers=1,
    decoder_layers=2,
    tied_output=False,  # so that a token does not call for itself
)


def searches():
    """(the cache stays, the cache moves), and the parameters that both are called with."""
    model = Transformer(CONFIG)
    source = np.random.default_rng(0).integers(4, 11, (BATCH, 6))
    valid = np.arange(6) < np.array([6, 2, 4, 5, 1])[:, None]
    leaves, tree = jax.tree.flatten(model.init(jax.random.key(1), source, source)["params"])
    keys = jax.random.split(jax.random.key(7), len(leaves))
    noisy = [x + 0.5 * jax.random.normal(k, x.shape) for x, k in zip(leaves, keys, strict=True)]
    params = jax.tree.unflatten(tree, noisy)  # so that sequences differ and beams overtake

    def prepare(params):
        apply = functools.partial(model.apply, {"params": params})
        encoded = apply(source, segments=valid.astype(np.int32), method="encode")
        return apply, apply(encoded, method="memory")

    def stays(params):
        apply, memory = prepare(params)

        def step(tokens, cache, index):
            cache = cache.reading()
            logits, entries = apply(
                tokens.reshape(BATCH, BEAMS), memory, cache.entries, cache.place,
                positions=index.reshape(BATCH, BEAMS), mask=cache.mask(), source_valid=valid,
                method="decode_step",
            )  # fmt: skip
            return logits.reshape(BATCH * BEAMS, -1), cache.have_read(entries)

        entries = apply(BATCH, LENGTH * BEAMS, method="empty_cache")
        cache = BeamCache.empty(entries, BATCH, BEAMS, LENGTH)
        return beam_search(step, cache, reorder=BeamCache.reorder, **IDS)

    def moves(params):
        apply, memory = prepare(params)
        memory = repeat_for_beams(memory, BEAMS)
        valid_rows = jnp.repeat(valid, BEAMS, axis=0)

        def step(tokens, cache, index):
            return apply(
                tokens, memory, cache, index[0], source_valid=valid_rows, method="decode_step"
            )

        cache = apply(BATCH * BEAMS, LENGTH, method="empty_cache")
        return beam_search(step, cache, **IDS)

    return stays, moves, params


def test_a_cache_that_stays_finds_what_a_cache_that_moves_finds():
    stays, moves, params = searches()
    found, expected = jax.jit(stays)(params), jax.jit(moves)(params)
    assert len(np.unique(expected.tokens[:, 0], axis=0)) >= 4
    assert len(set(expected.lengths.ravel().tolist())) >= 4
    np.testing.assert_array_equal(found.tokens, expected.tokens)
    np.testing.assert_allclose(found.scores, expected.scores, rtol=1e-5)


def test_each_hypothesis_sees_what_its_ancestors_read_and_nothing_else():
    cache = BeamCache.empty(None, 1, 2, 3)
    for parents in ([[1, 1]], [[1, 0]]):
        cache = cache.reading().have_read(None).reorder(jnp.array(parents))
    seen = cache.reading().mask().to_dense(2, 6)[0, 0].reshape(2, 3, 2)  # [K,T,K]
    # Both come from beam 1's first token; beam 0 goes on from what beam 1 read second.
    np.testing.assert_array_equal(
        seen,
        [
            [[False, True], [False, True], [True, False]],
            [[False, True], [True, False], [False, True]],
        ],
    )

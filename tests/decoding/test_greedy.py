import jax
import jax.numpy as jnp
import numpy as np
import pytest

from transformer_jax.decoding.greedy import greedy_search

VOCAB, WIDTH, BOS, EOS, PAD = 6, 5, 1, 2, 0


def make_step(seed, xp=jnp):
    """A small recurrent network: its cache [B,D] depends on all that a row has read."""
    rng = np.random.default_rng(seed)
    embed, inner = rng.normal(size=(VOCAB, WIDTH)), rng.normal(size=(WIDTH, WIDTH))
    outer = 3 * rng.normal(size=(WIDTH, VOCAB))
    embed, inner, outer = (xp.asarray(x) for x in (embed, inner, outer))

    def step(tokens, cache, index):
        cache = xp.tanh(cache @ inner + embed[tokens] + 0.1 * xp.reshape(index, (-1, 1)))
        return cache @ outer, cache

    return step


def make_cache(seed, batch_size=4):
    return np.random.default_rng(seed).normal(size=(batch_size, WIDTH)).astype(np.float32)


def search(seed, cache, max_length=7, **kwargs):
    options = dict(batch_size=len(cache), bos_id=BOS, eos_id=EOS, pad_id=PAD) | kwargs
    return greedy_search(make_step(seed), cache, max_length=max_length, **options)


def by_hand(seed, cache, max_length):
    """The same search as a loop over python integers, for one row."""
    step, token, tokens, score = make_step(seed, np), BOS, [], 0.0
    cache = cache[None]
    while len(tokens) < max_length and token != EOS:
        logits, cache = step(np.array([token]), cache, len(tokens))
        logits = logits[0]
        token = int(np.argmax(logits))
        tokens.append(token)
        score += logits[token] - np.log(np.sum(np.exp(logits)))
    return tokens, score


def test_follows_the_most_likely_token_to_the_end_and_pads():
    lengths = set()
    for seed in range(6):
        cache = make_cache(seed + 100)
        found = search(seed, cache)
        assert found.tokens.shape == (4, 7) and found.tokens.dtype == jnp.int32
        for row in range(4):
            tokens, score = by_hand(seed, cache[row], 7)
            lengths.add(len(tokens))
            assert found.tokens[row].tolist() == tokens + [PAD] * (7 - len(tokens))
            assert found.lengths[row] == len(tokens)
            np.testing.assert_allclose(found.scores[row], score, rtol=1e-5, atol=1e-5)
    assert len(lengths) > 2  # some ended early, some were cut


def test_jit_changes_nothing():
    cache = make_cache(9)
    plain, jitted = search(3, cache), jax.jit(lambda cache: search(3, cache))(cache)
    np.testing.assert_array_equal(plain.tokens, jitted.tokens)
    np.testing.assert_allclose(plain.scores, jitted.scores, rtol=1e-6)


def test_a_row_does_not_depend_on_the_others():
    cache = make_cache(5)
    together = search(1, cache)
    for row in range(4):
        alone = search(1, cache[row : row + 1])
        np.testing.assert_array_equal(alone.tokens[0], together.tokens[row])
        np.testing.assert_allclose(alone.scores[0], together.scores[row], rtol=1e-5)


def test_padding_may_be_the_end_symbol():
    cache = make_cache(5)
    padded, ended = search(1, cache), search(1, cache, pad_id=EOS)
    np.testing.assert_array_equal(padded.lengths, ended.lengths)
    np.testing.assert_array_equal(padded.scores, ended.scores)


def test_stops_reading_when_all_rows_have_ended():
    read = []

    def step(tokens, cache, index):
        jax.debug.callback(lambda i: read.append(int(i)), index[0])
        end = jnp.where(index[0] == 2, EOS, 3)
        return jnp.zeros((2, VOCAB)).at[:, end].set(9.0), cache

    found = greedy_search(step, (), batch_size=2, bos_id=BOS, eos_id=EOS, pad_id=PAD, max_length=50)
    jax.effects_barrier()
    assert sorted(read) == [0, 1, 2]
    assert found.lengths.tolist() == [3, 3]


def test_a_length_of_nothing_is_refused():
    with pytest.raises(ValueError, match="max_length"):
        search(0, jnp.zeros((2, WIDTH)), max_length=0)

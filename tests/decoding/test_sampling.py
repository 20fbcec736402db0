"""Sampling against the exact distribution over all sequences of a tiny vocabulary."""

import collections
import itertools

import jax
import numpy as np
import pytest

from tests.decoding.test_greedy import BOS, EOS, PAD, VOCAB, make_cache, make_step
from transformer_jax.decoding.greedy import greedy_search
from transformer_jax.decoding.sampling import Sampling, sample
from transformer_jax.decoding.token_rules import suppress

IDS = dict(bos_id=BOS, eos_id=EOS, pad_id=PAD)
DRAWS, LENGTH = 20_000, 3


def by_hand(logits, sampling):
    """Probabilities of the next token: the definitions, over sorted lists."""
    logits = logits / sampling.temperature
    order = np.argsort(-logits)[: sampling.top_k or len(logits)]
    probs = np.exp(logits[order] - logits[order].max())
    probs /= probs.sum()
    kept, total = [], 0.0
    for token, prob in zip(order, probs, strict=True):
        kept.append((token, prob))
        total += prob
        if total >= sampling.top_p:
            break
    result = np.zeros(len(logits))
    for token, prob in kept:
        result[token] = prob / total
    return result


def exact_distribution(seed, row, sampling):
    """{sequence: probability} of one row."""
    step, sequences = make_step(seed, np), {}
    alive = [((), 1.0, row[None])]
    for index in range(LENGTH):
        extended = []
        for prefix, prob, cache in alive:
            last = np.array([prefix[-1] if prefix else BOS])
            logits, after = step(last, cache, index)
            for token, p in enumerate(by_hand(logits[0], sampling)):
                if p > 0.0:
                    extended.append(((*prefix, token), prob * p, after))
        alive = [x for x in extended if x[0][-1] != EOS]
        sequences |= {x[0]: x[1] for x in extended if x[0][-1] == EOS or len(x[0]) == LENGTH}
    return sequences


@pytest.mark.parametrize(
    "sampling",
    [
        Sampling(),
        Sampling(temperature=0.5),
        Sampling(temperature=2.0, top_k=3),
        Sampling(top_p=0.7),
        Sampling(temperature=1.5, top_k=4, top_p=0.8),
    ],
)
def test_sequences_come_as_often_as_they_are_probable(sampling):
    row = make_cache(3, 1)[0]
    cache = np.repeat(row[None], DRAWS, axis=0)
    run = jax.jit(
        lambda key: sample(
            make_step(2), cache, key, batch_size=DRAWS, max_length=LENGTH, sampling=sampling, **IDS
        )
    )
    found = jax.device_get(run(jax.random.key(0)))
    counts = collections.Counter(
        tuple(tokens[:length].tolist())
        for tokens, length in zip(found.tokens, found.lengths, strict=True)
    )
    expected = exact_distribution(2, row, sampling)
    assert counts.keys() <= expected.keys()
    for sequence, prob in expected.items():
        deviation = np.sqrt(DRAWS * prob * (1 - prob))
        assert abs(counts[sequence] - DRAWS * prob) < 5 * deviation + 1, sequence


def test_the_likeliest_alone_is_greedy_search():
    cache = make_cache(7)
    common = dict(batch_size=4, max_length=7, **IDS)
    greedy = greedy_search(make_step(1), cache, **common)
    for only in (Sampling(top_k=1), Sampling(top_p=1e-6), Sampling(temperature=1e-4)):
        found = sample(make_step(1), cache, jax.random.key(5), sampling=only, **common)
        np.testing.assert_array_equal(found.tokens, greedy.tokens)
        np.testing.assert_allclose(found.scores, greedy.scores, rtol=1e-5)


def test_scores_are_the_models_whatever_was_drawn_from():
    cache = make_cache(4, 8)
    common = dict(batch_size=8, max_length=5, **IDS)
    found = sample(make_step(4), cache, jax.random.key(1), sampling=Sampling(3.0, 4, 0.9), **common)
    for row in range(8):
        step, state, total = make_step(4, np), cache[row][None], 0.0
        tokens = found.tokens[row, : found.lengths[row]].tolist()
        for i, (last, token) in enumerate(itertools.pairwise([BOS, *tokens])):
            logits, state = step(np.array([last]), state, i)
            total += logits[0, token] - np.log(np.sum(np.exp(logits)))
        np.testing.assert_allclose(found.scores[row], total, rtol=1e-4)


def test_equal_keys_give_equal_sequences_and_a_rule_is_obeyed():
    cache = make_cache(4, 64)
    run = jax.jit(
        lambda key: sample(
            make_step(4), cache, key, batch_size=64, max_length=6, rule=suppress([3, 4]), **IDS
        )
    )
    one, again, other = run(jax.random.key(1)), run(jax.random.key(1)), run(jax.random.key(2))
    np.testing.assert_array_equal(one.tokens, again.tokens)
    assert np.any(one.tokens != other.tokens)
    assert not np.any(np.isin(one.tokens, [3, 4]))
    assert len(np.unique(one.tokens)) > 2 and VOCAB > 5


@pytest.mark.parametrize(
    "options, message",
    [
        (dict(temperature=0.0), "temperature=0.0"),
        (dict(temperature=float("nan")), "temperature=nan"),
        (dict(top_k=0), "top_k=0"),
        (dict(top_p=0.0), "top_p=0.0"),
        (dict(top_p=1.1), "top_p=1.1"),
    ],
)
def test_impossible_settings_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        Sampling(**options)

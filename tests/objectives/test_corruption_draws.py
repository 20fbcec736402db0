"""What corruption draws, against the distributions of the papers.

Fixed seeds: a test of fit fails below a probability of one in a thousand, and does so always.
"""

import jax
import numpy as np
import pytest
from scipy import stats

from transformer_jax.objectives.corruption import MaskingConfig, corrupt, draw_lengths

MASK, SPECIAL, V = 9, (0, 7, 8, 9), 50
ORDINARY = np.setdiff1d(np.arange(V), SPECIAL)
LIKELY = 1e-3
NGRAM_SHARES = np.array([6, 3, 2]) / 11  # proportional to 1, 1/2, 1/3
SPAN_SHARES = np.array([0.2 * 0.8**n for n in range(10)]) / (1 - 0.8**10)


def run(rows, length, config, seed=0, special_ids=SPECIAL, vocab_size=V):
    """Corrupts rows of one text each, whose words have one token: tokens, result, chosen."""
    rng = np.random.default_rng(seed)
    ordinary = np.setdiff1d(np.arange(vocab_size), special_ids)
    tokens = rng.choice(ordinary, (rows, length)).astype(np.int32)
    result = jax.jit(
        lambda seeds: corrupt(
            seeds,
            tokens,
            np.ones((rows, length), np.int32),
            np.ones((rows, length), bool),
            config=config,
            mask_id=MASK,
            special_ids=special_ids,
            vocab_size=vocab_size,
            predictions=length,
        )
    )(np.arange(rows, dtype=np.uint32) + seed * rows)
    chosen = np.zeros((rows, length), bool)
    row, slot = np.nonzero(result.weights)
    chosen[row, np.asarray(result.positions)[row, slot]] = True
    return tokens, np.asarray(result.tokens), chosen


def run_lengths(chosen):
    """How many masked runs there are of each length."""
    edges = np.diff(np.pad(chosen, ((0, 0), (1, 1))).astype(int), axis=1)
    return np.nonzero(edges == -1)[1] - np.nonzero(edges == 1)[1]


@pytest.mark.parametrize(
    "config,shares",
    [(MaskingConfig("ngram"), NGRAM_SHARES), (MaskingConfig("span"), SPAN_SHARES)],
    ids=["ngram", "span"],
)
def test_lengths_are_drawn_from_the_papers_distribution(config, shares):
    lengths = np.asarray(draw_lengths(jax.random.key(1), (200, 100), config))
    counts = np.bincount(lengths.ravel(), minlength=len(shares) + 1)
    assert counts[0] == 0 and len(counts) == len(shares) + 1
    assert stats.chisquare(counts[1:], shares * 20000).pvalue > LIKELY


def test_the_mean_length_of_a_span_is_the_published_one():
    shares = MaskingConfig("span").length_shares()
    assert round(shares @ np.arange(1, 11), 1) == 3.8  # arXiv:1907.10529, section 3.1


def laid_one_by_one(rng, length, quota, shares):
    """The chosen words of a text: spans at random starts, while there is room."""
    covered, chosen = np.zeros(length, bool), np.zeros(length, bool)
    for start in rng.permutation(length):
        count = 1 + rng.choice(len(shares), p=shares)
        words = np.arange(start, min(start + count, length))
        if chosen.sum() < quota and not covered[words].any():
            covered[words] = True
            chosen[words[: quota - chosen.sum()]] = True
    return chosen


@pytest.mark.parametrize(
    "config,shares",
    [(MaskingConfig("ngram"), NGRAM_SHARES), (MaskingConfig("span"), SPAN_SHARES)],
    ids=["ngram", "span"],
)
def test_masked_runs_are_as_long_as_those_of_a_simulation(config, shares):
    rows, length = 400, 100
    rng = np.random.default_rng(5)
    simulated = np.array([laid_one_by_one(rng, length, 15, shares) for _ in range(rows)])
    _, _, chosen = run(rows, length, config)
    assert chosen.sum() == simulated.sum() == rows * 15
    longest = len(shares)  # what is longer consists of several spans: one class
    both = [
        np.bincount(np.minimum(run_lengths(c), longest + 1), minlength=longest + 2)[1:]
        for c in (chosen, simulated)
    ]
    assert stats.chi2_contingency(both).pvalue > LIKELY
    begins = [c & ~np.pad(c, ((0, 0), (1, 0)))[:, :-1] for c in (chosen, simulated)]
    where = [b.reshape(rows, 10, 10).sum((0, 2)) for b in begins]  # runs, as tokens come together
    assert stats.chi2_contingency(where).pvalue > LIKELY


@pytest.mark.parametrize("unit", ["token", "word"])
def test_every_token_is_chosen_equally_often(unit):
    _, _, chosen = run(2000, 20, MaskingConfig(unit))
    counts = chosen.sum(0)
    # 3 of 20 without replacement vary less than independent draws: by a factor of 17/19.
    statistic = ((counts - 300) ** 2 / 300).sum() * 19 / 17
    assert LIKELY < stats.chi2.sf(statistic, 19) < 1 - LIKELY


@pytest.mark.parametrize("unit", ["token", "word", "ngram"])
def test_mask_random_and_kept_have_their_shares(unit):
    tokens, corrupted, chosen = run(1000, 60, MaskingConfig(unit))
    old, new = tokens[chosen], corrupted[chosen]
    counts = [(new == MASK).sum(), ((new != MASK) & (new != old)).sum(), (new == old).sum()]
    hit = 0.1 / len(ORDINARY)  # a random token may be the old one
    assert stats.chisquare(counts, len(old) * np.array([0.8, 0.1 - hit, 0.1 + hit])).pvalue > LIKELY


def test_mask_random_and_kept_have_their_shares_of_spans():
    # With a room of 2, and spans that are hardly ever of one word, a run of 2 is one span.
    config = MaskingConfig("span", rate=0.1, span_p=0.01)
    tokens, corrupted, chosen = run(3000, 20, config)
    one_run = np.array([len(run_lengths(c[None])) == 1 for c in chosen])
    old, new = (x[one_run][chosen[one_run]].reshape(-1, 2) for x in (tokens, corrupted))
    masked, kept = (new == MASK).all(1), (new == old).all(1)
    changed = ((new != MASK) & (new != old)).any(1)  # one of two random tokens may be the old one
    shares = np.array([masked.sum(), changed.sum(), kept.sum()]) / len(new)
    assert len(new) > 2000
    margin = 4 * np.sqrt(np.array([0.16, 0.09, 0.09]) / len(new)) + 0.01  # and some that touch
    assert (np.abs(shares - [0.8, 0.1, 0.1]) < margin).all(), shares
    mixed = ((new == MASK).sum(1) == 1).mean()
    assert mixed < 0.02  # a draw for each token would mix 2 * 0.8 * 0.2 of them


def test_tokens_of_a_span_do_not_share_their_random_token():
    config = MaskingConfig("span", rate=0.5, mask_share=0.0, random_share=1.0)
    _, corrupted, chosen = run(50, 40, config)
    beside = chosen[:, 1:] & chosen[:, :-1]
    assert (corrupted[:, 1:] == corrupted[:, :-1])[beside].mean() < 0.1


@pytest.mark.parametrize("special_ids", [(0, 7, 8, 9), (48, 0, 1, 49, 9, 9), ()])
def test_random_tokens_are_uniform_over_what_is_not_special(special_ids):
    config = MaskingConfig(rate=0.5, mask_share=0.0, random_share=1.0)
    _, corrupted, chosen = run(200, 100, config, seed=1, special_ids=special_ids)
    counts = np.bincount(corrupted[chosen], minlength=V)
    assert len(counts) == V and not counts[list(special_ids)].any()
    assert stats.chisquare(np.delete(counts, list(special_ids))).pvalue > LIKELY


def test_random_tokens_do_not_depend_on_what_was_there():
    config = MaskingConfig(rate=1.0, mask_share=0.0, random_share=1.0)
    tokens, corrupted, _ = run(200, 100, config, special_ids=tuple(range(6, V)))
    table = np.histogram2d(tokens.ravel(), corrupted.ravel(), bins=[np.arange(7)] * 2)[0]
    assert stats.chi2_contingency(table).pvalue > LIKELY

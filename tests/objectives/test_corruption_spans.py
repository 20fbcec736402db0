"""Words, spans and quotas of one row, exactly, against loops that go one by one."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from transformer_jax.objectives.spans import (
    NEVER,
    find_words,
    places,
    spans_apart,
    take_what_fits,
)

T = 24
laid_out = jax.jit(spans_apart, static_argnums=2)
taken_of = jax.jit(take_what_fits)


def lay_one_by_one(rank, counts):
    over = np.full(len(rank), NEVER)
    for start in np.argsort(rank):
        words = slice(start, start + counts[start])
        if (over[words] == NEVER).all():
            over[words] = rank[start]
    return over


def take_one_by_one(groups, order, lengths, room):
    left, taken = dict(zip(groups, room, strict=True)), np.zeros(len(groups), bool)
    for item in np.lexsort((np.arange(len(groups)), order)):
        if 0 < lengths[item] <= left[groups[item]]:
            taken[item] = True
            left[groups[item]] -= lengths[item]
    return taken


def test_places_are_the_flags_in_rising_order():
    flags = jnp.array([0, 1, 1, 0, 0, 1], bool)
    assert places(flags, 2, -1).tolist() == [1, 2]
    assert places(flags, 5, -1).tolist() == [1, 2, 5, -1, -1]


def test_words_end_at_the_next_start_a_special_token_and_a_segments_end():
    #           CLS  a  a  b SEP  c  c | d  d  .  .  padding; d does not say that it begins
    maskable = [0, 1, 1, 1, 0, 1, 1, 1, 1, 0, 0]
    segments = [1, 1, 1, 1, 1, 1, 1, 2, 2, 0, 0]
    begins = [1, 1, 0, 1, 1, 1, 0, 0, 0, 0, 0]
    words = find_words(jnp.array(maskable, bool), jnp.array(segments), jnp.array(begins, bool))
    assert words.starts[:4].tolist() == [1, 3, 5, 7]
    assert words.lengths.tolist() == [2, 1, 2, 2] + [0] * 7
    assert words.segments.tolist() == [1, 1, 1, 2] + [0] * 7
    assert words.rest.tolist() == [2, 1, 1, 1] + [0] * 7
    assert words.of_token[jnp.array([1, 2, 3, 5, 6, 7, 8])].tolist() == [0, 0, 1, 2, 2, 3, 3]


def test_words_at_both_edges_of_a_row():
    flags = jnp.array([1, 0, 1, 0], bool)
    words = find_words(jnp.ones(4, bool), jnp.ones(4, int), flags)
    assert words.starts[:2].tolist() == [0, 2]
    assert words.lengths.tolist() == [2, 2, 0, 0]
    assert words.rest.tolist() == [2, 1, 0, 0]


@pytest.mark.parametrize("longest", [2, 3, 10])
def test_spans_are_laid_as_one_by_one(longest):
    for seed in range(100):
        rng = np.random.default_rng(seed)
        rank = rng.permutation(T).astype(np.int32)
        counts = np.minimum(rng.integers(0, longest + 1, T), T - np.arange(T)).astype(np.int32)
        np.testing.assert_array_equal(
            laid_out(rank, counts, longest), lay_one_by_one(rank, counts), err_msg=f"seed {seed}"
        )


def test_spans_that_each_wait_for_the_next_are_laid_one_by_one():
    rank, counts = np.arange(T, dtype=np.int32), np.full(T, 3, np.int32)
    counts[-2:] = 0
    np.testing.assert_array_equal(laid_out(rank, counts, 3), np.arange(T) // 3 * 3)


def test_items_are_taken_as_one_by_one():
    for seed in range(300):
        rng = np.random.default_rng(seed)
        groups = np.sort(rng.integers(0, 4, T)).astype(np.int32)
        order = rng.integers(0, T, T).astype(np.int32)  # with equals
        lengths = rng.integers(0, 6, T).astype(np.int32)
        room = rng.integers(0, 12, 4).astype(np.int32)[groups]
        np.testing.assert_array_equal(
            taken_of(groups, order, lengths, room),
            take_one_by_one(groups, order, lengths, room),
            err_msg=f"seed {seed}",
        )

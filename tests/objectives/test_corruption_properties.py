"""Corruption of drawn rows: what may change, what may be predicted, and how much of it."""

import functools

import hypothesis.extra.numpy as hnp
import jax
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from transformer_jax.objectives.corruption import Corrupted, MaskingConfig, corrupt, quota

B, T, P, V, RATE = 4, 16, 6, 12, 0.3
PAD, CLS, SEP, MASK = SPECIAL = (0, 5, 6, 11)


@functools.cache
def compiled(unit):
    return jax.jit(
        functools.partial(
            corrupt,
            config=MaskingConfig(unit, rate=RATE),
            mask_id=MASK,
            special_ids=SPECIAL,
            vocab_size=V,
            predictions=P,
        )
    )


@st.composite
def batches(draw):
    """Rows of any tokens, in segments of any lengths and numbers, with padding anywhere."""
    tokens = draw(hnp.arrays(np.int32, (B, T), elements=st.integers(0, V - 1)))
    runs = st.lists(st.tuples(st.integers(0, 3), st.integers(1, T)), min_size=1, max_size=5)
    segments = np.zeros((B, T), np.int32)
    for row in range(B):
        numbers = [number for number, length in draw(runs) for _ in range(length)][:T]
        segments[row, : len(numbers)] = numbers
    starts = draw(hnp.arrays(bool, (B, T)))
    seeds = draw(hnp.arrays(np.uint32, (B,), elements=st.integers(0, 2**32 - 1)))
    return seeds, tokens, segments, starts


@pytest.mark.parametrize("unit", ["token", "word", "ngram", "span"])
@settings(max_examples=40)
@given(batch=batches())
def test_drawn_rows_keep_the_laws(unit, batch):
    seeds, tokens, segments, starts = batch
    found = Corrupted(*map(np.asarray, compiled(unit)(*batch)))
    real = found.weights > 0
    assert np.isin(found.weights, [0, 1]).all()
    chosen = np.zeros((B, T), bool)
    rows, _ = np.nonzero(real)
    chosen[rows, found.positions[real]] = True
    assert chosen.sum() == real.sum()  # no place twice
    fixed = np.isin(tokens, SPECIAL) | (segments == 0)
    assert not (chosen & fixed).any()
    np.testing.assert_array_equal(found.tokens[~chosen], tokens[~chosen])
    np.testing.assert_array_equal(found.targets[real], tokens[chosen])
    assert (np.diff(found.positions, axis=1)[real[:, 1:]] > 0).all()  # rising
    for name in ("positions", "targets", "left", "right", "offset"):
        assert not getattr(found, name)[~real].any()
    assert not np.isin(found.tokens[chosen], [PAD, CLS, SEP]).any()
    assert found.overflow >= 0
    for row in range(B):
        chosen_of, most = 0, 0
        for segment in set(segments[row]) - {0}:
            inside = segments[row] == segment
            count, room = (chosen[row] & inside).sum(), quota((inside & ~fixed[row]).sum(), RATE)
            assert count <= room
            chosen_of, most = chosen_of + count, most + room
        if unit == "token":  # which meets its quota where the row has places
            assert chosen_of == min(most, P)
    if unit == "token":
        wanted = [
            sum(quota(((segments[r] == s) & ~fixed[r]).sum(), RATE) for s in (1, 2, 3))
            for r in range(B)
        ]
        assert found.overflow == sum(max(0, count - P) for count in wanted)


@pytest.mark.parametrize("unit", ["token", "span"])
@settings(max_examples=40)
@given(batch=batches(), order=st.permutations(range(B)))
def test_a_row_does_not_depend_on_the_others(unit, batch, order):
    found, moved = compiled(unit)(*batch), compiled(unit)(*(part[list(order)] for part in batch))
    for name in Corrupted._fields:
        one, other = np.asarray(getattr(found, name)), np.asarray(getattr(moved, name))
        np.testing.assert_array_equal(one[list(order)] if one.ndim else one, other, err_msg=name)

"""The laws of masks over drawn ones: what they hide, however they are merged, cut or explained."""

import hypothesis.extra.numpy as hnp
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from transformer_jax import Mask

B, N, T, S = 2, 2, 4, 5


def ints(*shape, low=0, high=3):
    return hnp.arrays(np.int32, shape, elements=st.integers(low, high))


def maybe(strategy):
    return st.none() | strategy


@st.composite
def masks(draw):
    """A mask of any parts, and the bool [B,N,T,S] that they mean by loops."""
    query_segments, key_segments = draw(
        st.just((None, None))
        | st.tuples(maybe(ints(B, T)), ints(B, S))
    )  # fmt: skip
    places = {
        "query_positions": draw(maybe(ints(draw(st.sampled_from([1, B])), T, high=6))),
        "key_positions": draw(maybe(ints(draw(st.sampled_from([1, B])), S, high=6))),
    }
    shape = [draw(st.sampled_from([1, size])) for size in (B, N, T)]
    dense = draw(maybe(hnp.arrays(bool, (*shape, S))))
    parts = {"query_segments": query_segments, "key_segments": key_segments, "dense": dense}
    parts |= places | {"is_causal": draw(st.booleans()), "window": draw(maybe(st.integers(1, 4)))}
    arrays = {k: jnp.asarray(v) if isinstance(v, np.ndarray) else v for k, v in parts.items()}
    return Mask(**arrays), by_loops(**parts)


def by_loops(
    query_segments, key_segments, query_positions, key_positions, dense, is_causal, window
):
    allowed = np.zeros((B, N, T, S), bool)
    for b, n, t, s in np.ndindex(B, N, T, S):
        q = t if query_positions is None else query_positions[b % len(query_positions), t]
        k = s if key_positions is None else key_positions[b % len(key_positions), s]
        sees = not (is_causal and k > q) and (window is None or abs(int(q) - int(k)) < window)
        if key_segments is not None:
            segment = key_segments[b, s]
            same = query_segments is None or query_segments[b, t] == segment
            sees = sees and segment != 0 and same
        if dense is not None:
            sees = sees and np.broadcast_to(dense, (B, N, T, S))[b, n, t, s]
        allowed[b, n, t, s] = sees
    return allowed


def whole(mask):
    dense = mask.to_dense(T, S)
    return np.broadcast_to(True if dense is None else np.asarray(dense), (B, N, T, S))


def merged(a, b):
    """The merge of two masks; drops the case that is refused."""
    try:
        return a & b
    except ValueError as error:
        assert "over different positions" in str(error)
        assume(False)


@settings(max_examples=120)
@given(masks())
def test_a_mask_hides_what_its_parts_mean(drawn):
    mask, allowed = drawn
    np.testing.assert_array_equal(whole(mask), allowed)
    assert (mask & None) is mask
    np.testing.assert_array_equal(whole(mask & mask), allowed)
    np.testing.assert_array_equal(whole(mask & Mask()), allowed)
    np.testing.assert_array_equal(whole(Mask() & mask), allowed)


@settings(max_examples=60)
@given(masks(), masks(), masks())
def test_merged_masks_allow_what_all_allow_in_any_order(one, two, three):
    (a, of_a), (b, of_b), (c, of_c) = one, two, three
    np.testing.assert_array_equal(whole(merged(a, b)), of_a & of_b)
    np.testing.assert_array_equal(whole(merged(b, a)), of_a & of_b)
    np.testing.assert_array_equal(whole(merged(merged(a, b), c)), of_a & of_b & of_c)
    np.testing.assert_array_equal(whole(merged(a, merged(b, c))), of_a & of_b & of_c)


@settings(max_examples=60)
@given(masks(), st.integers(1, T), st.integers(0, T))
def test_a_block_of_queries_has_its_rows_of_the_mask(drawn, size, start):
    mask, allowed = drawn
    start = min(start, T - size)
    block = mask.query_block(start, size).to_dense(size, S)
    block = np.broadcast_to(True if block is None else np.asarray(block), (B, N, size, S))
    np.testing.assert_array_equal(block, allowed[:, :, start : start + size])


@settings(max_examples=40)
@given(masks())
def test_what_a_mask_says_is_what_it_does(drawn):
    mask, allowed = drawn
    for b, n, t, s in np.ndindex(B, N, T, S):
        said = mask.explain(t, s, batch=b, head=n)
        assert said.startswith(f"query {t} sees key {s}") == allowed[b, n, t, s]


@settings(max_examples=60)
@given(masks(), st.integers(1, 7), st.integers(1, 7))
def test_a_mask_of_other_lengths_is_refused(drawn, queries, keys):
    mask, _ = drawn
    parts = [(mask.query_segments, 1, queries), (mask.key_segments, 1, keys)]
    parts += [(mask.query_positions, 1, queries), (mask.key_positions, 1, keys)]
    parts += [(mask.dense, 3, keys)]
    wrong = any(part is not None and part.shape[axis] != size for part, axis, size in parts)
    wrong |= mask.dense is not None and mask.dense.shape[2] not in (1, queries)
    if wrong:
        with pytest.raises(ValueError, match=r"^Mask\.\w+ has shape"):
            mask.to_dense(queries, keys)
    else:
        dense = mask.to_dense(queries, keys)
        assert dense is None or dense.shape[2] in (1, queries) and dense.shape[3] in (1, keys)


def test_segments_of_queries_without_those_of_keys_are_refused():
    mask = Mask(query_segments=jnp.ones((1, 2), jnp.int32))
    with pytest.raises(ValueError, match="query_segments need key_segments"):
        mask.to_dense(2, 2)
    with pytest.raises(ValueError, match="query_segments need key_segments"):
        Mask.causal() & mask

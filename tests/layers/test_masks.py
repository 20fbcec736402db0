"""Masks: what each part hides, how they merge, and what they say of themselves."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from transformer_jax import Mask


def allows(mask, query_length, key_length, batch=0):
    dense = mask.to_dense(query_length, key_length)
    shape = (max(dense.shape[0], 1), 1, query_length, key_length)
    return np.broadcast_to(np.asarray(dense)[:, :1], shape)[batch, 0].astype(int).tolist()


def test_causal_sees_itself_and_the_past():
    assert allows(Mask.causal(), 3, 3) == [[1, 0, 0], [1, 1, 0], [1, 1, 1]]


def test_window_sees_only_the_near():
    assert allows(Mask.causal(window=2), 3, 3) == [[1, 0, 0], [1, 1, 0], [0, 1, 1]]
    assert allows(Mask(window=1), 2, 2) == [[1, 0], [0, 1]]


def test_padding_hides_keys_never_queries():
    assert allows(Mask.padding(jnp.array([[True, True, False]])), 3, 3) == [[1, 1, 0]] * 3


def test_segments_meet_only_their_own_and_nobody_meets_padding():
    query, key = jnp.array([[1, 2, 0]]), jnp.array([[1, 1, 2, 0]])
    assert allows(Mask.segments(query, key), 3, 4) == [[1, 1, 0, 0], [0, 0, 1, 0], [0, 0, 0, 0]]


def test_given_positions_replace_the_default():
    mask = Mask.causal(query_positions=jnp.array([[2]]))
    assert allows(mask, 1, 4) == [[1, 1, 1, 0]]


def test_and_allows_what_both_allow():
    rng = np.random.default_rng(0)
    parts = [
        Mask.causal(),
        Mask(window=3),
        Mask.padding(jnp.asarray(rng.integers(0, 2, (2, 5)))),
        Mask.segments(jnp.asarray(rng.integers(0, 3, (2, 5)))),
        Mask.from_dense(jnp.asarray(rng.random((2, 1, 5, 5)) < 0.5)),
        Mask.from_dense(jnp.asarray(rng.random((1, 3, 1, 5)) < 0.5)),
    ]
    for a in parts:
        for b in parts:
            want = a.to_dense(5, 5) & b.to_dense(5, 5)
            got = (a & b).to_dense(5, 5)
            np.testing.assert_array_equal(*np.broadcast_arrays(got, want))


def test_and_none_is_itself_and_no_rule_hides_nothing():
    assert (Mask.causal() & None) == Mask.causal()
    assert Mask().to_dense(2, 2) is None


def test_causal_masks_over_different_positions_are_not_merged_silently():
    with pytest.raises(ValueError, match="different positions"):
        Mask.causal() & Mask.causal(query_positions=jnp.array([[1, 2]]))


def test_block_of_queries_equals_the_cut_of_the_whole():
    mask = Mask.causal(window=3) & Mask.segments(jnp.array([[1, 1, 1, 2, 2, 0]]))
    whole = mask.to_dense(6, 6)
    for start in range(4):
        block = jax.jit(lambda i: mask.query_block(i, 3).to_dense(3, 6))(start)
        np.testing.assert_array_equal(block, whole[:, :, start : start + 3])


def test_masks_pass_through_jit_and_vmap():
    mask = Mask.padding(jnp.array([[1, 0], [1, 1]])) & Mask.causal()
    np.testing.assert_array_equal(jax.jit(lambda m: m.to_dense(2, 2))(mask), mask.to_dense(2, 2))
    rows = jax.vmap(lambda v: (Mask.padding(v[None]) & Mask.causal()).to_dense(2, 2)[0])
    np.testing.assert_array_equal(rows(jnp.array([[1, 0], [1, 1]])), mask.to_dense(2, 2))


def test_explains_in_words_what_it_does():
    mask = Mask.causal(window=2) & Mask.segments(jnp.array([[1, 1, 2, 2, 0]]))
    assert mask.explain(1, 0) == "query 1 sees key 0"
    assert mask.explain(2, 1) == (
        "key 1 is hidden from query 2: other segment (1, the query is in 2)"
    )
    assert mask.explain(3, 4) == "key 4 is hidden from query 3: padding, it comes later"
    assert "outside the window of 2" in mask.explain(3, 0)
    assert "dense part" in Mask.from_dense(jnp.zeros((1, 1, 1, 2), bool)).explain(0, 1)


def test_explanation_agrees_with_the_dense_form():
    rng = np.random.default_rng(0)
    mask = (
        Mask.causal(window=3)
        & Mask.segments(jnp.asarray(rng.integers(0, 3, (2, 6))))
        & Mask.from_dense(jnp.asarray(rng.random((1, 2, 6, 6)) < 0.7))
    )
    dense = mask.to_dense(6, 6)
    for b, n, t, s in np.ndindex(2, 2, 6, 6):
        assert ("sees" in mask.explain(t, s, batch=b, head=n)) == bool(dense[b, n, t, s])


@pytest.mark.parametrize(
    "mask,field",
    [
        (Mask.padding(jnp.ones((1, 4))), "key_segments"),
        (Mask.segments(jnp.ones((1, 2), int), jnp.ones((1, 3), int)), "query_segments"),
        (Mask.from_dense(jnp.ones((1, 1, 3, 4), bool)), "dense"),
    ],
)
def test_mask_of_another_length_is_refused_by_name(mask, field):
    with pytest.raises(ValueError, match=f"Mask.{field} has shape"):
        mask.to_dense(3, 3)


def test_dense_mask_must_be_bool_of_rank_four():
    with pytest.raises(ValueError, match="bool"):
        Mask.from_dense(jnp.ones((1, 1, 2, 2)))
    with pytest.raises(ValueError, match="at least 1"):
        Mask.causal(window=0)

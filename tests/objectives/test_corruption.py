"""The laws of masked-language-model corruption on packed rows."""

import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from transformer_jax.objectives.corruption import (
    Corrupted,
    MaskingConfig,
    corrupt,
    predictions_for,
)
from transformer_jax.parallel.mesh import MeshConfig, make_mesh
from transformer_jax.parallel.sharding import batch_sharding

UNITS = ["token", "word", "ngram", "span"]
B, T, P, V = 16, 64, 32, 50
PAD, CLS, SEP, MASK = 0, 7, 8, 9
SPECIAL = (PAD, CLS, SEP, MASK)
EMPTY, ONLY_SPECIAL, WHOLE = 0, 1, 2  # rows
FIELDS = Corrupted._fields


def packed_batch(seed=0):
    """Rows of pairs; the first rows are empty, of specials only, and full of a single text."""
    rng = np.random.default_rng(seed)
    tokens = np.zeros((B, T), np.int32)
    segments = np.zeros((B, T), np.int32)
    starts = np.zeros((B, T), bool)
    for row in range(ONLY_SPECIAL, B):
        at, segment = 0, 1
        while True:
            length = T if row == WHOLE else int(rng.integers(4, 30))
            if at + length > T:
                break
            text = rng.choice(np.setdiff1d(np.arange(V), SPECIAL), length)
            cut = int(rng.integers(1, length - 1))
            text[[0, cut, length - 1]] = CLS, SEP, SEP
            if row == ONLY_SPECIAL:
                text = rng.choice([CLS, SEP], length)
            here = slice(at, at + length)
            special = np.isin(text, SPECIAL)
            tokens[row, here], segments[row, here] = text, segment
            starts[row, here] = special | np.append(True, special[:-1]) | (rng.random(length) < 0.6)
            at, segment = at + length, segment + 1
    return tokens, segments, starts


def seeds(number, rows=B):
    """Seeds of rows, others for each number."""
    return np.arange(rows, dtype=np.uint32) + 1000 * number


def run(seeds, batch, unit="token", predictions=P, **settings):
    return corrupt(
        seeds,
        *batch,
        config=MaskingConfig(unit, **settings),
        mask_id=MASK,
        special_ids=SPECIAL,
        vocab_size=V,
        predictions=predictions,
    )


jitted = jax.jit(run, static_argnums=2, static_argnames=("predictions", "rate"))


def chosen_places(result):
    """The predicted places as a bool [B,T]."""
    chosen = np.zeros(result.tokens.shape, bool)
    rows, slots = np.nonzero(result.weights)
    chosen[rows, np.asarray(result.positions)[rows, slots]] = True
    return chosen


def texts(batch):
    """Row, maskable places and the words (lists of places) of each packed text."""
    tokens, segments, starts = batch
    for row in range(len(tokens)):
        for segment in range(1, segments[row].max() + 1):
            inside = np.flatnonzero(segments[row] == segment)
            maskable = [i for i in inside if tokens[row, i] not in SPECIAL]
            words = []
            for i in maskable:
                if starts[row, i]:
                    words.append([])
                words[-1].append(i)
            yield row, maskable, words


def assert_equal(one, other):
    for name, x, y in zip(FIELDS, one, other, strict=True):
        np.testing.assert_array_equal(x, y, err_msg=name)


@pytest.mark.parametrize("unit", UNITS)
def test_special_tokens_and_padding_are_never_predicted_nor_changed(unit):
    for step in range(20):
        batch = packed_batch(step)
        result = jitted(seeds(step), batch, unit, rate=0.4)
        forbidden = np.isin(batch[0], SPECIAL) | (batch[1] == 0)
        assert not (chosen_places(result) & forbidden).any()
        np.testing.assert_array_equal(result.tokens[forbidden], batch[0][forbidden])


@pytest.mark.parametrize("unit", UNITS)
def test_tokens_that_are_not_predicted_stay_and_targets_are_the_originals(unit):
    batch = packed_batch()
    result = jitted(seeds(3), batch, unit, rate=0.4)
    chosen, weights = chosen_places(result), np.asarray(result.weights)
    np.testing.assert_array_equal(result.tokens[~chosen], batch[0][~chosen])
    assert (np.asarray(result.tokens) != batch[0])[chosen].any()
    originals = np.take_along_axis(batch[0], np.asarray(result.positions), 1)
    np.testing.assert_array_equal(result.targets, originals * (weights > 0))
    for row in range(B):
        count = int(weights[row].sum())
        assert weights[row].tolist() == [1.0] * count + [0.0] * (P - count)
        assert (np.diff(result.positions[row, :count]) > 0).all()
        for name in ("positions", "targets", "left", "right", "offset"):
            assert not getattr(result, name)[row, count:].any(), name


@pytest.mark.parametrize("rate", [0.15, 0.4])
def test_each_text_meets_its_quota_exactly_with_tokens(rate):
    for step in range(20):
        batch = packed_batch(step)
        result = jitted(seeds(step), batch, "token", rate=rate)
        chosen = chosen_places(result)
        for row, maskable, _ in texts(batch):
            wanted = max(1, round(rate * len(maskable))) if maskable else 0
            assert chosen[row, maskable].sum() == wanted
        assert result.overflow == 0


@pytest.mark.parametrize("rate", [0.15, 0.4])
@pytest.mark.parametrize("unit", ["word", "ngram", "span"])
def test_whole_words_fill_the_quota_until_none_fits(unit, rate):
    for step in range(20):
        batch = packed_batch(step)
        chosen = chosen_places(jitted(seeds(step), batch, unit, rate=rate))
        for row, maskable, words in texts(batch):
            assert all(chosen[row, w].all() or not chosen[row, w].any() for w in words)
            quota = max(1, round(rate * len(maskable))) if maskable else 0
            room = quota - chosen[row, maskable].sum()
            assert room >= 0
            assert all(len(w) > room for w in words if not chosen[row, w].any())


def test_rounding_is_pythons_for_every_length():
    # 0.15 * 10 and 0.15 * 30 are halves, and so are others, that float32 would round elsewhere.
    for rate in (0.15, 0.35, 0.1):
        for length in range(1, T + 1):
            tokens = np.full((1, T), 20)
            segments = (np.arange(T) < length)[None].astype(np.int32)
            batch = tokens, segments, np.ones((1, T), bool)
            result = jitted(seeds(0, 1), batch, "token", rate=rate)
            assert result.weights.sum() == max(1, round(rate * length)), (rate, length)


def test_words_of_one_token_meet_the_quota_as_tokens_do():
    tokens, segments, _ = packed_batch()
    batch = tokens, segments, np.ones((B, T), bool)
    counts = [
        [chosen_places(result)[row, maskable].sum() for row, maskable, _ in texts(batch)]
        for result in (jitted(seeds(1), batch, unit) for unit in UNITS)
    ]
    assert counts[0] == counts[1] == counts[2] == counts[3]
    assert sum(counts[0]) > B


@pytest.mark.parametrize("unit", UNITS)
def test_rows_without_maskable_tokens_have_no_predictions(unit):
    batch = packed_batch()
    result = jitted(seeds(0), batch, unit)
    for row in (EMPTY, ONLY_SPECIAL):
        assert not result.weights[row].any()
        np.testing.assert_array_equal(result.tokens[row], batch[0][row])
    assert result.weights[WHOLE].any()


def test_a_text_of_long_words_predicts_the_only_one_that_fits():
    tokens = np.full((1, 12), 20)
    starts = np.isin(np.arange(12), [0, 3, 6, 7, 10])[None]  # words of 3, 3, 1, 3 and 2 tokens
    for unit in ("word", "ngram", "span"):
        for step in range(20):
            batch = tokens, np.ones((1, 12), np.int32), starts
            result = jitted(seeds(step, 1), batch, unit, predictions=4, rate=0.1)
            assert result.positions[0, :2].tolist() == [6, 0]
            assert result.weights.sum() == 1


@pytest.mark.parametrize("unit", UNITS)
def test_equal_seeds_give_equal_results_and_other_seeds_others(unit):
    batch = packed_batch()
    first = jitted(seeds(1), batch, unit)
    assert_equal(first, jitted(seeds(1), batch, unit))
    other = jitted(seeds(2), batch, unit)
    assert (chosen_places(first) != chosen_places(other)).any(axis=1)[WHOLE:].mean() > 0.8


def test_equal_rows_are_corrupted_differently():
    tokens, segments, starts = packed_batch()
    batch = tuple(np.repeat(x[WHOLE][None], B, axis=0) for x in (tokens, segments, starts))
    chosen = chosen_places(jitted(seeds(0), batch, "token"))
    assert len({row.tobytes() for row in chosen}) == B


@pytest.mark.parametrize("unit", UNITS)
def test_jit_changes_nothing(unit):
    batch = packed_batch()
    assert_equal(jitted(seeds(4), batch, unit), run(seeds(4), batch, unit))


@pytest.mark.parametrize("unit", UNITS)
def test_a_row_does_not_depend_on_the_batch_around_it(unit):
    numbers, batch = seeds(6), packed_batch()
    whole = jitted(numbers, batch, unit)
    half = jitted(numbers[: B // 2], tuple(x[: B // 2] for x in batch), unit)
    others = tuple(
        np.concatenate([x[: B // 2], y[B // 2 :]])
        for x, y in zip(batch, packed_batch(1), strict=True)
    )
    for result in (half, jitted(numbers, others, unit)):
        for name in set(FIELDS) - {"overflow"}:
            mine = getattr(result, name)[: B // 2]
            np.testing.assert_array_equal(mine, getattr(whole, name)[: B // 2], err_msg=name)


@pytest.mark.parametrize("unit", UNITS)
def test_eight_devices_choose_as_one_and_need_no_rows_of_each_other(unit):
    layout = batch_sharding(make_mesh(MeshConfig()))
    numbers, batch = seeds(8), packed_batch()
    spread, *split = (jax.device_put(x, layout) for x in (numbers, *batch))
    split = tuple(split)
    sharded = jitted(spread, split, unit, predictions=6)
    assert len(sharded.tokens.sharding.device_set) == 8
    assert not sharded.tokens.sharding.is_fully_replicated
    assert_equal(sharded, jitted(numbers, batch, unit, predictions=6))
    program = jitted.lower(spread, split, unit, predictions=6).compile().as_text()
    crossing = re.findall(r"= (\S+) (?:all-|collective-|reduce-scatter)", program)
    assert crossing and all("[]" in shape for shape in crossing)  # numbers, no arrays


@pytest.mark.parametrize("unit", UNITS)
def test_overflow_is_counted_and_what_overflows_stays_as_it_was(unit):
    batch = packed_batch()
    numbers, small = seeds(2), 5
    full = jitted(numbers, batch, unit, rate=0.5, predictions=T)
    result = jitted(numbers, batch, unit, rate=0.5, predictions=small)
    chosen, all_chosen = chosen_places(result), chosen_places(full)
    assert full.overflow == 0
    assert result.overflow == all_chosen.sum() - chosen.sum() > 0
    assert not (chosen & ~all_chosen).any()
    assert chosen.sum(axis=1).max() <= small
    np.testing.assert_array_equal(result.tokens, np.where(chosen, full.tokens, batch[0]))
    if unit == "token":
        np.testing.assert_array_equal(chosen.sum(1), np.minimum(all_chosen.sum(1), small))
    else:
        for row, _, words in texts(batch):
            assert all(chosen[row, w].all() or not chosen[row, w].any() for w in words)


def test_overflow_does_not_prefer_one_side_of_the_row():
    batch = np.full((500, T), 20), np.ones((500, T), np.int32), np.ones((500, T), bool)
    chosen = chosen_places(jitted(seeds(0, 500), batch, "token", predictions=4, rate=0.5))
    left = chosen[:, : T // 2].sum()  # of 2000, half expected; 5 standard deviations are 112
    assert abs(left - 1000) < 112


@pytest.mark.parametrize("unit", UNITS)
def test_left_right_and_offset_describe_the_masked_run(unit):
    batch = packed_batch()
    result = jax.tree.map(np.asarray, jitted(seeds(9), batch, unit, rate=0.4))
    chosen = chosen_places(result)
    longest = 0
    for row, slot in zip(*np.nonzero(result.weights), strict=True):
        first = last = int(result.positions[row, slot])
        while chosen[row, first - 1]:
            first -= 1
        while chosen[row, last + 1]:
            last += 1
        assert result.left[row, slot] == first - 1
        assert result.right[row, slot] == last + 1
        assert result.offset[row, slot] == result.positions[row, slot] - first + 1
        longest = max(longest, last - first + 1)
    assert longest > 1


def test_masked_runs_stop_at_the_rows_and_the_texts_edges():
    segments = np.array([[1, 1, 2, 2]], np.int32)
    batch = np.full((1, 4), 20), segments, np.ones((1, 4), bool)
    result = jitted(seeds(0, 1), batch, "token", predictions=4, rate=1.0)
    assert result.left.tolist() == [[0, 0, 1, 1]]
    assert result.right.tolist() == [[2, 2, 3, 3]]
    assert result.offset.tolist() == [[1, 2, 1, 2]]


@pytest.mark.parametrize("rate", [0.05, 0.15, 0.4])
def test_one_text_always_has_room(rate):
    for length in range(1, 600):
        room = predictions_for(length, rate)
        assert max(1, round(rate * length)) <= room <= min(length, rate * length + 5)


def test_room_of_the_published_lengths():
    assert (predictions_for(128, 0.15), predictions_for(512, 0.15)) == (20, 80)


@pytest.mark.parametrize(
    "settings",
    [
        {"unit": "letters"},
        {"rate": 0.0},
        {"rate": 1.5},
        {"span_p": 0.0},
        {"max_ngram": 0},
        {"span_max": 0},
        {"mask_share": -0.1},
        {"mask_share": 0.95},
    ],
)
def test_settings_out_of_range_are_refused(settings):
    with pytest.raises(ValueError, match="|".join(settings)):
        MaskingConfig(**settings)


def test_what_cannot_be_honoured_is_refused():
    batch, numbers = packed_batch(), seeds(0)
    with pytest.raises(ValueError, match="predictions=65"):
        run(numbers, batch, predictions=T + 1)
    config, common = MaskingConfig(), {"predictions": P, "vocab_size": 10}
    with pytest.raises(ValueError, match="mask_id=10"):
        corrupt(numbers, *batch, config=config, mask_id=10, special_ids=(), **common)
    with pytest.raises(ValueError, match="leave some ids"):
        corrupt(numbers, *batch, config=config, mask_id=1, special_ids=tuple(range(10)), **common)


def test_types_are_int32_and_float32():
    result = jax.eval_shape(lambda: run(seeds(0), packed_batch()))
    floats = {name for name in FIELDS if getattr(result, name).dtype == jnp.float32}
    assert floats == {"weights"}
    assert all(getattr(result, name).dtype == jnp.int32 for name in set(FIELDS) - floats)

"""Beam search against two references in plain python, and the laws of its interface."""

import functools
import itertools
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from transformer_jax.decoding.beam import beam_search, reorder_rows, repeat_for_beams
from transformer_jax.decoding.greedy import greedy_search
from transformer_jax.decoding.length_score import gnmt_length_penalty, length_penalty
from transformer_jax.decoding.token_rules import all_of, force_end, suppress

WIDTH, BOS, EOS, PAD = 5, 1, 2, 0
RULES = [gnmt_length_penalty, length_penalty]


def make_step(seed, vocab=4, xp=jnp):
    """A small recurrent network, in jax or (xp=np) in numpy with double precision.

    Its cache depends on all that a row has read, and has two leaves, so that one that is left in
    the old order is noticed.
    """
    rng = np.random.default_rng(seed)
    embed, inner = rng.normal(size=(vocab, WIDTH)), rng.normal(size=(WIDTH, WIDTH))
    outer, other = 2 * rng.normal(size=(2, WIDTH, vocab))
    embed, inner, outer, other = (xp.asarray(x) for x in (embed, inner, outer, other))

    def step(tokens, cache, index):
        state = xp.tanh(cache["state"] @ inner + embed[tokens] + 0.1 * xp.reshape(index, (-1, 1)))
        mean = 0.8 * cache["mean"] + 0.2 * embed[tokens]
        return state @ outer + mean @ other, {"state": state, "mean": mean}

    return step


def make_cache(seed, batch_size):
    rng = np.random.default_rng(1000 + seed)
    shape = (batch_size, WIDTH)
    return {name: rng.normal(size=shape).astype(np.float32) for name in ("state", "mean")}


def searcher(step, beam_size, max_length, **kwargs):
    """Makes cache -> BeamResult, not jitted."""

    def search(cache):
        return beam_search(
            step,
            repeat_for_beams(cache, beam_size),
            batch_size=len(cache["state"]),
            beam_size=beam_size,
            bos_id=BOS,
            eos_id=EOS,
            pad_id=PAD,
            max_length=max_length,
            **kwargs,
        )

    return search


def search(step, cache, beam_size, max_length, **kwargs):
    return jax.jit(searcher(step, beam_size, max_length, **kwargs))(cache)


def row_of(cache, row):
    return jax.tree.map(lambda leaf: leaf[row : row + 1], cache)


def log_prob_table(seed, cache, vocab, max_length):
    """Next-token log-probabilities [V] after every sequence of a row, as {tuple: array}."""
    step, table, prefixes = make_step(seed, vocab, np), {}, [()]
    for length in range(max_length):
        last = np.array([prefix[-1] if prefix else BOS for prefix in prefixes])
        logits, cache = step(last, cache, length)
        log_probs = logits - np.log(np.sum(np.exp(logits), axis=1, keepdims=True))
        table |= dict(zip(prefixes, log_probs, strict=True))
        prefixes = [(*prefix, token) for prefix in prefixes for token in range(vocab)]
        cache = {name: np.repeat(leaf, vocab, axis=0) for name, leaf in cache.items()}
    return table


def total(table, sequence):
    return sum(table[sequence[:i]][token] for i, token in enumerate(sequence))


def best_of_all(table, rule, vocab, max_length):
    """All sequences of a row with their scores: ended ones best first, then cut ones."""
    ended = []
    others = [token for token in range(vocab) if token != EOS]
    for length in range(max_length):
        for prefix in itertools.product(others, repeat=length):
            ended.append((*prefix, EOS))
    cut = list(itertools.product(others, repeat=max_length))
    return [
        (sequence, score)
        for group in (ended, cut)
        for sequence, score in sorted(
            ((s, float(rule(total(table, s), len(s)))) for s in group), key=lambda x: -x[1]
        )
    ]


def is_done_by_hand(mode, alpha, best, length, finished, beam_size, max_length):
    """When `transformers` (GenerationMixin._beam_search) ends a row; the rule is length^alpha."""
    if len(finished) < beam_size:
        return False
    at = max_length if mode == "never" and alpha > 0 else length
    return mode == "full" or best / at**alpha <= finished[-1][1]


def beam_by_hand(table, rule, vocab, beam_size, max_length, is_done=None):
    """Beam search over lists: ended ones best first, then cut ones. It ends at max_length only,
    or when is_done(log-probability of the best alive, length, ended)."""
    alive, ended = [((), 0.0)], []
    for length in range(1, max_length + 1):
        extended = [
            ((*prefix, token), log_prob + table[prefix][token])
            for prefix, log_prob in alive
            for token in range(vocab)
        ]
        extended = sorted(extended, key=lambda x: -x[1])[: 2 * beam_size]
        ended += [(s, float(rule(p, length))) for s, p in extended[:beam_size] if s[-1] == EOS]
        ended = sorted(ended, key=lambda x: -x[1])[:beam_size]
        alive = [(s, p) for s, p in extended if s[-1] != EOS][:beam_size]
        if is_done is not None and is_done(alive[0][1], length, ended):
            return ended
    cut = [(s, float(rule(p, max_length))) for s, p in alive]
    return (ended + cut)[:beam_size]


def assert_finds(found, row, expected):
    """Row `row` of a result is the list `expected` of (sequence, score)."""
    found = jax.tree.map(lambda x: np.asarray(x)[row], found)
    beam_size, max_length = found.tokens.shape
    assert len(expected) >= beam_size
    for k, (sequence, score) in enumerate(expected[:beam_size]):
        padding = [PAD] * (max_length - len(sequence))
        assert found.tokens[k].tolist() == [*sequence, *padding], k
        assert found.lengths[k] == len(sequence)
        np.testing.assert_allclose(found.scores[k], score, rtol=1e-5, atol=1e-5)


def search_by_alpha(step, rule, beam_size, max_length):
    """A jitted (cache, alpha) -> BeamResult: alpha is traced, so it is compiled only once."""
    return jax.jit(lambda cache, a: searcher(step, beam_size, max_length, score=rule(a))(cache))


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("vocab, max_length", [(4, 4), (3, 5)])
def test_enough_beams_find_the_best_of_all_sequences(rule, vocab, max_length):
    cache, beam_size = make_cache(0, 2), vocab * (vocab - 1) ** (max_length - 1)
    run = search_by_alpha(make_step(0, vocab), rule, beam_size, max_length)
    tables = [log_prob_table(0, row_of(cache, row), vocab, max_length) for row in range(2)]
    for alpha in (0.0, 0.6, 1.0):
        found = run(cache, alpha)
        for row, table in enumerate(tables):
            assert_finds(found, row, best_of_all(table, rule(alpha), vocab, max_length))


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("beam_size", [1, 2, 3])
def test_few_beams_find_what_a_search_without_early_end_finds(rule, beam_size):
    vocab, max_length, rows = 4, 6, range(12)
    cache = make_cache(beam_size, len(rows))
    run = search_by_alpha(make_step(beam_size, vocab), rule, beam_size, max_length)
    tables = [log_prob_table(beam_size, row_of(cache, row), vocab, max_length) for row in rows]
    for alpha in (-1.0, 0.0, 0.6, 1.0, 2.0):  # -1 favours short sequences
        found = run(cache, alpha)
        for row, table in enumerate(tables):
            expected = beam_by_hand(table, rule(alpha), vocab, beam_size, max_length)
            assert_finds(found, row, expected)


@pytest.mark.parametrize("mode", ["never", "heuristic", "full"])
@pytest.mark.parametrize("alpha", [0.0, 1.0, 2.0])
def test_early_stopping_is_that_of_transformers(mode, alpha):
    vocab, beam_size, max_length, rows = 4, 3, 8, range(16)
    cache = make_cache(20, len(rows))
    step = make_step(20, vocab)
    found = search(
        step, cache, beam_size, max_length, score=length_penalty(alpha), early_stopping=mode
    )
    assert np.all(found.done)
    others = 0
    for row in rows:
        table = log_prob_table(20, row_of(cache, row), vocab, max_length)
        is_done = functools.partial(
            is_done_by_hand, mode, alpha, beam_size=beam_size, max_length=max_length
        )
        args = table, length_penalty(alpha), vocab, beam_size, max_length
        expected = beam_by_hand(*args, lambda *now, end=is_done: end(*now))
        assert_finds(found, row, expected)
        others += expected != beam_by_hand(*args)
    loses_something = mode == "full" or (mode == "heuristic" and alpha > 0)
    assert (others > 0) == loses_something  # so that the modes are told apart


def test_rules_are_obeyed_and_leave_other_tokens_as_they_are():
    vocab, max_length = 5, 4
    cache, unwanted = make_cache(8, 2), 3
    rule = all_of([suppress([unwanted]), force_end(EOS, max_length)])
    found = search(make_step(8, vocab), cache, 100, max_length, rule=rule)
    for row in range(2):
        table = log_prob_table(8, row_of(cache, row), vocab, max_length)
        for prefix, log_probs in table.items():
            log_probs[unwanted] = -np.inf
            if len(prefix) == max_length - 1:
                log_probs[:] = -np.inf
                log_probs[EOS] = 0.0
        everything = best_of_all(table, gnmt_length_penalty(0.6), vocab, max_length)
        possible = [(s, score) for s, score in everything if score > -np.inf]
        count = int(np.sum(np.asarray(found.scores[row]) > -np.inf))
        assert count == len(possible) < 100
        padding = [((), -np.inf)] * (100 - count)
        assert_finds(found, row, possible + padding)


def test_a_bonus_is_added_to_what_ends():
    """A bonus that depends on all that was read, so that one of another beam is noticed."""
    vocab, max_length, beam_size = 4, 4, 4 * 3**3
    cache = make_cache(9, 2)
    bonus = lambda cache: -jnp.abs(cache["mean"]).sum(axis=-1)  # noqa: E731
    found = search(make_step(9, vocab), cache, beam_size, max_length, bonus=bonus)

    def score(row, sequence):
        step, state, total = make_step(9, vocab, np), row_of(cache, row), 0.0
        for i, (last, token) in enumerate(zip((BOS, *sequence), sequence, strict=False)):
            logits, state = step(np.array([last]), state, i)
            total += logits[0, token] - np.log(np.sum(np.exp(logits)))
        return gnmt_length_penalty(0.6)(total, len(sequence)) - np.abs(state["mean"]).sum()

    for row in range(2):
        table = log_prob_table(9, row_of(cache, row), vocab, max_length)
        everything = best_of_all(table, gnmt_length_penalty(0.6), vocab, max_length)
        ended = [(s, score(row, s)) for s, _ in everything if s[-1] == EOS]
        ended.sort(key=lambda x: -x[1])
        first = {name: getattr(found, name)[:, : len(ended)] for name in found._fields[:3]}
        assert_finds(found._replace(**first), row, ended)


def test_fewer_steps_find_the_same_where_they_were_enough():
    step, cache = make_step(5, vocab=5), make_cache(5, 12)
    whole = search(step, cache, 2, 12)
    some = search(step, cache, 2, 12, steps=5)
    assert np.all(whole.done)
    assert 0 < np.sum(some.done) < 12
    assert some.tokens.shape[2] == 5
    for row in np.flatnonzero(some.done):
        np.testing.assert_array_equal(some.tokens[row], whole.tokens[row, :, :5])
        np.testing.assert_allclose(some.scores[row], whole.scores[row], rtol=1e-6)


def test_stops_when_no_alive_hypothesis_can_enter_the_best():
    read = []

    def step(tokens, cache, index):
        jax.debug.callback(lambda i: read.append(int(i)), index[0])
        likely = jnp.where(index[0] == 0, jnp.array([0.0, 0, 0, 5]), jnp.array([0.0, 0, 9, 1]))
        return jnp.broadcast_to(likely, (6, 4)), cache

    found = beam_search(
        step, (), batch_size=3, beam_size=2, bos_id=BOS, eos_id=EOS, pad_id=PAD, max_length=60,
        score=gnmt_length_penalty(0.6),
    )  # fmt: skip
    jax.effects_barrier()
    assert found.tokens[0, 0, :3].tolist() == [3, EOS, PAD]
    assert len(read) < 10


@pytest.mark.parametrize("alpha, end_first, length", [(1.0, 0.9, 40), (-1.0, 0.3, 2)])
def test_does_not_stop_while_a_better_sequence_can_be_reached(alpha, end_first, length):
    """The end is possible at once, and then certain at `length`, which the rule scores higher."""

    def step(tokens, cache, index):
        end = jnp.where(index[0] == 0, end_first, jnp.where(index[0] == length - 1, 1.0, 0.0))
        return jnp.log(jnp.stack([0.0, 0.0, end, 1.0 - end]))[None], cache

    found = beam_search(
        step, (), batch_size=1, beam_size=1, bos_id=BOS, eos_id=EOS, max_length=40,
        score=length_penalty(alpha),
    )  # fmt: skip
    assert found.lengths.tolist() == [[length]]
    expected = np.log(1.0 - end_first) / length**alpha
    assert expected > np.log(end_first)
    np.testing.assert_allclose(found.scores[0, 0], expected, rtol=1e-5)


def test_scores_are_those_of_the_returned_tokens():
    step, cache, rule = make_step(7, vocab=9), make_cache(7, 3), gnmt_length_penalty(0.6)
    found = search(step, cache, 4, 8, score=rule)
    found = jax.tree.map(np.asarray, found)
    state = {name: np.repeat(leaf, 4, axis=0) for name, leaf in cache.items()}
    last, log_prob, again = np.full((12,), BOS), 0.0, make_step(7, 9, np)
    for i in range(8):
        logits, state = again(last, state, i)
        last = found.tokens[:, :, i].reshape(12)
        picked = logits[np.arange(12), last] - np.log(np.sum(np.exp(logits), axis=1))
        log_prob += np.where(i < found.lengths.reshape(12), picked, 0.0)
    expected = rule(log_prob.reshape(3, 4), found.lengths)
    np.testing.assert_allclose(found.scores, expected, rtol=1e-5)
    ended = np.take_along_axis(found.tokens, found.lengths[:, :, None] - 1, axis=2)[:, :, 0]
    assert np.all((ended == EOS) | (found.lengths == 8))


def greedy_and_one_beam(step, cache, max_length):
    found = search(step, cache, 1, max_length, score=gnmt_length_penalty(0.0))
    ids = dict(bos_id=BOS, eos_id=EOS, pad_id=PAD)
    batch_size = len(cache["state"])
    run = functools.partial(
        greedy_search, step, max_length=max_length, batch_size=batch_size, **ids
    )
    return jax.jit(run)(cache), found


def test_one_beam_is_greedy_search():
    greedy, found = greedy_and_one_beam(make_step(11, 6), make_cache(11, 16), 8)
    assert len(set(greedy.lengths.tolist())) > 2
    np.testing.assert_array_equal(found.tokens[:, 0], greedy.tokens)
    np.testing.assert_array_equal(found.lengths[:, 0], greedy.lengths)
    np.testing.assert_allclose(found.scores[:, 0], greedy.scores, rtol=1e-5, atol=1e-6)


def test_cache_may_have_its_rows_on_another_axis():
    step, cache = make_step(3, vocab=7), make_cache(3, 3)

    def turned(tokens, cache, index):
        logits, cache = step(tokens, jax.tree.map(lambda x: x[0].T, cache), index)
        return logits, jax.tree.map(lambda x: x.T[None], cache)

    def search_turned(cache):
        cache = repeat_for_beams(jax.tree.map(lambda x: x.T[None], cache), 3, axis=2)
        return beam_search(
            turned, cache, batch_size=3, beam_size=3, bos_id=BOS, eos_id=EOS, max_length=6,
            reorder=functools.partial(reorder_rows, axis=2),
        )  # fmt: skip

    expected, found = search(step, cache, 3, 6), jax.jit(search_turned)(cache)
    np.testing.assert_array_equal(found.tokens, expected.tokens)
    np.testing.assert_allclose(found.scores, expected.scores, rtol=1e-5)


def test_jit_changes_nothing():
    step, cache = make_step(4, vocab=7), make_cache(4, 3)
    run = searcher(step, 3, 6)
    plain, jitted = run(cache), jax.jit(run)(cache)
    np.testing.assert_array_equal(plain.tokens, jitted.tokens)
    np.testing.assert_array_equal(plain.lengths, jitted.lengths)
    np.testing.assert_allclose(plain.scores, jitted.scores, rtol=1e-6)


def test_a_row_does_not_depend_on_the_others():
    step, cache = make_step(5, vocab=5), make_cache(5, 6)
    run = jax.jit(searcher(step, 2, 9))
    together = run(cache)
    assert len(set(together.lengths[:, 0].tolist())) > 1
    for row in range(6):
        alone = run(row_of(cache, row))
        np.testing.assert_array_equal(alone.tokens[0], together.tokens[row])
        np.testing.assert_allclose(alone.scores[0], together.scores[row], rtol=1e-5)


def test_rows_on_several_devices_find_the_same():
    step, cache = make_step(6, vocab=7), make_cache(6, 8)
    mesh = jax.make_mesh((8,), ("data",), axis_types=(jax.sharding.AxisType.Auto,))
    spread = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec("data"))
    run = jax.jit(searcher(step, 3, 6))
    one, several = run(cache), run(jax.device_put(cache, spread))
    np.testing.assert_array_equal(one.tokens, several.tokens)
    np.testing.assert_allclose(one.scores, several.scores, rtol=1e-5)


def test_the_cache_stays_on_the_device_of_its_row():
    """XLA for CPU gathers the operand of top_k between devices; nothing else may move."""
    cache = make_cache(6, 8)
    mesh = jax.make_mesh((8,), ("data",), axis_types=(jax.sharding.AxisType.Auto,))
    spread = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec("data"))
    run = jax.jit(searcher(make_step(6, vocab=7), 3, 6), in_shardings=spread)
    program = run.lower(cache).compile().as_text()
    moved = re.findall(r"(?:all-gather|all-to-all|collective-permute)\(.*", program)
    assert moved and all("top_k" in line for line in moved)


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
def test_where_sequences_run_out_the_rest_is_empty(dtype):
    """Only tokens 3 and then the end are possible, so there is one sequence for four beams."""

    def step(tokens, cache, index):
        only = jnp.where(index[0] == 0, 3, EOS)
        return jnp.full((8, 5), -jnp.inf, dtype).at[:, only].set(1.0), cache

    found = beam_search(
        step, (), batch_size=2, beam_size=4, bos_id=BOS, eos_id=EOS, pad_id=PAD, max_length=5
    )
    assert found.tokens[0].tolist() == [[3, EOS, 0, 0, 0]] + [[PAD] * 5] * 3
    assert found.lengths[1].tolist() == [2, 0, 0, 0]
    assert found.scores[0].tolist() == [0.0] + [-np.inf] * 3
    assert found.scores.dtype == jnp.float32


def test_rows_of_the_cache_that_are_missing_are_refused():
    step, cache = make_step(0), make_cache(0, 2)
    ids = dict(bos_id=BOS, eos_id=EOS, max_length=3)
    with pytest.raises(ValueError, match=r"\['mean'\].*= 6 rows on axis 0"):
        beam_search(step, cache, batch_size=2, beam_size=3, **ids)
    with pytest.raises(ValueError, match="beam_size=0"):
        beam_search(step, cache, batch_size=2, beam_size=0, **ids)

import dataclasses
import itertools
import json

import numpy as np
import pytest

from transformer_jax.data.packing import pack
from transformer_jax.data.pipeline import DataState, Ragged, batches, pack_pairs, pair_lengths

BOS, EOS = 1, 2


def random_texts(n, seed):
    random = np.random.default_rng(seed)
    return Ragged.from_lists([random.integers(3, 99, random.integers(0, 9)) for _ in range(n)])


def corpus(n=43, capacity=(16, 16)):
    """A plan and a build of a small corpus, as a task would make them."""
    source, target = random_texts(n, 0), random_texts(n, 1)
    lengths = pair_lengths(source, target)

    def plan(epoch):
        return pack(lengths, capacity, seed=0, epoch=epoch)

    def build(rows):
        return pack_pairs(source, target, rows, capacity=capacity, bos_id=BOS, eos_id=EOS)

    return plan, build


def take(n, **settings):
    return list(itertools.islice(batches(*corpus(), **settings), n))


def assert_same(batch, other):
    assert batch.keys() == other.keys()
    for name in batch:
        np.testing.assert_array_equal(batch[name], other[name], err_msg=name)
        assert batch[name].dtype == other[name].dtype == np.int32


def test_ragged_gives_back_the_lists():
    lists = [[5, 6, 7], [], [8], []]
    ragged = Ragged.from_lists(lists)
    assert len(ragged) == 4
    assert [r.tolist() for r in ragged] == lists
    assert ragged[-2].tolist() == [8]
    assert ragged.lengths.tolist() == [3, 0, 1, 0]
    assert ragged.tokens.dtype == np.int32
    with pytest.raises(IndexError):
        ragged[4]


def test_select_copies_sequences_in_the_order_asked_for():
    ragged = Ragged.from_lists([[5, 6, 7], [], [8], [9, 9]])
    for ids in ([2, 0, 0, 1], [1], []):
        chosen = ragged.select(np.array(ids, np.int64))
        assert [r.tolist() for r in chosen] == [ragged[i].tolist() for i in ids]


def test_an_empty_ragged_holds_nothing():
    ragged = Ragged.from_lists([])
    assert len(ragged) == 0
    assert list(ragged) == []


def test_a_row_is_laid_out_as_written_by_hand():
    source = Ragged.from_lists([[10, 11], [12], [13, 14, 15]])
    target = Ragged.from_lists([[20], [21, 22, 23], []])
    rows = [np.array([1, 0]), np.array([], np.int64), np.array([2])]
    batch = pack_pairs(source, target, rows, capacity=(6, 7), bos_id=BOS, eos_id=EOS)
    zeros6, zeros7 = [0] * 6, [0] * 7
    expected = {
        "source": [[12, EOS, 10, 11, EOS, 0], zeros6, [13, 14, 15, EOS, 0, 0]],
        "source_segments": [[1, 1, 2, 2, 2, 0], zeros6, [1, 1, 1, 1, 0, 0]],
        "source_positions": [[0, 1, 0, 1, 2, 0], zeros6, [0, 1, 2, 3, 0, 0]],
        "target_inputs": [[BOS, 21, 22, 23, BOS, 20, 0], zeros7, [BOS, 0, 0, 0, 0, 0, 0]],
        "targets": [[21, 22, 23, EOS, 20, EOS, 0], zeros7, [EOS, 0, 0, 0, 0, 0, 0]],
        "target_segments": [[1, 1, 1, 1, 2, 2, 0], zeros7, [1, 0, 0, 0, 0, 0, 0]],
        "target_positions": [[0, 1, 2, 3, 0, 1, 0], zeros7, zeros7],
    }
    assert_same(batch, {name: np.array(rows, np.int32) for name, rows in expected.items()})


def test_every_pair_can_be_read_back_from_the_batch():
    source, target = random_texts(30, 0), random_texts(30, 1)
    rows = pack(pair_lengths(source, target), (24, 20), seed=0, epoch=0)
    batch = pack_pairs(source, target, rows, capacity=(24, 20), bos_id=BOS, eos_id=EOS)
    for b, row in enumerate(rows):
        for segment, example in enumerate(row, 1):
            here = batch["source_segments"][b] == segment
            assert batch["source"][b][here].tolist() == [*source[example], EOS]
            assert batch["source_positions"][b][here].tolist() == list(range(here.sum()))
            here = batch["target_segments"][b] == segment
            assert batch["target_inputs"][b][here].tolist() == [BOS, *target[example]]
            assert batch["targets"][b][here].tolist() == [*target[example], EOS]
        assert batch["source_segments"][b].max() == batch["target_segments"][b].max() == len(row)


def test_padding_is_zero_everywhere():
    plan, build = corpus()
    batch = build(plan(0))
    for side, names in (
        ("source", ["source", "source_positions"]),
        ("target", ["targets", "target_inputs", "target_positions"]),
    ):
        padding = batch[f"{side}_segments"] == 0
        assert padding.any()
        assert not any(batch[name][padding].any() for name in names)


def test_rows_without_examples_make_a_batch_of_zeros():
    _, build = corpus()
    batch = build([np.zeros(0, np.int64)] * 3)
    assert len(batch) == 7
    assert all(array.shape == (3, 16) and not array.any() for array in batch.values())


def test_a_row_that_does_not_fit_is_refused():
    texts = Ragged.from_lists([[3], [4, 5], [6, 7, 8]])
    rows = [np.array([0]), np.array([1, 2])]
    with pytest.raises(ValueError, match="row 1 has more than 6 target tokens"):
        pack_pairs(texts, texts, rows, capacity=(7, 6), bos_id=BOS, eos_id=EOS)


def test_sources_and_targets_come_in_pairs():
    with pytest.raises(ValueError, match="2 sources cannot be paired with 1 targets"):
        pair_lengths(Ragged.from_lists([[3], [4]]), Ragged.from_lists([[3]]))


@pytest.mark.parametrize("hosts", [2, 4])
def test_slices_of_all_hosts_put_together_are_the_batch_of_one_host(hosts):
    whole = take(9, batch_size=4)
    parts = [take(9, batch_size=4, process_index=h, process_count=hosts) for h in range(hosts)]
    assert whole[-1][1].epoch > 0  # the last, partly empty batch of an epoch is among them
    for (batch, state), *slices in zip(whole, *parts, strict=True):
        assert all(other == state for _, other in slices)
        joined = {k: np.concatenate([part[k] for part, _ in slices]) for k in batch}
        assert_same(batch, joined)


def test_every_state_continues_bitwise_after_its_batch():
    run = take(14, batch_size=4)
    assert run[-1][1].epoch >= 1
    for index, (_, state) in enumerate(run[:-1]):
        again = take(len(run) - index - 1, batch_size=4, start=state)
        for (batch, after), (other, other_after) in zip(run[index + 1 :], again, strict=True):
            assert after == other_after
            assert_same(batch, other)


def test_a_run_continues_on_another_number_of_hosts():
    run = take(6, batch_size=4)
    halves = [
        take(3, batch_size=4, start=run[2][1], process_index=h, process_count=2) for h in (0, 1)
    ]
    for (batch, _), (left, _), (right, _) in zip(run[3:], *halves, strict=True):
        assert_same(batch, {k: np.concatenate([left[k], right[k]]) for k in batch})


def test_an_epoch_reads_each_row_once_and_fills_its_last_batch_with_empty_rows():
    plan, build = corpus()
    rows = plan(0)
    count = -(-len(rows) // 4)
    assert len(rows) % 4, "the law needs a last batch that is not full"
    epoch = take(count, batch_size=4)
    read = {k: np.concatenate([batch[k] for batch, _ in epoch]) for k in epoch[0][0]}
    assert_same({k: v[: len(rows)] for k, v in read.items()}, build(rows))
    assert len(read["source"]) == 4 * count
    assert not any(v[len(rows) :].any() for v in read.values())


def test_the_state_counts_batches_and_rolls_over_to_the_next_epoch():
    plan = [[np.array([0])] * 5, [np.array([0])] * 2].__getitem__
    stream = batches(lambda epoch: plan(epoch % 2), lambda rows: {}, batch_size=2)
    states = [dataclasses.astuple(state) for _, state in itertools.islice(stream, 6)]
    assert states == [(0, 1), (0, 2), (1, 0), (2, 0), (2, 1), (2, 2)]


def test_epochs_differ():
    count = -(-len(corpus()[0](0)) // 4)
    run = take(2 * count, batch_size=4)
    assert not np.array_equal(run[0][0]["source"], run[count][0]["source"])


def test_prefetching_changes_nothing():
    for (batch, state), (other, other_state) in zip(
        take(9, batch_size=4, prefetch=0), take(9, batch_size=4, prefetch=7), strict=True
    ):
        assert state == other_state
        assert_same(batch, other)


def test_a_state_survives_json():
    state = DataState(epoch=3, batch=14)
    assert DataState(**json.loads(json.dumps(dataclasses.asdict(state)))) == state


@pytest.mark.parametrize(
    "settings",
    [
        {"batch_size": 4, "process_count": 3},
        {"batch_size": 0},
        {"batch_size": 4, "process_index": 2, "process_count": 2},
    ],
)
def test_hosts_that_cannot_share_a_batch_are_refused_at_once(settings):
    with pytest.raises(ValueError, match="host"):
        batches(*corpus(), **settings)


def test_an_epoch_without_rows_is_refused():
    with pytest.raises(ValueError, match="epoch 0 has no rows"):
        next(batches(lambda epoch: [], lambda rows: {}, batch_size=4))


def test_a_state_behind_the_end_of_its_epoch_is_refused():
    with pytest.raises(ValueError, match="none is number 99"):
        take(1, batch_size=4, start=DataState(0, 99))
    with pytest.raises(ValueError, match="before the beginning"):
        DataState(0, -1)


def test_an_error_in_build_reaches_the_reader():
    def broken(rows):
        raise RuntimeError("no such token")

    with pytest.raises(RuntimeError, match="no such token"):
        next(batches(corpus()[0], broken, batch_size=4))

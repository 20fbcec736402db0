"""Attention to the source as words: the same in one pass as step by step, and added up right."""

import functools

import jax
import numpy as np
import pytest

from transformer_jax import Transformer, TransformerConfig, chunked_attention
from transformer_jax.data.tokenizers import SentencePieceTokenizer
from transformer_jax.tasks.translation_alignment import (
    align_words,
    cross_attention,
    make_aligner,
    teacher_forced,
    word_of_pieces,
    word_of_tokens,
)

MODEL = Transformer(
    TransformerConfig(
        vocab_size=11,
        width=16,
        num_heads=2,
        decoder_num_heads=4,
        feed_forward_dim=16,
        encoder_layers=1,
        decoder_layers=3,
    )
)
PAD = 0
CLOSE = dict(rtol=0, atol=1e-5)
LENGTHS = (6, 2, 4)
VALID = np.arange(6) < np.array(LENGTHS)[:, None]
SOURCE = np.where(VALID, np.random.default_rng(0).integers(4, 11, VALID.shape), PAD)
READ = np.random.default_rng(1).integers(4, 11, (3, 5))  # [B,T]


@functools.partial(jax.jit, static_argnames="model")
def run(params, source, read, model=MODEL):
    return teacher_forced(model, params, source, read, PAD)


@pytest.fixture(scope="module")
def params():
    fresh = jax.jit(MODEL.init)(jax.random.key(0), SOURCE, READ)["params"]
    # Far from equal weights, by the last product before them alone: were all parameters larger,
    # their rounding would be, too, and a test of 1e-5 would depend on the processor.
    query = fresh["decoder"]["layer"]["cross_attention"]["query"]
    query["kernel"] = 8.0 * query["kernel"]
    return fresh


@pytest.fixture(scope="module")
def sown(params):
    return run(params, SOURCE, READ)


def cross_weights(sown):
    return sown["decoder"]["layer"]["cross_attention"]["attention_weights"]


def sown_step_by_step(params, source, read):
    """What each step of decoding sows while it reads the same tokens."""
    apply = functools.partial(MODEL.apply, {"params": params})
    valid = source != PAD
    encoded = apply(source, segments=valid.astype(np.int32), method="encode")
    memory = apply(encoded, method="memory")
    cache = apply(*read.shape, method="empty_cache")

    @jax.jit
    def step(tokens, cache, index):
        return apply(
            tokens, memory, cache, index,
            source_valid=valid, method="decode_step", mutable=["intermediates"],
        )  # fmt: skip

    for t in range(read.shape[1]):
        (_, cache), state = step(read[:, t], cache, t)
        yield state["intermediates"]


def test_a_row_is_what_decoding_looked_at_when_it_read_the_same_token(params, sown):
    (whole,) = cross_weights(sown)
    assert whole.shape == (3, 3, 4, 5, 6)  # [L,B,N,T,S]
    assert np.ptp(whole, axis=-1).max() > 0.5
    mean = cross_attention(sown)
    assert mean.shape == (3, 5, 6)
    for t, step in enumerate(sown_step_by_step(params, SOURCE, READ)):
        assert len(cross_weights(step)) == 3
        for layer, one in enumerate(cross_weights(step)):  # [B,N,1,S]
            np.testing.assert_allclose(one[:, :, 0], whole[layer, :, :, t], **CLOSE)
        np.testing.assert_allclose(cross_attention(step), mean[:, t : t + 1], **CLOSE)


def test_cross_attention_is_the_mean_of_all_layers_and_heads(sown):
    (whole,) = cross_weights(sown)
    want = sum(np.asarray(whole)[layer, :, head] for layer, head in np.ndindex(3, 4)) / 12
    np.testing.assert_allclose(cross_attention(sown), want, **CLOSE)


def test_padding_of_the_source_gets_nothing_and_the_rest_all(sown):
    weights = np.asarray(cross_attention(sown))
    for row, length in enumerate(LENGTHS):
        np.testing.assert_array_equal(weights[row, :, length:], 0.0)
        np.testing.assert_allclose(weights[row].sum(axis=-1), 1.0, **CLOSE)


def test_what_follows_a_translation_and_more_padding_change_nothing(params, sown):
    read = np.concatenate([READ, np.full((3, 2), PAD)], axis=1)
    source = np.concatenate([SOURCE, np.full((3, 4), PAD)], axis=1)
    more = cross_attention(run(params, source, read))
    assert more.shape == (3, 7, 10)
    np.testing.assert_allclose(more[:, :5, :6], cross_attention(sown), **CLOSE)


def test_weights_are_those_of_any_kernel(params, sown):
    chunked = functools.partial(chunked_attention, chunk_size=2)
    model = Transformer(MODEL.config, attention_fn=chunked)
    (got,), (want,) = map(cross_weights, (run(params, SOURCE, READ, model), sown))
    np.testing.assert_allclose(got, want, **CLOSE)


def test_an_aligner_is_the_two_in_one(params, sown):
    got = make_aligner(MODEL, PAD)(params, SOURCE, READ)
    np.testing.assert_allclose(got, cross_attention(sown), **CLOSE)


@pytest.mark.parametrize(
    "pieces,words",
    [
        ([], []),
        (["▁the"], [0]),
        (["the"], [0]),  # the first piece of a text may lack its space
        (["▁a", "li", "gn", "▁it", "▁", "now", "!"], [0, 0, 0, 1, 1, 2, 2]),
        (["▁", "▁a", "▁", "▁b", "▁"], [0, 0, 0, 1, 1]),  # several spaces part no more than one
        (["▁", "▁"], [0, 0]),
    ],
)
def test_words_are_what_spaces_part(pieces, words):
    assert word_of_pieces(pieces).tolist() == words
    count = len("".join(pieces).replace("▁", " ").split())
    assert len(set(words)) == max(count, min(1, len(pieces)))


SOURCE_PIECES = ["▁the", "▁hou", "se", "▁burn", "s"]  # the house burns
TARGET_PIECES = ["▁la", "▁mai", "son", "▁brû", "le"]  # la maison brûle
WEIGHTS = np.array(
    [
        [0.40, 0.25, 0.30, 0.05, 0.00],  # house 0.55, more than "the", though no piece of it is
        [0.30, 0.00, 0.00, 0.20, 0.10],
        [0.50, 0.40, 0.40, 0.00, 0.00],  # with the piece before: the 0.8, house 0.8, burns 0.3
        [0.00, 0.30, 0.00, 0.25, 0.25],  # burns 0.5
        [0.10, 0.20, 0.00, 0.20, 0.10],
    ]
)


def links(weights, source_pieces, target_pieces):
    return align_words(weights, word_of_pieces(source_pieces), word_of_pieces(target_pieces))


def test_pieces_are_added_up_to_words():
    weights = WEIGHTS.copy()
    weights[2, 2] += 0.01  # then house has more than the
    assert links(weights, SOURCE_PIECES, TARGET_PIECES) == [(1, 0), (1, 1), (2, 2)]
    weights[2, 2] -= 0.02
    assert links(weights, SOURCE_PIECES, TARGET_PIECES) == [(1, 0), (0, 1), (2, 2)]


def test_rows_and_columns_beyond_the_pieces_are_left_out():
    larger = np.full((7, 9), 5.0)  # an end symbol and padding
    larger[:5, :5] = WEIGHTS
    want = links(WEIGHTS, SOURCE_PIECES, TARGET_PIECES)
    assert links(larger, SOURCE_PIECES, TARGET_PIECES) == want


@pytest.mark.parametrize(
    "source,target,want",
    [
        ([], [], []),
        ([], ["▁la"], []),
        (["▁the"], [], []),
        (["▁the"], ["▁la"], [(0, 0)]),
        (["▁the"], TARGET_PIECES, [(0, 0), (0, 1), (0, 2)]),
        (SOURCE_PIECES, ["▁la"], [(1, 0)]),
    ],
)
def test_each_word_of_the_translation_gets_one_link_and_nothing_none(source, target, want):
    assert links(WEIGHTS, source, target) == want


def test_words_of_a_translation_are_those_of_its_text(tmp_path):
    """Special tokens have no text, and an unknown one is a word of its own."""
    texts = ["the cat sees the dog", "a small house burns"] * 10
    tokenizer = SentencePieceTokenizer.train(texts, tmp_path / "own.model", vocab_size=20)
    bos, unk, eos = tokenizer.bos_id, tokenizer.unk_id, tokenizer.eos_id
    the, cat = (tokenizer.encode([word])[0] for word in ("the", "cat"))
    ids = [bos, *the, unk, tokenizer.pad_id, *cat, eos]
    (text,) = tokenizer.decode([ids])
    words = word_of_tokens(tokenizer, ids).tolist()
    middle = text.split().index("\u2047")
    last = len(text.split()) - 1
    assert text.split()[0] == "the" and middle == 1 and last == 2
    assert words[: 1 + len(the)] == [0] * (1 + len(the))
    assert words[1 + len(the) :][:2] == [middle] * 2  # the unknown token, and padding
    assert words[-len(cat) :] == [last] * len(cat)  # without its space, and with the end

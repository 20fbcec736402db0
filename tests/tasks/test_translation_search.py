"""Translating many sentences at once: each gets what a search for it alone would find."""

import dataclasses
import functools
import random

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from transformer_jax import Transformer, TransformerConfig
from transformer_jax.decoding.beam import beam_search
from transformer_jax.decoding.greedy import greedy_search
from transformer_jax.decoding.sampling import Sampling
from transformer_jax.decoding.search_config import SearchConfig
from transformer_jax.parallel.mesh import MeshConfig, make_mesh
from transformer_jax.tasks.translation_search import EXTRA_LENGTH, SHORTEST, Translator

MODEL = Transformer(
    TransformerConfig(
        vocab_size=12,
        width=16,
        num_heads=2,
        feed_forward_dim=16,
        encoder_layers=1,
        decoder_layers=2,
    )
)
GREEDY, BEAM = SearchConfig(beam_size=1), SearchConfig(beam_size=3)
ROOM = SHORTEST + SHORTEST // 4 + 8  # of the first attempt for the shortest sources


class Letters:
    """A letter is a token."""

    pad_id, eos_id, unk_id, bos_id = 0, 1, 2, 3
    fingerprint = "letters"
    vocab_size = 12

    def encode(self, texts):
        return [[4 + "abcdefgh".index(letter) for letter in text] for text in texts]

    encode_target = encode

    def decode(self, ids):
        return ["".join("_.?^abcdefgh"[i] for i in row).partition(".")[0] for row in ids]

    def source_pieces(self, ids):
        return ["▁" + "_.?^abcdefgh"[i] for i in ids]

    target_pieces = source_pieces


@pytest.fixture(scope="module")
def params():
    tokens = jnp.zeros((1, 1), jnp.int32)
    fresh = jax.jit(MODEL.init)(jax.random.key(2), tokens, tokens)["params"]
    return jax.tree.map(lambda x: 1.3 * x, fresh)  # so that it depends on what it reads


def make_translator(params, search, devices=1, **options):
    mesh = make_mesh(MeshConfig(), jax.devices()[:devices])
    return Translator(MODEL, params, Letters(), search=search, mesh=mesh, **options)


def some_sentences(count, longest=15):
    rng = random.Random(0)
    return ["".join(rng.choices("abcdefgh", k=rng.randint(0, longest))) for _ in range(count)]


@functools.cache
def alone(search):
    """Searches for one source that is not padded, with a cache of nothing but the tokens."""
    max_length = search.max_length or SHORTEST + EXTRA_LENGTH

    @jax.jit
    def find(params, source):
        def step(tokens, read, index):
            read = read.at[jnp.arange(len(read)), index].set(tokens)
            sources = jnp.broadcast_to(source, (len(read), len(source)))
            logits = MODEL.apply({"params": params}, sources, read)
            return jnp.take_along_axis(logits, index[:, None, None], axis=1)[:, 0], read

        ids = dict(bos_id=3, eos_id=1, pad_id=0, max_length=max_length)
        read = jnp.zeros((search.beam_size, max_length), jnp.int32)
        if search.beam_size == 1:
            return greedy_search(step, read, batch_size=1, **ids)
        beam = dict(beam_size=search.beam_size, score=search.score())
        return beam_search(step, read, batch_size=1, **beam, **ids)

    return find


def assert_found_alone(found, sources, params, search):
    for hypotheses, source in zip(found, sources, strict=True):
        want = alone(search)(params, jnp.array(source))
        lengths = want.lengths.reshape(-1)
        tokens = want.tokens.reshape(len(lengths), -1)
        assert [h.ids for h in hypotheses] == [
            tuple(row[:length].tolist()) for row, length in zip(tokens, lengths, strict=True)
        ]
        scores = [h.score for h in hypotheses]
        np.testing.assert_allclose(scores, want.scores.reshape(-1), rtol=1e-4)


@pytest.mark.parametrize("search", [GREEDY, BEAM])
@pytest.mark.parametrize("devices", [1, 8])
def test_each_gets_what_a_search_for_it_alone_finds(params, search, devices):
    translate = make_translator(params, search, devices, batch_size=8)
    sources = translate.encode(some_sentences(21))
    found = translate(sources)  # 8 rows: they are refilled, and few are left in the end
    assert_found_alone(found, sources, params, search)
    lengths = [len(best.ids) for best, *_ in found]
    assert min(lengths) < ROOM / 2, "some are over early, and their rows get others"
    assert max(lengths) > ROOM, "some are searched again with more room"
    assert len({best.ids for best, *_ in found}) > 10


@pytest.mark.parametrize("devices", [1, 8])
def test_the_last_ones_go_on_in_fewer_rows(params, devices):
    search = dataclasses.replace(GREEDY, max_length=26)  # where those end that do not by themselves
    translate = make_translator(params, search, devices, batch_size=64)
    sources = translate.encode(some_sentences(40))
    assert_found_alone(translate(sources), sources, params, search)


@pytest.mark.parametrize("batch_size", [1, 3, 200])
def test_the_number_of_rows_changes_nothing(params, batch_size):
    sources = make_translator(params, BEAM).encode(some_sentences(9))
    found = make_translator(params, BEAM, batch_size=batch_size)(sources)
    assert_found_alone(found, sources, params, BEAM)


def test_lengths_of_all_kinds_keep_their_order(params):
    sentences = ["", "a" * 70, "bc", "h" * 17, "b", "a" * 70]
    translate = make_translator(params, BEAM)
    found = translate(translate.encode(sentences))
    assert found[1] == found[5]
    for sentence, hypotheses in zip(sentences, found, strict=True):
        (own,) = translate(translate.encode([sentence]))
        assert [h.ids for h in own] == [h.ids for h in hypotheses]
    assert translate.texts(sentences) == [best.text for best, *_ in found]


def test_nothing_to_translate(params):
    assert make_translator(params, BEAM)([]) == []


def test_hypotheses_are_different_and_best_first(params):
    translate = make_translator(params, BEAM)
    for hypotheses in translate(translate.encode(some_sentences(10))):
        assert len({h.ids for h in hypotheses}) == 3
        scores = [h.score for h in hypotheses]
        assert scores == sorted(scores, reverse=True)


def test_max_length_is_the_most_tokens(params):
    sources = make_translator(params, BEAM).encode(some_sentences(10))
    for length in (1, 5):
        search = dataclasses.replace(BEAM, max_length=length, force_end=True)
        for hypotheses in make_translator(params, search)(sources):
            assert all(h.ids[-1] == 1 and len(h.ids) <= length for h in hypotheses)


def test_samples_repeat_with_the_seed_and_differ_with_another(params):
    search = SearchConfig(beam_size=3, sampling=Sampling())

    def draw(seed, **changes):
        translate = make_translator(
            params, dataclasses.replace(search, **changes), batch_size=4, seed=seed
        )
        return translate(translate.encode(some_sentences(12)))

    first = draw(0)
    assert draw(0) == first
    assert draw(1) != first
    assert all(len({h.ids for h in hypotheses}) > 1 for hypotheses in first)
    likeliest = draw(0, sampling=Sampling(top_k=1))
    greedy = make_translator(params, GREEDY)
    for same, (best,) in zip(likeliest, greedy(greedy.encode(some_sentences(12))), strict=True):
        assert [h.ids for h in same] == [best.ids] * 3


def test_a_sample_has_the_score_that_the_model_gives_it(params):
    translate = make_translator(params, SearchConfig(beam_size=8, sampling=Sampling(0.8)))
    (source,) = translate.encode(["abc"])
    for hypothesis in translate([source])[0]:
        inputs = jnp.array([[3, *hypothesis.ids[:-1]]])
        logits = MODEL.apply({"params": params}, jnp.array([source]), inputs)[0]
        at = jnp.arange(len(hypothesis.ids)), jnp.array(hypothesis.ids)
        np.testing.assert_allclose(
            hypothesis.score, jnp.sum(jax.nn.log_softmax(logits)[at]), rtol=1e-4
        )


def test_long_samples_are_not_drawn_again(params):
    """What is drawn once more because it is long would too often be short in the end."""
    count = 400
    one, many = (SearchConfig(beam_size=n, sampling=Sampling(0.6)) for n in (1, count))
    source = make_translator(params, one).encode(["abc"])
    each = [best for (best,) in make_translator(params, one)(source * count)]
    (together,) = make_translator(params, many)(source)
    shares = [np.mean([len(h.ids) <= ROOM for h in found]) for found in (each, together)]
    assert 0.3 < shares[1] < 0.7
    assert abs(shares[0] - shares[1]) < 4 * np.sqrt(2 * 0.25 / count)


def test_coverage_penalty_prefers_what_looks_everywhere(params):
    plain, covering = (
        make_translator(params, dataclasses.replace(BEAM, coverage_penalty=beta))
        for beta in (0.0, 5.0)
    )
    sources = plain.encode(some_sentences(12))
    before, after = plain(sources), covering(sources)
    assert [h[0].ids for h in before] != [h[0].ids for h in after]
    together = covering(sources)
    for source, hypotheses in zip(sources, together, strict=True):
        assert [h.ids for h in covering([source])[0]] == [h.ids for h in hypotheses]
        assert all(h.score <= 0.0 for h in hypotheses)


@pytest.mark.parametrize("wrong", [-1, MODEL.config.vocab_size])
def test_sources_with_ids_of_no_vocabulary_are_refused(params, wrong):
    translate = make_translator(params, GREEDY)
    with pytest.raises(ValueError, match=f"token id {wrong} is not in the vocabulary"):
        translate([[5, 1], [5, wrong, 1]])

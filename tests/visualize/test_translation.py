"""All attention of a translation: it is the model's own, and each row has its token."""

import dataclasses

import jax
import numpy as np
import pytest

from transformer_jax import Transformer, TransformerConfig
from transformer_jax.data.tokenizers import SentencePieceTokenizer
from transformer_jax.tasks.translation_alignment import teacher_forced
from transformer_jax.visualize.translation import translation_maps

MODEL = Transformer(
    TransformerConfig(
        vocab_size=32,
        width=16,
        num_heads=2,
        decoder_num_heads=4,
        feed_forward_dim=16,
        encoder_layers=1,
        decoder_layers=2,
    )
)
BOS, EOS = 3, 1
TEXTS = ("the red cat", "le chat")


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory, pairs_folder):
    lines = (pairs_folder / "train.tsv").read_text().replace("\t", "\n").split("\n")
    path = tmp_path_factory.mktemp("tokenizer") / "tokenizer.model"
    return SentencePieceTokenizer.train(lines, path, vocab_size=32)


@pytest.fixture(scope="module")
def params():
    tokens = np.ones((1, 2), int)
    fresh = jax.jit(MODEL.init)(jax.random.key(0), tokens, tokens)["params"]
    return jax.tree.map(lambda x: 2.0 * x, fresh)  # so that the weights are far from equal


@pytest.fixture(scope="module")
def ids(tokenizer):
    return [[*ids, EOS] for ids in tokenizer.encode(TEXTS)]


@pytest.fixture(scope="module")
def maps(params, tokenizer, ids):
    return translation_maps(MODEL, params, tokenizer, *ids, title="a title")


def part(maps, name):
    (found,) = [part for part in maps.parts if part.name == name]
    return found


def test_there_is_each_attention_with_all_layers_and_heads(maps, ids):
    S, T = map(len, ids)
    assert S != T
    shapes = {part.name: part.weights.shape for part in maps.parts}
    assert shapes == {"cross": (2, 4, T, S), "encoder": (1, 2, S, S), "decoder": (2, 4, T, T)}
    assert {part.weights.dtype for part in maps.parts} == {np.dtype("float32")}
    assert maps.title == "a title"


def test_rows_and_columns_have_their_tokens(maps):
    cross, encoder, decoder = (part(maps, name) for name in ("cross", "encoder", "decoder"))
    # The pieces of a text are the text, with its spaces, and the end symbol.
    assert "".join(encoder.key_tokens) == "▁the▁red▁cat</s>"
    assert encoder.query_tokens == cross.key_tokens == encoder.key_tokens
    # What is predicted is the translation with its end; what is read starts with the start token.
    assert "".join(cross.query_tokens) == "▁le▁chat</s>"
    assert decoder.query_tokens == ("<s>", *cross.query_tokens[:-1])
    assert decoder.key_tokens == decoder.query_tokens


def test_what_each_token_takes_sums_to_one_and_none_sees_what_comes_later(maps):
    for one in maps.parts:
        np.testing.assert_allclose(one.weights.sum(axis=-1), 1.0, atol=1e-6)
        assert np.ptp(one.weights) > 0.1
        is_lower = not np.triu(one.weights, k=1).any()
        assert is_lower == (one.name == "decoder")


def test_weights_are_those_of_the_model_that_reads_the_translation(maps, params, ids):
    source, target = ids
    read = np.array([[BOS, *target[:-1]]])
    run = jax.jit(lambda *args: teacher_forced(MODEL, *args, pad_id=0))
    sown = run(params, np.array([source]), read)
    for name, stack, attention in (
        ("cross", "decoder", "cross_attention"),
        ("decoder", "decoder", "self_attention"),
        ("encoder", "encoder", "self_attention"),
    ):
        (want,) = sown[stack]["layer"][attention]["attention_weights"]
        np.testing.assert_allclose(part(maps, name).weights, want[:, 0], rtol=0, atol=1e-6)


def test_weights_are_those_of_any_kernel(maps, params, tokenizer, ids):
    chunked = Transformer(dataclasses.replace(MODEL.config, attention="chunked"))
    for got, want in zip(
        translation_maps(chunked, params, tokenizer, *ids).parts, maps.parts, strict=True
    ):
        np.testing.assert_allclose(got.weights, want.weights, rtol=0, atol=1e-6)


def test_a_source_of_padding_tokens_is_read_like_any_other(params, tokenizer):
    """A tokenizer may start or fill with a token that a text holds too; here nothing is filled."""
    maps = translation_maps(MODEL, params, tokenizer, [tokenizer.pad_id] * 3, [EOS])
    assert [part.weights.shape[2:] for part in maps.parts] == [(1, 3), (3, 3), (1, 1)]
    assert part(maps, "cross").weights.min() > 0.0


@pytest.mark.parametrize("source,target", [([], [EOS]), ([EOS], []), ([], [])])
def test_nothing_to_look_at_is_refused(params, tokenizer, source, target):
    with pytest.raises(ValueError, match="no attention without a source token and a target token"):
        translation_maps(MODEL, params, tokenizer, source, target)

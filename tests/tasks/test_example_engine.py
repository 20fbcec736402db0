"""Many examples through an encoder: the same as each alone, on any number of devices."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from transformer_jax import Bert, BertConfig
from transformer_jax.data.text_examples import text_examples
from transformer_jax.data.wordpiece import WordPieceTokenizer
from transformer_jax.errors import UserError
from transformer_jax.interop.bert import PretrainedBert
from transformer_jax.parallel.mesh import MeshConfig, make_mesh
from transformer_jax.tasks.embedding import Embedder
from transformer_jax.tasks.example_engine import ExampleEngine, pool_mean

pytestmark = pytest.mark.usefixtures("quick_compilation")

WORDS = [f"w{letter}" for letter in "abcdefghijklmnop"]
CONFIG = BertConfig(60, 16, 2, 32, 2, max_positions=200)


@pytest.fixture(scope="module")
def encoder(tmp_path_factory):
    file = tmp_path_factory.mktemp("tokenizer") / "tokenizer.json"
    tokenizer = WordPieceTokenizer.train(WORDS * 4, file, vocab_size=50, lowercase=True)
    shapes = jax.eval_shape(Bert(CONFIG).init, jax.random.key(0), jnp.zeros((1, 2), jnp.int32))
    rng = np.random.default_rng(0)
    params = jax.tree.map(
        lambda x: jnp.asarray(rng.normal(size=x.shape, scale=0.3), jnp.float32), shapes["params"]
    )
    return PretrainedBert(CONFIG, "encoder", params, tokenizer)


def texts(count, seed=0):
    rng = np.random.default_rng(seed)
    sizes = np.minimum(rng.geometric(0.05, count) - 1, 150)
    sizes[: min(3, count)] = [0, 150, 62][: min(3, count)]
    return [" ".join(rng.choice(WORDS, size)) for size in sizes]


@pytest.fixture(scope="module")
def lines_alone(encoder):
    """70 texts of some lengths, and the states of each, alone in a row."""
    draw = np.random.default_rng(0)
    sizes = [*(0, 150, 62), *draw.choice([0, 1, 3, 7, 20, 21, 40, 62, 100, 150], 67)]
    lines = [" ".join(draw.choice(WORDS, size)) for size in sizes]
    apply, states = jax.jit(Bert(CONFIG).apply), []
    for ids in text_examples(encoder.tokenizer, lines, max_tokens=200).tokens:
        states.append(np.asarray(apply({"params": encoder.params}, ids[None])[0]))
    return lines, states


@pytest.mark.parametrize("devices", [1, 8])
@pytest.mark.parametrize("pooling", ["mean", "cls"])
def test_a_vector_is_that_of_its_text_alone(encoder, lines_alone, devices, pooling):
    mesh = make_mesh(MeshConfig(), jax.devices()[:devices])
    embedder = Embedder(encoder, mesh=mesh, pooling=pooling)
    lines, alone = lines_alone
    found = embedder(embedder.examples(lines))
    assert found.shape == (70, 16) and found.dtype == np.float32
    for vector, states in zip(found, alone, strict=True):
        want = states.mean(0) if pooling == "mean" else states[0]
        np.testing.assert_allclose(vector, want, atol=2e-5)


def test_a_model_without_token_types_takes_none(encoder):
    config = dataclasses.replace(CONFIG, type_vocab_size=0)
    params = {name: x for name, x in encoder.params.items() if name != "type_embedding"}
    mesh = make_mesh(MeshConfig(), jax.devices()[:1])
    other = dataclasses.replace(encoder, config=config, params=params)
    embedder = Embedder(other, mesh=mesh)
    examples = embedder.examples(["wa wb"])
    want = Bert(config).apply({"params": params}, examples.tokens[0][None])[0].mean(0)
    np.testing.assert_allclose(embedder(examples)[0], want, atol=2e-5)


def test_few_shapes_are_compiled(encoder):
    mesh = make_mesh(MeshConfig(), jax.devices()[:1])
    traced = []

    def function(params, batch):
        traced.append(batch["tokens"].shape)
        return pool_mean(batch["tokens"][..., None], batch["segments"], params.shape[0])

    sizes = jnp.zeros(16)
    engine = ExampleEngine(function, sizes, mesh=mesh, max_tokens=64)
    for seed, count in enumerate((1, 2, 5, 30, 200, 199, 500)):
        lines = [" ".join(text.split()[:20]) for text in texts(count, seed)]
        examples = text_examples(encoder.tokenizer, lines, max_tokens=64)
        found = engine(examples)
        want = [ids.mean() for ids in examples.tokens]
        np.testing.assert_allclose(found[:, 0], want, rtol=1e-6)
    assert len(traced) <= 6 and {shape[1] for shape in traced} == {64}


def test_what_cannot_be_run_is_refused(encoder):
    mesh = make_mesh(MeshConfig(), jax.devices()[:1])
    engine = ExampleEngine(lambda params, batch: batch["first_tokens"], {}, mesh=mesh, max_tokens=8)
    with pytest.raises(ValueError, match="no examples"):
        engine(text_examples(encoder.tokenizer, [], max_tokens=8))
    with pytest.raises(ValueError, match="has 9 tokens, more than 8"):
        engine(text_examples(encoder.tokenizer, ["wa " * 9], max_tokens=9))
    with pytest.raises(UserError, match="no tokenizer"):
        Embedder(dataclasses.replace(encoder, tokenizer=None), mesh=mesh)


@pytest.mark.parametrize("devices", [1, 8])
def test_what_is_found_for_tokens_is_theirs(encoder, devices):
    mesh = make_mesh(MeshConfig(), jax.devices()[:devices])
    engine = ExampleEngine(
        lambda params, batch: params["table"][batch["tokens"]] + batch["positions"][..., None],
        {"table": jnp.arange(100.0).reshape(50, 2)},
        mesh=mesh,
        max_tokens=200,
    )
    examples = text_examples(encoder.tokenizer, texts(70), max_tokens=200)
    found = engine.of_tokens(examples)
    for ids, values in zip(examples.tokens, found, strict=True):
        want = np.arange(100.0).reshape(50, 2)[ids] + np.arange(len(ids))[:, None]
        np.testing.assert_array_equal(values, want)

"""Operations of a step: by formula, by tracing, and as XLA counts them in an unrolled program."""

import dataclasses

import jax
import pytest

from transformer_jax.models.bert import BertConfig
from transformer_jax.models.transformer import TransformerConfig
from transformer_jax.objectives.corruption import predictions_for
from transformer_jax.parallel.mesh import MeshConfig, make_mesh
from transformer_jax.planning.abstract import abstract_step
from transformer_jax.planning.flops import count_flops, model_flops, plain
from transformer_jax.tasks.bert_data import BertData
from transformer_jax.tasks.masked_lm import MaskedLmConfig
from transformer_jax.tasks.translation import TranslationConfig, TranslationData
from transformer_jax.training.config import ExperimentConfig, TrainConfig

TRAIN = TrainConfig(batch_size=4, microbatches=2)
BERT = BertConfig(
    vocab_size=97, width=64, num_heads=4, feed_forward_dim=160, num_layers=3, max_positions=32
)
ROW = BertData(row_length=32)
WORDS = TransformerConfig(
    vocab_size=101, width=64, num_heads=4, feed_forward_dim=160, encoder_layers=2, decoder_layers=3
)
PAIRS = TranslationData(row_length=32)


def flops(config):
    mesh = make_mesh(config.mesh, jax.devices()[:1])
    step = abstract_step(config, mesh)
    state, batch, key = step.arguments
    return model_flops(step.task.loss_terms, dict(step.task.coefficients), state.params, batch, key)


def bert_by_formula(c, rows, length):
    """Forward, then twice as much for both factors of each product."""
    projections = 2 * rows * length * 4 * c.width**2
    attention = 2 * rows * 2 * length**2 * c.width
    feed_forward = 2 * rows * length * 2 * c.width * c.feed_forward_dim
    predictions = rows * predictions_for(length, 0.15)
    head = 2 * predictions * (c.width**2 + c.width * c.vocab_size)
    pooler = 2 * rows * ROW.places * (c.width**2 + 2 * c.width)
    return 3 * (c.num_layers * (projections + attention + feed_forward) + head + pooler)


def transformer_by_formula(c, rows, length):
    projections = 2 * rows * length * 4 * c.width**2
    attention = 2 * rows * 2 * length**2 * c.width
    feed_forward = 2 * rows * length * 2 * c.width * c.feed_forward_dim
    encoder = c.encoder_layers * (projections + attention + feed_forward)
    decoder = c.decoder_layers * (2 * (projections + attention) + feed_forward)
    logits = 2 * rows * length * c.width * c.vocab_size
    return 3 * (encoder + decoder + logits)


def test_the_products_of_bert_are_those_of_the_formula():
    config = ExperimentConfig(MaskedLmConfig(), BERT, ROW, train=TRAIN)
    assert flops(plain(config)) == bert_by_formula(BERT, 4, 32)


def test_the_products_of_the_transformer_are_those_of_the_formula():
    config = ExperimentConfig(TranslationConfig(), WORDS, PAIRS, train=TRAIN)
    step = abstract_step(config, make_mesh(MeshConfig(), jax.devices()[:1]))
    length = step.arguments[1]["source"].shape[1]
    assert step.arguments[1]["targets"].shape == (4, length)
    assert flops(plain(config)) == transformer_by_formula(WORDS, 4, length)


def test_recomputation_is_no_work_of_the_model():
    length = 640  # longer than a chunk of attention
    again = dataclasses.replace(BERT, max_positions=length, remat="full", attention="chunked")
    task, rows = MaskedLmConfig(score_chunk=2), BertData(row_length=length)
    config = ExperimentConfig(task, again, rows, train=TRAIN)
    assert flops(config) > 1.2 * bert_by_formula(BERT, 4, length)
    assert flops(plain(config)) == bert_by_formula(BERT, 4, length)


@pytest.mark.parametrize("mesh", [MeshConfig(context=2), MeshConfig(context=4)], ids=str)
def test_rows_that_are_split_have_the_products_of_whole_ones(mesh):
    config = plain(ExperimentConfig(MaskedLmConfig(), BERT, ROW, train=TRAIN, mesh=mesh))
    config = dataclasses.replace(config, train=TrainConfig(batch_size=8))
    on_mesh = make_mesh(mesh)
    step = abstract_step(config, on_mesh)
    with jax.set_mesh(on_mesh):
        terms, coefficients = step.task.loss_terms, dict(step.task.coefficients)
        found = model_flops(terms, coefficients, step.arguments[0].params, *step.arguments[1:])
    assert found == bert_by_formula(BERT, 8, 32)


def test_a_scan_counts_as_often_as_it_runs():
    def many(x, w):
        return jax.lax.scan(lambda x, w: (x @ w, None), x, w)[0]

    traced = jax.make_jaxpr(many)(jax.numpy.ones((3, 4)), jax.numpy.ones((7, 4, 4)))
    assert count_flops(traced) == 7 * 2 * 3 * 4 * 4


@pytest.mark.parametrize("kind", ["bert", "transformer"])
def test_the_unrolled_program_has_at_most_3_percent_more(kind):
    """XLA counts what is elementwise, too; `cost_analysis` counts the body of a loop once."""
    sizes = dict(
        vocab_size=512, width=512, num_heads=4, feed_forward_dim=2048, unroll=True,
        dropout_rate=0.0, attention_dropout_rate=0.0,
    )  # fmt: skip
    train = TrainConfig(batch_size=8)
    if kind == "bert":
        model = BertConfig(num_layers=2, max_positions=64, **sizes)
        config = ExperimentConfig(MaskedLmConfig(), model, BertData(row_length=64), train=train)
    else:
        model = TransformerConfig(encoder_layers=1, decoder_layers=1, **sizes)
        data = TranslationData(row_length=64)
        config = ExperimentConfig(TranslationConfig(), model, data, train=train)
    step = abstract_step(config, make_mesh(MeshConfig(), jax.devices()[:1]))
    state, batch, key = step.arguments

    def loss(params, rows):
        terms = step.task.loss_terms(params, rows, None)
        return sum(c * terms[name][0] for name, c in step.task.coefficients.items())

    compiled = jax.jit(jax.grad(loss)).lower(state.params, batch).compile()
    ratio = compiled.cost_analysis()["flops"] / flops(plain(config))
    assert 1.0 <= ratio <= 1.03, ratio

"""BERT, ALBERT, RoBERTa and DistilBERT against `transformers`, in outputs and gradients."""

import dataclasses
import math

import jax
import numpy as np
import pytest
import torch
import transformers

from tests.parity import bert_params
from transformer_jax.models.bert import Bert, BertConfig
from transformer_jax.models.bert_pretraining import BertPretraining
from transformer_jax.objectives.losses import label_smoothed_cross_entropy

torch.set_num_threads(1)
B, T, V = 4, 13, 61
LENGTHS = (13, 7, 2, 10)
PAD = 1  # as RoBERTa has it; no real token is this one
VALID = (np.arange(T) < np.array(LENGTHS)[:, None]).astype(np.int32)
OURS = BertConfig(
    vocab_size=V, width=24, num_heads=3, feed_forward_dim=44, num_layers=3, max_positions=17
)
THEIRS = dict(
    vocab_size=V,
    hidden_size=24,
    num_attention_heads=3,
    num_hidden_layers=3,
    intermediate_size=44,
    max_position_embeddings=17,
    pad_token_id=PAD,
    initializer_range=0.2,
)


def their_model(cls, config):
    """A randomly made model in eval mode whose biases are not 0 and whose scales are not 1."""
    torch.manual_seed(0)
    model = cls(config).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim == 1:
                parameter.add_(0.3 * torch.randn_like(parameter))
    return model


def batch():
    rng = np.random.default_rng(1)
    tokens = np.where(VALID, rng.integers(2, V, (B, T)), PAD).astype(np.int32)
    types = (np.arange(T) > np.array(LENGTHS)[:, None] // 2).astype(np.int32) * VALID
    return tokens, types


def tensors(*arrays):
    return [torch.tensor(x, dtype=torch.int64) for x in arrays]


def parameters_of(model):
    return dict(model.named_parameters())


def assert_states_equal(params, config, theirs, types=None, their_types=None):
    """The states after each layer, by our model with that many layers, and the pooled ones."""
    tokens, _ = batch()
    ids, mask = tensors(tokens, VALID)
    options = {} if their_types is None else {"token_type_ids": torch.tensor(their_types)}
    with torch.no_grad():
        out = theirs(input_ids=ids, attention_mask=mask, output_hidden_states=True, **options)
    for layers in range(1, config.num_layers + 1):
        fewer = dataclasses.replace(config, num_layers=layers)
        some = dict(params)
        if not config.shared_layers:
            first = jax.tree.map(lambda x, layers=layers: x[:layers], params["encoder"]["layer"])
            some["encoder"] = {"layer": first}
        hidden = Bert(fewer).apply({"params": some}, tokens, segments=VALID, token_types=types)
        want = out.hidden_states[layers].numpy()
        np.testing.assert_allclose(hidden[VALID != 0], want[VALID != 0], rtol=0, atol=1e-5)
    np.testing.assert_array_equal(want, out.last_hidden_state)
    if config.pooler:
        first = np.zeros((B, 1), np.int32)
        pooled = Bert(config).apply({"params": params}, hidden, first, method="pool")
        np.testing.assert_allclose(pooled[:, 0], out.pooler_output, rtol=0, atol=1e-5)


ALBERT_OURS = dataclasses.replace(
    OURS, embedding_width=10, shared_layers=True, activation="gelu_tanh"
)
PRETRAINING = {
    "bert": (
        transformers.BertForPreTraining,
        transformers.BertConfig(**THEIRS),
        OURS,
        bert_params.bert_pretraining_params,
        "next_sentence_label",
    ),
    "albert": (
        transformers.AlbertForPreTraining,
        transformers.AlbertConfig(**THEIRS, embedding_size=10, num_labels=2),
        ALBERT_OURS,
        bert_params.albert_pretraining_params,
        "sentence_order_label",
    ),
}


@pytest.fixture(scope="module", params=PRETRAINING)
def pretraining(request):
    """(their model, our config, our parameters, mapping, their name of the pairs' labels)."""
    cls, their_config, config, mapping, label = PRETRAINING[request.param]
    theirs = their_model(cls, their_config)
    params = bert_params.ours(mapping, parameters_of(theirs), config)
    return theirs, config, params, mapping, label


def test_pretraining_logits_equal_theirs(pretraining):
    theirs, config, params, *_ = pretraining
    tokens, types = batch()
    ids, mask, their_types = tensors(tokens, VALID, types)
    with torch.no_grad():
        out = theirs(input_ids=ids, attention_mask=mask, token_type_ids=their_types)
    got, pairs = BertPretraining(config).apply(
        {"params": params}, tokens, segments=VALID, token_types=types
    )
    want = out.prediction_logits.numpy()
    np.testing.assert_allclose(got[VALID != 0], want[VALID != 0], rtol=0, atol=1e-5)
    their_pairs = out.get("seq_relationship_logits", out.get("sop_logits"))
    np.testing.assert_allclose(pairs[:, 0], their_pairs, rtol=0, atol=1e-5)


def masked_places(rng):
    """15 % of the real tokens of each row, at least one: places and weights, [B,P] each."""
    counts = [max(1, round(0.15 * length)) for length in LENGTHS]
    places = np.zeros((B, max(counts)), np.int32)
    for row, (count, length) in enumerate(zip(counts, LENGTHS, strict=True)):
        places[row, :count] = rng.choice(length, count, replace=False)
    return places, (np.arange(max(counts)) < np.array(counts)[:, None]).astype(np.float32)


def test_gradients_of_the_pretraining_loss_equal_theirs(pretraining):
    theirs, config, params, mapping, label = pretraining
    rng = np.random.default_rng(2)
    tokens, types = batch()
    places, weights = masked_places(rng)
    targets = rng.integers(0, V, places.shape)
    pair_labels = rng.integers(0, 2, (B, 1))
    labels = np.full((B, T), -100)
    for row, i in np.argwhere(weights):
        labels[row, places[row, i]] = targets[row, i]
    ids, mask, their_types, labels, their_pairs = tensors(tokens, VALID, types, labels, pair_labels)
    theirs.zero_grad()
    out = theirs(
        input_ids=ids,
        attention_mask=mask,
        token_type_ids=their_types,
        labels=labels,
        **{label: their_pairs[:, 0]},
    )
    out.loss.backward()
    gradients = {name: p.grad for name, p in theirs.named_parameters()}
    want = bert_params.ours(mapping, gradients, config)

    def loss(params):
        logits, pairs = BertPretraining(config).apply(
            {"params": params},
            tokens,
            segments=VALID,
            token_types=types,
            masked_positions=places,
            first_tokens=np.zeros((B, 1), np.int32),
        )
        total, weight = label_smoothed_cross_entropy(logits, targets, weights)
        pair_total, pair_weight = label_smoothed_cross_entropy(
            pairs, pair_labels, np.ones_like(pair_labels)
        )
        return total / weight + pair_total / pair_weight

    got_loss, got = jax.jit(jax.value_and_grad(loss))(params)
    np.testing.assert_allclose(got_loss, out.loss.detach(), rtol=1e-6)
    norm = math.sqrt(sum(float((g**2).sum()) for g in jax.tree.leaves(want)))
    assert jax.tree.structure(got) == jax.tree.structure(want)
    for (path, g), w in zip(
        jax.tree_util.tree_leaves_with_path(got), jax.tree.leaves(want), strict=True
    ):
        name = jax.tree_util.keystr(path)
        np.testing.assert_allclose(g, w, rtol=0, atol=1e-6 * norm, err_msg=name)


def test_bert_states_equal_theirs():
    theirs = their_model(transformers.BertModel, transformers.BertConfig(**THEIRS))
    params = bert_params.ours(bert_params.bert_params, parameters_of(theirs), OURS)
    _, types = batch()
    assert_states_equal(params, OURS, theirs, types, types)


def test_albert_states_equal_theirs():
    their_config = transformers.AlbertConfig(**THEIRS, embedding_size=10)
    theirs = their_model(transformers.AlbertModel, their_config)
    params = bert_params.ours(bert_params.albert_params, parameters_of(theirs), ALBERT_OURS)
    _, types = batch()
    assert_states_equal(params, ALBERT_OURS, theirs, types, types)


def test_roberta_states_equal_theirs():
    sizes = THEIRS | dict(max_position_embeddings=17 + 2, type_vocab_size=1, layer_norm_eps=1e-5)
    theirs = their_model(transformers.RobertaModel, transformers.RobertaConfig(**sizes))
    config = dataclasses.replace(OURS, first_position=2, type_vocab_size=1, norm_epsilon=1e-5)
    params = bert_params.ours(bert_params.bert_params, parameters_of(theirs), config)
    assert_states_equal(params, config, theirs)


def test_distilbert_states_equal_theirs():
    their_config = transformers.DistilBertConfig(
        vocab_size=V,
        dim=24,
        n_heads=3,
        n_layers=3,
        hidden_dim=44,
        max_position_embeddings=17,
        pad_token_id=PAD,
        initializer_range=0.2,
    )
    theirs = their_model(transformers.DistilBertModel, their_config)
    config = dataclasses.replace(OURS, type_vocab_size=0, pooler=False)
    params = bert_params.ours(bert_params.distilbert_params, parameters_of(theirs), config)
    assert_states_equal(params, config, theirs)

"""A Marian folder read by us against the same folder in `transformers`, and ours read by it."""

import json
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from transformers import MarianMTModel, MarianTokenizer

from tests.parity import marian as small
from transformer_jax import Transformer, TransformerConfig, load_pretrained, save_pretrained
from transformer_jax.data.tokenizers import SentencePieceTokenizer
from transformer_jax.decoding.search_config import SearchConfig
from transformer_jax.interop.marian import PretrainedTransformer
from transformer_jax.interop.marian_weights import tensors_of
from transformer_jax.objectives.losses import label_smoothed_cross_entropy
from transformer_jax.tasks.translation_search import Translator

torch.set_num_threads(1)
TEXTS = [*small.TESTED, "the", "", "  the  cat ", "unseen WORDS, 12 ß", ">>fra<< red dog"]


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """(folder, transformers' model and tokenizer, what we load)."""
    folder = tmp_path_factory.mktemp("marian")
    model, tokenizer = small.trained_folder(folder)
    return folder, model, tokenizer, load_pretrained(folder)


def untrained(folder, *, separate=False, **changes):
    tokenizer = small.make_tokenizer(folder, separate=separate)
    model = small.make_model(tokenizer, **changes)
    model.save_pretrained(folder)
    return model, tokenizer


def batch_of(tokenizer, sentences):
    """A padded batch in numpy: source, its mask, target inputs, targets."""
    source, mask = small.encode(tokenizer, sentences)
    targets = small.encode_targets(tokenizer, list(map(small.translation, sentences)))
    start = torch.full((len(targets), 1), tokenizer.pad_token_id)
    inputs = torch.cat([start, targets[:, :-1]], dim=1)
    return [x.numpy() for x in (source, mask, inputs, targets)]


def our_logits(loaded, params, source, mask, inputs):
    return loaded.model.apply(
        {"params": params},
        source,
        inputs,
        source_segments=mask,
        target_segments=np.ones_like(inputs),
    )


def their_logits(model, source, mask, inputs):
    tensors = dict(input_ids=source, attention_mask=mask, decoder_input_ids=inputs)
    with torch.no_grad():
        return model(**{name: torch.tensor(x) for name, x in tensors.items()}).logits.numpy()


def assert_logits_equal(model, tokenizer, loaded, sentences=small.TESTED):
    source, mask, inputs, targets = batch_of(tokenizer, sentences)
    assert len(set(mask.sum(axis=1).tolist())) > 1  # there is padding
    got = our_logits(loaded, loaded.params, source, mask, inputs)
    real = targets != tokenizer.pad_token_id
    want = their_logits(model, source, mask, inputs)
    np.testing.assert_allclose(np.asarray(got)[real], want[real], rtol=0, atol=1e-5)


def translator(loaded, **changes):
    settings = dict(max_length=small.LONGEST, suppressed=loaded.search.suppressed, force_end=True)
    search = SearchConfig(length_rule="plain", **(settings | changes))
    return Translator(loaded.model, loaded.params, loaded.tokenizer, search=search)


def test_ids_and_texts_are_equal(trained):
    _, _, tokenizer, loaded = trained
    for text in TEXTS:
        (ids,) = loaded.tokenizer.encode([text])
        assert [*ids, loaded.tokenizer.eos_id] == tokenizer(text).input_ids
        (ids,) = loaded.tokenizer.encode_target([text])
        expected = tokenizer(text_target=text).input_ids
        assert [*ids, loaded.tokenizer.eos_id] == expected
        assert loaded.tokenizer.decode([expected]) == [
            tokenizer.decode(expected, skip_special_tokens=True)
        ]


def test_logits_are_equal(trained):
    _, model, tokenizer, loaded = trained
    assert_logits_equal(model, tokenizer, loaded)


@pytest.mark.parametrize(
    "changes",
    [
        dict(activation_function="relu", scale_embedding=False),
        dict(activation_function="gelu", decoder_attention_heads=4),
        dict(activation_function="gelu_new", encoder_layers=1, decoder_layers=1),
    ],
    ids=["relu_unscaled", "gelu", "gelu_new_one_layer"],
)
def test_other_settings_give_equal_logits(tmp_path, changes):
    model, tokenizer = untrained(tmp_path, **changes)
    assert_logits_equal(model, tokenizer, load_pretrained(tmp_path))


@pytest.mark.parametrize("tied", [True, False])
def test_separate_vocabularies_give_equal_ids_and_logits(tmp_path, tied):
    tokenizer = small.make_tokenizer(tmp_path, separate=True)
    settings = dict(share_encoder_decoder_embeddings=False, tie_word_embeddings=tied)
    size = len(tokenizer.target_encoder)
    assert size != len(tokenizer.encoder)
    model = small.make_model(tokenizer, decoder_vocab_size=size + 4, **settings)
    model.save_pretrained(tmp_path)
    loaded = load_pretrained(tmp_path)
    for text in TEXTS:
        assert loaded.tokenizer.encode([text])[0] == tokenizer(text).input_ids[:-1]
        expected = tokenizer(text_target=text).input_ids
        assert loaded.tokenizer.encode_target([text])[0] == expected[:-1]
    assert_logits_equal(model, tokenizer, loaded)
    expected, _ = generate(model, tokenizer, small.TESTED, num_beams=1)
    translate = translator(loaded, beam_size=1)
    assert [best.ids for best, *_ in translate(translate.encode(small.TESTED))] == expected
    again = tmp_path / "again"
    save_pretrained(again, loaded)
    assert_logits_equal(MarianMTModel.from_pretrained(again).eval(), tokenizer, loaded)


@pytest.mark.parametrize("is_zip", [True, False], ids=["zip", "old"])
def test_weights_in_torch_files_are_equal(tmp_path, trained, is_zip):
    folder, model, _, loaded = trained
    for path in folder.iterdir():
        if path.suffix != ".safetensors":
            (tmp_path / path.name).write_bytes(path.read_bytes())
    # With the copies that are tied, as torch.save has always written them.
    state = model.state_dict()
    assert "lm_head.weight" in state and "model.encoder.embed_tokens.weight" in state
    torch.save(state, tmp_path / "pytorch_model.bin", _use_new_zipfile_serialization=is_zip)
    again = load_pretrained(tmp_path)
    jax.tree.map(np.testing.assert_array_equal, again.params, loaded.params)


def test_gradients_are_equal(trained):
    _, model, tokenizer, loaded = trained
    source, mask, inputs, targets = batch_of(tokenizer, small.TESTED)
    real = targets != tokenizer.pad_token_id

    def loss(params):
        logits = our_logits(loaded, params, source, mask, inputs)
        total, weight = label_smoothed_cross_entropy(logits, targets, jnp.asarray(real))
        return total / weight

    value, grads = jax.jit(jax.value_and_grad(loss))(loaded.params)
    model.zero_grad()
    expected = small.loss_of(
        model, tokenizer, small.TESTED, list(map(small.translation, small.TESTED))
    )
    expected.backward()
    np.testing.assert_allclose(value, expected.detach(), rtol=1e-5)
    got = tensors_of(grads, loaded.config)
    want = {name: p.grad.numpy() for name, p in model.named_parameters() if p.grad is not None}
    del got["final_logits_bias"]  # a buffer there, which has no gradient
    # What reading the padding's embedding, which is the start token, would give it, is left out.
    names = ("model.shared.weight", tokenizer.pad_token_id)
    got, want = (
        dict(grads, **{names[0]: np.delete(grads[names[0]], names[1], axis=0)})
        for grads in (got, want)
    )
    assert got.keys() == want.keys()
    norm = math.sqrt(sum(float((g**2).sum()) for g in want.values()))
    for name, g in want.items():
        np.testing.assert_allclose(got[name], g, rtol=0, atol=1e-6 * norm, err_msg=name)


def generate(model, tokenizer, sentences, **options):
    """(the tokens after the start, without padding; score) of each returned sequence."""
    source, mask = small.encode(tokenizer, sentences)
    options = dict(return_dict_in_generate=True, output_scores=True) | options
    with torch.no_grad():
        found = model.generate(input_ids=source, attention_mask=mask, **options)
    rows = [
        tuple(t for t in row if t != tokenizer.pad_token_id) for row in found.sequences.tolist()
    ]
    scores = getattr(found, "sequences_scores", None)
    return rows, None if scores is None else scores.numpy()


def test_greedy_search_is_equal(trained):
    _, model, tokenizer, loaded = trained
    expected, _ = generate(model, tokenizer, small.TESTED, num_beams=1)
    assert len(set(expected)) >= 10
    assert sum(len(row) < small.LONGEST for row in expected) >= 10
    translate = translator(loaded, beam_size=1)
    found = translate(translate.encode(small.TESTED))
    assert [best.ids for best, *_ in found] == expected


@pytest.mark.parametrize("stopping", [False, True, "never"])
@pytest.mark.parametrize("alpha", [0.0, 1.0, 2.0])
def test_beam_search_is_equal(trained, alpha, stopping):
    _, model, tokenizer, loaded = trained
    expected, scores = generate(
        model, tokenizer, small.TESTED, num_beams=4, num_return_sequences=4,
        length_penalty=alpha, early_stopping=stopping,
    )  # fmt: skip
    assert len(set(expected[::4])) >= 10
    assert sum(len(row) < small.LONGEST for row in expected[::4]) >= 10 or alpha > 0
    mode = {False: "heuristic", True: "full", "never": "never"}[stopping]
    translate = translator(loaded, length_penalty=alpha, early_stopping=mode)
    found = translate(translate.encode(small.TESTED))
    assert [h.ids for hypotheses in found for h in hypotheses] == expected
    got = [h.score for hypotheses in found for h in hypotheses]
    np.testing.assert_allclose(got, scores, rtol=1e-5, atol=1e-6)


def test_what_the_folder_says_of_its_search_is_what_generate_does(trained):
    _, model, tokenizer, loaded = trained
    expected, _ = generate(model, tokenizer, TEXTS)  # generation_config.json: 4 beams
    texts = [tokenizer.decode(row, skip_special_tokens=True) for row in expected]
    translate = Translator(loaded.model, loaded.params, loaded.tokenizer, search=loaded.search)
    assert translate.texts(TEXTS) == texts


def test_a_file_of_generation_settings_stands_alone_there_too(tmp_path):
    untrained(tmp_path)
    said = {"num_beams": 7, "max_length": 30, "bad_words_ids": [[9]]}
    path, generation = tmp_path / "config.json", tmp_path / "generation_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | said))
    old = json.loads(generation.read_text())
    generation.write_text(json.dumps({k: v for k, v in old.items() if k != "num_beams"}))
    for file, beams, longest in ((generation, 1, small.LONGEST), (path, 7, 29)):
        theirs = MarianMTModel.from_pretrained(tmp_path)._prepare_generation_config(None)[0]
        found = load_pretrained(tmp_path).search
        assert (theirs.num_beams, theirs.max_length) == (beams, longest + 1), file
        assert (found.beam_size, found.max_length) == (beams, longest)
        assert [[token] for token in found.suppressed] == theirs.bad_words_ids
        generation.unlink(missing_ok=True)


def test_our_export_is_equal_there(trained, tmp_path):
    folder, model, tokenizer, loaded = trained
    save_pretrained(tmp_path, loaded)
    again, words = (
        MarianMTModel.from_pretrained(tmp_path),
        MarianTokenizer.from_pretrained(tmp_path),
    )
    for name, tensor in model.state_dict().items():
        same = again.state_dict()[name][: len(tensor)]  # there may be more positions
        assert torch.equal(tensor, same), name
    for text in TEXTS:
        assert words(text).input_ids == tokenizer(text).input_ids
        ids = tokenizer(text_target=text).input_ids
        assert words(text_target=text).input_ids == ids
        assert words.decode(ids, skip_special_tokens=True) == tokenizer.decode(
            ids, skip_special_tokens=True
        )
    assert generate(again.eval(), words, TEXTS)[0] == generate(model, tokenizer, TEXTS)[0]
    assert_logits_equal(again, words, loaded)


def test_a_model_of_ours_is_equal_there(tmp_path):
    """One tokenizer for both sides, projections without biases, another start token."""
    texts = small.SENTENCES + list(map(small.translation, small.SENTENCES))
    tokenizer = SentencePieceTokenizer.train(texts, tmp_path / "own.model", vocab_size=40)
    config = TransformerConfig(
        vocab_size=40, width=20, num_heads=2, feed_forward_dim=28, encoder_layers=2,
        decoder_layers=1, sinusoids="halves", norm_epsilon=1e-5,
    )  # fmt: skip
    model = Transformer(config)
    tokens = jnp.zeros((1, 2), jnp.int32)
    leaves, tree = jax.tree.flatten(model.init(jax.random.key(0), tokens, tokens)["params"])
    keys = jax.random.split(jax.random.key(1), len(leaves))
    leaves = [x + 0.1 * jax.random.normal(k, x.shape) for x, k in zip(leaves, keys, strict=True)]
    own = PretrainedTransformer(config, model, jax.tree.unflatten(tree, leaves), tokenizer)
    save_pretrained(tmp_path / "folder", own)
    there = MarianMTModel.from_pretrained(tmp_path / "folder").eval()
    words = MarianTokenizer.from_pretrained(tmp_path / "folder")
    for text in TEXTS[:-1]:
        assert words(text).input_ids == [*tokenizer.encode([text])[0], tokenizer.eos_id]
    source, mask = small.encode(words, small.TESTED)
    inputs = np.random.default_rng(0).integers(4, 40, (len(source), 5))
    inputs[:, 0] = there.config.decoder_start_token_id
    assert there.config.decoder_start_token_id == tokenizer.bos_id
    want = their_logits(there, source.numpy(), mask.numpy(), inputs)
    got = our_logits(own, own.params, source.numpy(), mask.numpy(), inputs)
    np.testing.assert_allclose(got, want, rtol=0, atol=1e-5)
    back = load_pretrained(tmp_path / "folder")
    np.testing.assert_allclose(
        our_logits(back, back.params, source.numpy(), mask.numpy(), inputs), got, rtol=0, atol=1e-6
    )

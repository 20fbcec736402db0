"""Filling masks: each text gets what the model says of it alone."""

import dataclasses

import jax
import numpy as np
import pytest
from scipy.special import softmax

from tests.tasks.small_texts import MODEL, WORDS, build
from transformer_jax.parallel.mesh import MeshConfig
from transformer_jax.parallel.sharding import shardings

pytestmark = pytest.mark.usefixtures("quick_compilation")

TEXTS = [
    "the cat sees the [MASK].",
    "[MASK]",
    "a small [MASK] likes the old [MASK] and the red river near a [MASK].",
    "the dog finds today [MASK]",
    "[MASK][MASK] the house",
    "the red [MASK] sees the blue cat and the cat.",
    "xyz [MASK] \u4e2d?",
    "the [MASK] sees the red dog.",
]
LONGER = dataclasses.replace(MODEL, max_positions=40)


@pytest.fixture(scope="module")
def task(tmp_path_factory, text_folder):
    return build(text_folder, tmp_path_factory.mktemp("run"), model=LONGER)


@pytest.fixture(scope="module")
def params(task):
    return jax.jit(task.init_params)(jax.random.key(2))


@pytest.fixture(scope="module")
def apply(task):
    return jax.jit(task.model.apply)


@pytest.fixture(scope="module")
def filler(task, params):
    return task.mask_filler(params, top=4)


def ids_of(tokenizer, text):
    """[CLS] text [SEP], the text cut at its masks; words here have no spaces of their own."""
    parts = [part.ids.tolist() for part in tokenizer.encode(text.split("[MASK]"))]
    ids = parts[0]
    for part in parts[1:]:
        ids = [*ids, tokenizer.mask_id, *part]
    return [tokenizer.cls_id, *ids, tokenizer.sep_id]


def alone(task, params, apply, text, top):
    """What the model says of one text without padding: [(token, probability)] of each mask."""
    ids = np.array(ids_of(task.tokenizer, text))
    logits = np.asarray(apply({"params": params}, ids[None])[0][0], np.float64)
    found = []
    for place in np.flatnonzero(ids == task.tokenizer.mask_id):
        shares = softmax(logits[place, : task.tokenizer.vocab_size])
        best = np.argsort(-shares)[:top]
        found.append([(task.tokenizer.decode([i]), shares[i]) for i in best.tolist()])
    return found


def assert_same(got, want):
    assert len(got) == len(want)
    for guesses, wanted in zip(got, want, strict=True):
        assert [token for token, _ in guesses] == [token for token, _ in wanted]
        shares, wanted_shares = [p for _, p in guesses], [p for _, p in wanted]
        np.testing.assert_allclose(shares, wanted_shares, rtol=1e-4, atol=1e-6)


def test_each_text_gets_what_the_model_says_of_it_alone(task, params, apply, filler):
    want = {text: alone(task, params, apply, text, 4) for text in TEXTS}
    mixed = [text for _ in range(3) for text in TEXTS] + TEXTS[::-1]  # more than a batch
    for text, found in zip(mixed, filler(mixed), strict=True):
        assert_same(found.masks, want[text])
    for text in TEXTS[:3]:
        assert_same(filler([text])[0].masks, want[text])
    assert len({str(guesses) for guesses in want.values()}) == len(TEXTS)


def test_the_best_guesses_stand_in_the_text(filler):
    (found,) = filler(["a [MASK] likes the <mask>!"])
    first, second = (guesses[0].token for guesses in found.masks)
    assert found.text == f"a {first} likes the {second}!"
    assert filler([]) == []


def test_both_spellings_are_one_mask(filler):
    texts = [text for text in TEXTS if "[MASK]" in text]
    other = [text.replace("[MASK]", "<mask>") for text in texts]
    assert [x.masks for x in filler(other)] == [x.masks for x in filler(texts)]


def test_eight_devices_fill_as_one_does(task, params, filler, tmp_path, text_folder):
    want = filler(TEXTS * 2)
    for mesh in (MeshConfig(), MeshConfig(fsdp=2, model=2)):
        other = build(text_folder, tmp_path, model=LONGER, mesh=mesh, devices=8)
        layout = shardings(params, other.mesh, other.sharding_rules)
        found = other.mask_filler(jax.device_put(params, layout), top=4)(TEXTS * 2)
        for a, b in zip(found, want, strict=True):
            assert a.text == b.text
            assert_same(a.masks, b.masks)


def test_rows_beyond_the_vocabulary_are_never_guessed(task, tmp_path, text_folder):
    """A model may have more of them, to divide among devices."""
    task.tokenizer.save(tmp_path / "tokenizer.json")
    larger = dataclasses.replace(LONGER, vocab_size=72)
    file = str(tmp_path / "tokenizer.json")
    other = build(text_folder, tmp_path / "run", model=larger, tokenizer=file)
    params = jax.jit(other.init_params)(jax.random.key(0))
    params["mlm_head"]["bias"] = params["mlm_head"]["bias"].at[64:].set(50.0)
    for found in other.mask_filler(params, top=64)(TEXTS[:3]):
        for guesses in found.masks:
            assert sum(p for _, p in guesses) == pytest.approx(1.0, rel=1e-5)
    with pytest.raises(ValueError, match="top=65 must be in 1..64"):
        other.mask_filler(params, top=65)


def test_a_mask_takes_the_space_before_it_where_spaces_belong_to_words(tmp_path, text_folder):
    model = dataclasses.replace(MODEL, vocab_size=300)
    task = build(text_folder, tmp_path, model=model, tokenizer="byte_bpe")
    t = task.tokenizer
    before, after = (part.ids.tolist() for part in t.encode(["the", " house."]))
    filler = task.mask_filler(task.init_params(jax.random.key(0)), top=1)
    for text in ("the [MASK] house.", "the <mask> house.", "the<mask> house."):
        want = [t.cls_id, *before, t.mask_id, *after, t.sep_id]
        assert filler.encode(text).tolist() == want


def test_what_cannot_be_filled_says_why(filler):
    fitting = ". " * 37 + "[MASK]"
    assert filler.problem(fitting) is None and filler([fitting])
    assert filler.problem(". " + fitting) == "has more than 40 tokens, the positions of the model"
    assert filler.problem("the cat") == filler.problem("") == "has no [MASK]"
    with pytest.raises(ValueError, match="'the cat' has no"):
        filler(["the [MASK]", "the cat"])


@pytest.mark.parametrize("wrong", [-1, 64])
def test_ids_of_no_vocabulary_are_refused(filler, wrong):
    t = filler.tokenizer
    with pytest.raises(ValueError, match=f"token id {wrong} is not in the vocabulary"):
        filler.guess([np.array([t.cls_id, wrong, t.mask_id, t.sep_id])])


def test_a_model_whose_one_bias_is_large_guesses_its_word(task, params):
    word = next(w for w in WORDS if len(task.tokenizer.encode([w])[0].ids) == 1)
    (token,) = task.tokenizer.encode([word])[0].ids
    head = params["mlm_head"]
    sure = params | {"mlm_head": head | {"bias": head["bias"].at[token].set(60.0)}}
    (found,) = task.mask_filler(sure, top=1)(["the [MASK] sees"])
    assert found.text == f"the {word} sees"
    assert found.masks[0][0].probability == pytest.approx(1.0)

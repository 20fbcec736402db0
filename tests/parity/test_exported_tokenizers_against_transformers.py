"""Tokenizers of exported folders: what `transformers` makes of a text is what we make of it."""

import dataclasses
import json
import random

import jax.numpy as jnp
import numpy as np
import pytest
import torch
from transformers import AutoModel, AutoTokenizer, BertTokenizer

from tests.interop.test_bert import pretrained
from transformer_jax import load_pretrained, save_pretrained
from transformer_jax.data.byte_bpe import ByteBpeTokenizer
from transformer_jax.data.sentencepiece_encoder import SentencePieceEncoder
from transformer_jax.data.subword_tokenizers import load_tokenizer
from transformer_jax.data.text_examples import text_examples
from transformer_jax.data.unigram import UnigramTokenizer
from transformer_jax.data.wordpiece import WordPieceTokenizer

FAMILIES = ["bert", "roberta", "distilbert", "albert"]
WORDS = ["".join(random.Random(i).choices("aeioubcdfglmnprst", k=2 + i % 6)) for i in range(100)]
HARD = [
    "The Red CAFÉ naïve über 日本 dog's house",
    "the red\tgreen  blue...\r\n",
    " ``Red'' it's 12,345 = x[1]; ½ İ ΑΣ",
    "",
    "e\u0301 a\u00a0b\u3000c\u200bd Über-Über " + "x" * 101,
]
KINDS = [
    "cased wordpiece",
    "uncased wordpiece",
    "accents wordpiece",
    "one word wordpiece",
    "unclean wordpiece",
    "byte_bpe",
    "spaced byte_bpe",
    "cased sentencepiece",
    "uncased sentencepiece",
    "cased unigram",
    "uncased unigram",
    "accents unigram",
]


def train(kind, folder):
    rng = random.Random(0)
    lines = [" ".join(rng.choices(WORDS, k=rng.randint(2, 9))) for _ in range(200)]
    lines += [part * 3 for part in HARD]
    path, which = folder / "trained", kind.split()[0]
    if kind.endswith("wordpiece"):
        WordPieceTokenizer.train(lines, path, vocab_size=250, lowercase=which == "uncased")
        change(path, "normalizer", WORDPIECES.get(which, {}))
        return load_tokenizer(path)
    if kind.endswith("byte_bpe"):
        ByteBpeTokenizer.train(lines, path, vocab_size=300)
        change(path, "pre_tokenizer", {"add_prefix_space": which == "spaced"})
        return load_tokenizer(path)
    uncased = kind == "uncased sentencepiece"
    found = SentencePieceEncoder.train(lines, path, vocab_size=150, lowercase=uncased)
    if kind.endswith("sentencepiece"):
        return found
    return UnigramTokenizer.from_sentencepiece(
        path, lowercase=which == "uncased", keep_accents=which == "accents"
    )


WORDPIECES = {
    "accents": {"lowercase": True, "strip_accents": False},
    "one word": {"handle_chinese_chars": False},
    "unclean": {"clean_text": False},
}


def change(path, part, changes):
    file = json.loads(path.read_text())
    file[part] |= changes
    path.write_text(json.dumps(file))


@pytest.fixture(scope="module", params=KINDS)
def tokenizer(request, tmp_path_factory):
    return train(request.param, tmp_path_factory.mktemp("tokenizer"))


@pytest.mark.parametrize("family", FAMILIES)
def test_texts_and_pairs_have_the_same_ids_there(tmp_path, tokenizer, family):
    own = pretrained(family, "encoder", vocab_size=tokenizer.vocab_size)
    save_pretrained(tmp_path, dataclasses.replace(own, tokenizer=tokenizer))
    theirs = AutoTokenizer.from_pretrained(tmp_path)
    ours = text_examples(tokenizer, HARD, max_tokens=1000)
    for i, text in enumerate(HARD):
        found = theirs(text, truncation=False)
        assert found["input_ids"] == ours.tokens[i].tolist(), text
        assert ("token_type_ids" in found) == (own.config.type_vocab_size > 1)
    texts = [text for text in HARD if text]  # theirs takes a pair with "" for no pair
    pairs = text_examples(tokenizer, texts, texts[::-1], max_tokens=1000)
    for i, (first, second) in enumerate(zip(texts, texts[::-1], strict=True)):
        found = theirs(first, second, truncation=False)
        assert found["input_ids"] == pairs.tokens[i].tolist(), first
        if types := found.get("token_type_ids"):
            count = pairs.first_sizes[i]
            assert types == [0] * count + [1] * (len(types) - count)
    names = ("pad", "unk", "cls", "sep", "mask")
    ids = [getattr(theirs, f"{name}_token_id") for name in names]
    assert ids == list(tokenizer.special_ids)
    assert len(theirs) == tokenizer.vocab_size
    assert theirs.model_max_length == own.config.max_positions
    again = load_pretrained(tmp_path).tokenizer
    for mine, want in zip(again.encode(HARD), tokenizer.encode(HARD), strict=True):
        np.testing.assert_array_equal(mine.ids, want.ids)


@pytest.mark.parametrize(
    ("family", "kind", "name"),
    [
        ("bert", "cased wordpiece", "BertTokenizer"),
        ("distilbert", "uncased wordpiece", "BertTokenizer"),
        ("roberta", "byte_bpe", "RobertaTokenizer"),
        ("albert", "accents unigram", "AlbertTokenizer"),
        ("bert", "unclean wordpiece", "TokenizersBackend"),
        ("roberta", "cased wordpiece", "TokenizersBackend"),
    ],
)
def test_the_class_is_the_family_s_own_where_it_does_what_the_file_says(
    tmp_path, family, kind, name
):
    tokenizer = train(kind, tmp_path)
    own = pretrained(family, "encoder", vocab_size=tokenizer.vocab_size)
    save_pretrained(tmp_path / "out", dataclasses.replace(own, tokenizer=tokenizer))
    found = AutoTokenizer.from_pretrained(tmp_path / "out")
    assert name in [parent.__name__ for parent in type(found).__mro__][:2]


@pytest.mark.parametrize("lowercase", [True, False])
def test_a_folder_of_theirs_is_exported_with_its_own_words(tmp_path, lowercase):
    names = "[PAD] [UNK] [CLS] [SEP] [MASK] The the red Red é É e a".split()
    vocabulary = {token: i for i, token in enumerate(names)}
    own = pretrained("bert", "encoder", vocab_size=len(names))
    save_pretrained(tmp_path / "theirs", own)
    theirs = BertTokenizer(vocab=vocabulary, do_lower_case=lowercase)
    theirs.save_pretrained(tmp_path / "theirs")
    save_pretrained(tmp_path / "ours", load_pretrained(tmp_path / "theirs"))
    again = AutoTokenizer.from_pretrained(tmp_path / "ours")
    assert again("The Red É")["input_ids"] == theirs("The Red É")["input_ids"]


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("kind", ["uncased wordpiece", "byte_bpe"])
def test_a_padded_batch_of_texts_gives_equal_outputs(tmp_path, family, kind):
    """From text on; the padding's id, which places RoBERTa's positions, is the tokenizer's."""
    tokenizer, texts = train(kind, tmp_path), ["a b c", "to be", "a"]
    sizes = dict(vocab_size=tokenizer.vocab_size, max_positions=32)
    own = dataclasses.replace(pretrained(family, "encoder", **sizes), tokenizer=tokenizer)
    save_pretrained(tmp_path / "out", own)
    theirs = AutoModel.from_pretrained(tmp_path / "out").eval()
    inputs = AutoTokenizer.from_pretrained(tmp_path / "out")(
        texts, texts[::-1], padding=True, return_tensors="pt"
    )
    with torch.no_grad():
        want = theirs(**inputs).last_hidden_state.numpy()
    examples = text_examples(tokenizer, texts, texts[::-1], max_tokens=32)
    for i in range(len(texts)):
        ids = examples.tokens[i]
        types = (np.arange(len(ids)) >= examples.first_sizes[i]).astype(np.int32)
        for model in (own, load_pretrained(tmp_path / "out")):
            typed = {"token_types": types[None]} if own.config.type_vocab_size > 1 else {}
            got = model.model.apply({"params": model.params}, jnp.asarray(ids)[None], **typed)[0]
            np.testing.assert_allclose(
                got, want[i, : len(ids)], rtol=0, atol=1e-5 * abs(want).max()
            )


@pytest.mark.parametrize("chinese", [None, True, False])
@pytest.mark.parametrize("accents", [None, True, False])
@pytest.mark.parametrize("lowercase", [None, True, False])
def test_settings_beside_a_vocab_txt_are_honoured(tmp_path, lowercase, accents, chinese):
    save_pretrained(tmp_path, pretrained("bert", "encoder"))
    marks = list("日本éÉeETthdc") + [f"##{c}" for c in "日本éÉeEhdaf"]
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *marks]
    (tmp_path / "vocab.txt").write_text("\n".join(words) + "\n", encoding="utf-8")
    said = dict(do_lower_case=lowercase, strip_accents=accents, tokenize_chinese_chars=chinese)
    write_settings(tmp_path, "BertTokenizer", said)
    ours, theirs = load_pretrained(tmp_path).tokenizer, AutoTokenizer.from_pretrained(tmp_path)
    for text in ("The É é 日本 T日", "ÉE dé cÉe", *HARD):
        found = theirs(text, add_special_tokens=False)["input_ids"]
        assert ours.encode([text])[0].ids.tolist() == found


@pytest.mark.parametrize("spaced", [None, True, False])
def test_a_space_before_the_first_word_is_honoured_beside_merges(tmp_path, spaced):
    save_pretrained(tmp_path, pretrained("roberta", "encoder", vocab_size=300))
    train("byte_bpe", tmp_path)
    model = json.loads((tmp_path / "trained").read_text())["model"]
    (tmp_path / "vocab.json").write_text(json.dumps(model["vocab"]))
    merges = "\n".join(["#version: 0.2", *(" ".join(pair) for pair in model["merges"]), ""])
    (tmp_path / "merges.txt").write_text(merges, encoding="utf-8")
    write_settings(tmp_path, "RobertaTokenizer", dict(add_prefix_space=spaced))
    ours, theirs = load_pretrained(tmp_path).tokenizer, AutoTokenizer.from_pretrained(tmp_path)
    for text in (WORDS[0], *HARD):
        found = theirs(text, add_special_tokens=False)["input_ids"]
        assert ours.encode([text])[0].ids.tolist() == found


def write_settings(folder, name, said):
    said = {key: value for key, value in said.items() if value is not None}
    text = json.dumps(said | {"tokenizer_class": name})
    (folder / "tokenizer_config.json").write_text(text)

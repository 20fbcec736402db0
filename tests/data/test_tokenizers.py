"""SentencePiece: special ids, what comes back, and what it says of bad input."""

import random

import numpy as np
import pytest
import sentencepiece

from transformer_jax.data import tokenizers
from transformer_jax.data.tokenizers import SentencePieceTokenizer
from transformer_jax.errors import UserError

LETTERS = "aeiouéà" + "bcdfglmnprst"
WORDS = ["…", "«", "»"] + [
    "".join(random.Random(i).choices(LETTERS, k=2 + i % 6)) for i in range(200)
]


SENTENCE = " ".join(WORDS[3:7])


def texts(count=400, seed=0):
    rng = random.Random(seed)
    return [" ".join(rng.choices(WORDS, k=rng.randint(2, 9))) for _ in range(count)]


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory):
    path = tmp_path_factory.mktemp("tokenizer") / "tokenizer.model"
    return SentencePieceTokenizer.train(texts(), path, vocab_size=60)


def test_the_special_tokens_have_the_frozen_ids(tokenizer):
    ids = [getattr(tokenizer, f"{name}_id") for name in ("pad", "eos", "unk", "bos")]
    assert ids == [0, 1, 2, 3]
    assert tokenizer.vocab_size == 60
    assert tokenizer.encode(["日"])[0][-1] == tokenizer.unk_id


def test_what_is_decoded_is_what_was_encoded(tokenizer):
    sentences = [*texts(50, seed=1), "… « »"]  # NFKC would make it three dots
    assert tokenizer.decode(tokenizer.encode(sentences)) == sentences


def test_encoding_adds_no_special_tokens(tokenizer):
    encoded = tokenizer.encode([*texts(20), ""])
    assert encoded[-1] == []
    assert min(min(ids) for ids in encoded[:-1]) > 3
    assert tokenizer.encode([]) == []
    assert tokenizer.encode(["<pad> </s> <s>"])[0].count(tokenizer.eos_id) == 0


def test_decoding_stops_at_the_first_eos_and_drops_padding_and_bos(tokenizer):
    (ids,) = tokenizer.encode([SENTENCE])
    padded = np.array([[3, *ids, 1, ids[0], 0], [0, 3, *ids, 0, 0], [1] + [0] * (len(ids) + 3)])
    assert tokenizer.decode(padded) == [SENTENCE, SENTENCE, ""]
    assert tokenizer.decode([]) == []


@pytest.mark.parametrize("bad", [-1, 60])
def test_an_id_outside_of_the_vocabulary_is_named(tokenizer, bad):
    with pytest.raises(ValueError, match=f"token id {bad} "):
        tokenizer.decode([[5, bad]])
    assert tokenizer.decode([[1, bad]]) == [""]  # after the end anything may stand


def test_training_repeats_itself_byte_for_byte(tmp_path, monkeypatch):
    monkeypatch.setattr(tokenizers, "MAX_TRAINING_SENTENCES", 150)  # so that it takes a sample
    paths = [tmp_path / "one.model", tmp_path / "two.model", tmp_path / "three.model"]
    first, second, third = (
        SentencePieceTokenizer.train(iter(texts()), path, vocab_size=50, seed=seed)
        for path, seed in zip(paths, (0, 0, 1), strict=True)
    )
    assert paths[0].read_bytes() == paths[1].read_bytes()
    assert first.fingerprint == second.fingerprint != third.fingerprint


def test_loading_gives_the_trained_tokenizer(tmp_path):
    trained = SentencePieceTokenizer.train(texts(), tmp_path / "a.model", vocab_size=50)
    loaded = SentencePieceTokenizer(str(tmp_path / "a.model"))
    assert loaded.fingerprint == trained.fingerprint
    assert loaded.encode(texts(5)) == trained.encode(texts(5))
    assert [path.name for path in tmp_path.iterdir()] == ["a.model"]  # no temporary file is left


def test_a_corpus_too_small_for_the_vocabulary_names_the_largest_size(tmp_path):
    path = tmp_path / "a.model"
    with pytest.raises(UserError, match=r"vocab_size=9000: the largest possible is \d+") as caught:
        SentencePieceTokenizer.train(texts(), path, vocab_size=9000)
    assert not path.exists()
    largest = int(str(caught.value).partition("possible is ")[2].partition(".")[0])
    assert SentencePieceTokenizer.train(texts(), path, vocab_size=largest).vocab_size == largest


def test_a_vocabulary_smaller_than_the_characters_names_the_smallest_size(tmp_path):
    with pytest.raises(UserError, match=r"vocab_size=10 is too small.*need \d+"):
        SentencePieceTokenizer.train(texts(), tmp_path / "a.model", vocab_size=10)


@pytest.mark.parametrize("nothing", [[], ["", ""]])
def test_training_on_nothing_is_an_error(tmp_path, nothing):
    with pytest.raises(UserError, match="empty"):
        SentencePieceTokenizer.train(nothing, tmp_path / "a.model", vocab_size=50)


def test_a_missing_or_damaged_model_is_named(tmp_path):
    with pytest.raises(UserError, match=r"absent\.model cannot be read"):
        SentencePieceTokenizer(tmp_path / "absent.model")
    SentencePieceTokenizer.train(texts(), tmp_path / "a.model", vocab_size=50)
    whole = (tmp_path / "a.model").read_bytes()
    for damaged in (b"", b"not a model", whole[: len(whole) // 2]):
        (tmp_path / "a.model").write_bytes(damaged)
        with pytest.raises(UserError, match=r"a\.model"):
            SentencePieceTokenizer(tmp_path / "a.model")


def test_a_model_with_other_special_ids_is_refused(tmp_path):
    with (tmp_path / "foreign.model").open("wb") as file:
        sentencepiece.SentencePieceTrainer.train(
            sentence_iterator=iter(texts()), model_writer=file, vocab_size=50, minloglevel=2
        )
    with pytest.raises(UserError, match="has the ids"):
        SentencePieceTokenizer(tmp_path / "foreign.model")

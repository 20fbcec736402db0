"""ALBERT's tokens of a SentencePiece model, against the package that trains it."""

import json
import random

import pytest
import sentencepiece

from transformer_jax.data.sentencepiece_encoder import SentencePieceEncoder
from transformer_jax.data.subword_tokenizers import load_tokenizer
from transformer_jax.data.unigram import UnigramTokenizer
from transformer_jax.errors import UserError

WORDS = ["".join(random.Random(i).choices("aeioubcdfglm", k=2 + i % 6)) for i in range(100)]


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    draw = random.Random(0)
    words = [*WORDS, "1,000", "12,", "Über", "café"]
    texts = [" ".join(draw.choices(words, k=6)) for _ in range(400)]
    path = tmp_path_factory.mktemp("model") / "spiece.model"
    SentencePieceEncoder.train(texts, path, vocab_size=125, lowercase=False)
    return path


def of(model, lowercase=False, keep_accents=True):
    return UnigramTokenizer.from_sentencepiece(
        model, lowercase=lowercase, keep_accents=keep_accents
    )


def ids(tokenizer, text):
    return tokenizer.encode([text])[0].ids.tolist()


def test_words_are_cut_as_sentencepiece_cuts_them(model):
    processor = sentencepiece.SentencePieceProcessor(model_file=str(model))
    draw = random.Random(1)
    tokenizer = of(model)
    for _ in range(300):
        text = "  ".join(draw.choices([*WORDS, "Über", "café", "ｆｕｌｌ", "zz"], k=5))
        found = tokenizer.encode([text])[0]
        assert found.ids.tolist() == processor.encode(text)
        starts = [
            i for i, piece in enumerate(processor.encode(text, out_type=str)) if piece[0] == "▁"
        ]
        assert found.word_starts.nonzero()[0].tolist() == starts
    assert tokenizer.vocab_size == processor.get_piece_size()
    assert tokenizer.special_ids == (0, 1, 2, 3, 4)


def test_case_and_accents_go_if_the_model_is_uncased(model):
    assert ids(of(model, True, False), "ÜBER Café") == ids(of(model), "uber cafe")
    assert ids(of(model, True, True), "CAFÉ") == ids(of(model), "café")
    assert ids(of(model, False, False), "Café") == ids(of(model), "Cafe")
    assert ids(of(model), "``a''") == ids(of(model), '"a"')


def test_a_number_never_keeps_its_comma(model):
    processor = sentencepiece.SentencePieceProcessor(model_file=str(model))
    assert "▁12," in processor.encode("12,", out_type=str)  # else there is nothing to test
    tokenizer = of(model)
    pieces = [processor.id_to_piece(i) for i in ids(tokenizer, "12, 1,000")]
    assert "".join(pieces) == "▁12,▁1,000"
    assert not any(len(piece) > 1 and piece.endswith(",") for piece in pieces)


def test_what_is_saved_is_loaded_again(model, tmp_path):
    tokenizer = of(model, True, False)
    tokenizer.save(tmp_path / "tokenizer.json")
    loaded = load_tokenizer(tmp_path / "tokenizer.json")
    assert isinstance(loaded, UnigramTokenizer) and loaded.fingerprint == tokenizer.fingerprint
    text = " ".join(WORDS[:9])
    assert loaded.decode([2, *ids(loaded, text), 3]) == text


def test_files_that_are_no_such_model_are_named(model, tmp_path):
    path = tmp_path / "spiece.model"
    for data in (b"", b"\xff" * 40, model.read_bytes()[:-7]):
        path.write_bytes(data)
        with pytest.raises(UserError, match=r"spiece\.model is damaged"):
            of(path)
    texts = iter([" ".join(WORDS)] * 30)
    with path.open("wb") as file:
        sentencepiece.SentencePieceTrainer.train(
            sentence_iterator=texts,
            model_writer=file,
            model_type="bpe",
            vocab_size=60,
            minloglevel=2,
        )
    with pytest.raises(UserError, match="no unigram model"):
        of(path)
    with pytest.raises(UserError, match="cannot be read: No such file"):
        of(tmp_path / "absent.model")


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        (lambda file: file["model"].update(byte_fallback=True), "falls back to bytes"),
        (lambda file: file.update(pre_tokenizer=None), "does not write the spaces"),
        (lambda file: file["model"]["vocab"].pop(), "has no|do not have the ids"),
    ],
)
def test_files_that_cannot_be_honoured_are_refused(model, tmp_path, change, complaint):
    of(model).save(tmp_path / "tokenizer.json")
    file = json.loads((tmp_path / "tokenizer.json").read_text())
    change(file)
    if "vocab" in complaint or "ids" in complaint:
        file["added_tokens"] = []
        del file["model"]["vocab"][2:]
    (tmp_path / "tokenizer.json").write_text(json.dumps(file))
    with pytest.raises(UserError, match=complaint):
        load_tokenizer(tmp_path / "tokenizer.json")

"""Marian's tokenizer against that of `transformers`, on the same files: ids and decoded texts."""

import json
import random

import pytest
import sentencepiece
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import MarianTokenizer as Theirs

from tests.parity import marian as small
from transformer_jax.data.marian_tokenizer import MarianTokenizer, save_as_marian
from transformer_jax.data.tokenizers import SentencePieceTokenizer

SPECIAL = ("</s>", "<unk>", "<pad>")  # in a text these are the tokens there, and text here
TEXTS = [
    "",
    " ",
    "the cat",
    "  the   cat  ",
    "the\tcat\nsees\r\nthe\x0bdog\x0c",
    "the\u00a0cat\u2003sees\u3000the\u202fdog\u200bred\u2028blue\u2029green\ufeff",
    "the\x00cat\x00",
    "\x01\x1b[0m\x7f\x80\x9f",
    "👩‍👩‍👧‍👦 the 🏳️‍🌈 cat 👍🏽",
    "e\u0301te\u0301 été ﬁ ½ Å Å ①",
    "קָט the שלום قطة \u202ered\u202c",
    "日本語 ｃａｔ ﾈｺ",
    "▁the▁cat ▁ ▁▁ sees",
    ">>fra<< red dog",
    ">>fra<<red",
    ">>deu<< red",
    ">><< red",
    ">>fra<<>>fra<< red",
    " >>fra<< red",
    "red >>fra<< dog",
    ">>fra",
    "fra<<",
    ">>the cat\nsees<< red",
    "<s> <s> [PAD] ⁇ <0x41> <mask> </S> < /s> <pad",
    "\ufffd\U0010ffff\ue000\ufdd0",
    "THE CAT. ... !? 'n't' «»",
    "the red cat sees " * 2000,
    "x" * 5000,
]
PARTS = [
    "the",
    "cat",
    " ",
    "  ",
    "▁",
    ">>fra<<",
    ">>",
    "<<",
    "\n",
    "\x00",
    "<",
    "s>",
    "é",
    "\u0301",
]
WILD = st.one_of(
    st.text(max_size=40), st.lists(st.sampled_from(PARTS) | st.text(max_size=3)).map("".join)
)


def plain(text):
    return not any(token in text for token in SPECIAL)


@pytest.fixture(scope="module", params=[False, True], ids=["shared", "separate"])
def both(request, tmp_path_factory):
    """(ours, transformers') of one folder."""
    folder = tmp_path_factory.mktemp("tokenizer")
    small.make_tokenizer(folder, separate=request.param)
    return MarianTokenizer(folder), Theirs.from_pretrained(folder)


def assert_texts_equal(both, text):
    ours, theirs = both
    assert [*ours.encode([text])[0], ours.eos_id] == theirs(text).input_ids
    (ids,) = ours.encode_target([text])
    assert [*ids, ours.eos_id] == theirs(text_target=text).input_ids
    assert_ids_equal(both, ids)


def assert_ids_equal(both, ids):
    ours, theirs = both
    assert ours.decode([ids]) == [theirs.decode(ids, skip_special_tokens=True)]


@pytest.mark.parametrize("text", TEXTS, ids=range(len(TEXTS)))
def test_hard_texts_are_equal(both, text):
    assert_texts_equal(both, text)


@given(text=WILD.filter(plain))
@settings(max_examples=500)
def test_any_text_is_equal(both, text):
    assert_texts_equal(both, text)


@given(data=st.data())
@settings(max_examples=500)
def test_any_ids_are_equal(both, data):
    pieces = both[0].target_pieces(range(both[0].vocab_size))
    known = [i for i, piece in enumerate(pieces) if piece != "<unk>" or i == both[0].unk_id]
    known.remove(both[0].eos_id)
    if pieces.index("<pad>") != both[0].pad_id:  # the target's own, which has no text here
        known.remove(pieces.index("<pad>"))
    ids = data.draw(st.lists(st.sampled_from(known), max_size=30))
    assert_ids_equal(both, ids)
    assert both[0].decode([ids]) == both[0].decode([[*ids, both[0].eos_id, *ids]])


def test_the_documented_differences_are_there(tmp_path, both):
    """Should one of these end, the class has to say so no more."""
    ours, theirs = both
    for token in SPECIAL:
        assert [*ours.encode([token])[0], ours.eos_id] != theirs(token).input_ids
    pad = ours.target_pieces(range(ours.vocab_size)).index("<pad>")
    assert ours.decode([[pad]]) == [""]
    assert theirs.decode([pad], skip_special_tokens=True) == "<pad>" * (pad != ours.pad_id)
    small.make_tokenizer(tmp_path)
    path = tmp_path / "vocab.json"
    path.write_text(json.dumps({p: i + 100 for p, i in json.loads(path.read_text()).items()}))
    (tmp_path / "tokenizer_config.json").unlink()
    ours, theirs = MarianTokenizer(tmp_path), Theirs.from_pretrained(tmp_path)
    assert ours.decode([[20]]) == [""]
    piece = sentencepiece.SentencePieceProcessor(model_file=str(tmp_path / "source.spm"))
    assert theirs.decode([20]) == piece.id_to_piece(20).replace("▁", "") != ""


@pytest.mark.parametrize("separate", [False, True], ids=["shared", "separate"])
def test_pieces_are_put_together_by_the_same_model(tmp_path, separate):
    """A control symbol has no text in the model that knows it, and is text in the other."""
    small.make_tokenizer(tmp_path, separate=separate)
    for side in ("source", "target"):
        with (tmp_path / f"{side}.spm").open("wb") as file:
            sentencepiece.SentencePieceTrainer.train(
                sentence_iterator=iter(small.SENTENCES), model_writer=file, vocab_size=40,
                hard_vocab_limit=False, control_symbols=[f"<{side}>"], minloglevel=2,
            )  # fmt: skip
    for path in tmp_path.glob("*vocab.json"):
        names = json.loads(path.read_text()) | {"<source>": 200, "<target>": 201}
        path.write_text(json.dumps(names))
    both = MarianTokenizer(tmp_path), Theirs.from_pretrained(tmp_path)
    found = both[0].decode([[200], [201]])
    assert found == (["<source>", ""] if separate else ["", "<target>"])
    for ids in ([200], [201], [200, 5, 201, 6]):
        assert_ids_equal(both, ids)


def test_texts_are_cleaned_up_equally(tmp_path):
    small.make_tokenizer(tmp_path)
    path = tmp_path / "vocab.json"
    marks = [" .", " ?", " !", " ,", " '", " n't", " 'm", " 's", " 've", " 're"]
    extra = {mark.replace(" ", "▁"): 200 + i for i, mark in enumerate(marks)}
    names = json.loads(path.read_text()) | extra
    path.write_text(json.dumps(names))
    path = tmp_path / "tokenizer_config.json"
    said = json.loads(path.read_text()) | {"clean_up_tokenization_spaces": True}
    path.write_text(json.dumps(said))
    both = MarianTokenizer(tmp_path), Theirs.from_pretrained(tmp_path)
    assert both[0].decode([[names["."], 200, 204, 200]]) == [".. '."]

    @given(ids=st.lists(st.sampled_from(sorted(set(names.values()) - {0})), max_size=12))
    @settings(max_examples=200)
    def check(ids):
        assert_ids_equal(both, ids)

    check()


@pytest.mark.parametrize("newer", [False, True], ids=["older_folder", "newer_folder"])
@pytest.mark.parametrize("first", ["special_tokens_map.json", "tokenizer_config.json"])
def test_the_same_file_names_the_special_tokens(tmp_path, first, newer):
    small.make_tokenizer(tmp_path)
    path = tmp_path / "vocab.json"
    names = json.loads(path.read_text())
    path.write_text(json.dumps(names | {"<a>": 200, "<b>": 201}))
    path = tmp_path / "tokenizer_config.json"
    said = json.loads(path.read_text())
    del said["added_tokens_decoder"]
    if newer:
        said["added_tokens_decoder"] = {}
    files = {"special_tokens_map.json": {}, "tokenizer_config.json": said}
    files[first] |= {"pad_token": "<a>"}
    if first != "tokenizer_config.json":
        del said["pad_token"]
    for name, settings_ in files.items():
        (tmp_path / name).write_text(json.dumps(settings_))
    assert MarianTokenizer(tmp_path).pad_id == Theirs.from_pretrained(tmp_path).pad_token_id
    both_say = {"pad_token": {"content": "<b>"}}
    (tmp_path / "special_tokens_map.json").write_text(json.dumps(both_say))
    assert MarianTokenizer(tmp_path).pad_id == Theirs.from_pretrained(tmp_path).pad_token_id


def test_ours_saved_over_another_is_ours_there(tmp_path, both):
    ours, _ = both
    small.make_tokenizer(folder := tmp_path / "other", separate=True)
    (folder / "special_tokens_map.json").write_text(json.dumps({"pad_token": "<unk>"}))
    (folder / "added_tokens.json").write_text(json.dumps({"the": 300}))
    ours.save(folder)
    theirs = Theirs.from_pretrained(folder)
    for text in TEXTS:
        assert_texts_equal((ours, theirs), text)
    assert theirs.pad_token_id == ours.pad_id


KINDS = {  # what a side's model is trained with; opus-mt's are of the first kind
    "plain": {},
    "bytes": dict(byte_fallback=True, vocab_size=330),
    "bpe": dict(model_type="bpe"),
    "words": dict(model_type="word"),
    "marks_at_the_end": dict(treat_whitespace_as_suffix=True),
    "no_first_mark": dict(add_dummy_prefix=False, normalization_rule_name="identity"),
    "all_spaces": dict(remove_extra_whitespaces=False),
    "codes": dict(user_defined_symbols=[">>fra<<", "cat"]),
}


@pytest.mark.parametrize("separate", [False, True], ids=["shared", "separate"])
@pytest.mark.parametrize(
    "kinds", [*((kind, "plain") for kind in KINDS), *(("plain", kind) for kind in KINDS)], ids=str
)
def test_models_of_any_kind_are_equal(tmp_path, kinds, separate):
    pieces, sources = set(), small.SENTENCES[:200]
    sides = {"source": sources, "target": list(map(small.translation, sources))}
    for (side, texts), kind in zip(sides.items(), kinds, strict=True):
        with (tmp_path / f"{side}.spm").open("wb") as file:
            options = dict(vocab_size=40, hard_vocab_limit=False, minloglevel=2) | KINDS[kind]
            sentencepiece.SentencePieceTrainer.train(
                sentence_iterator=iter(texts), model_writer=file, **options
            )
        model = sentencepiece.SentencePieceProcessor(model_file=str(tmp_path / f"{side}.spm"))
        pieces |= set(map(model.id_to_piece, range(model.get_piece_size())))
    names = {piece: i for i, piece in enumerate(sorted(pieces | {"<pad>", ">>fra<<"}))}
    for name in ("vocab.json", "target_vocab.json"):
        (tmp_path / name).write_text(json.dumps(names))
    (tmp_path / "tokenizer_config.json").write_text(json.dumps({"separate_vocabs": separate}))
    both = MarianTokenizer(tmp_path), Theirs.from_pretrained(tmp_path)
    for text in TEXTS:
        assert_texts_equal(both, text)
    known = sorted(set(names.values()) - {names["</s>"]})
    for i in range(100):
        assert_ids_equal(both, random.Random(i).choices(known, k=12))


def test_a_tokenizer_of_ours_is_equal_there(tmp_path):
    path = tmp_path / "own.model"
    own = SentencePieceTokenizer.train(small.SENTENCES[:200], path, vocab_size=30)
    save_as_marian(own, tmp_path)
    both = MarianTokenizer(tmp_path, bos_id=own.bos_id), Theirs.from_pretrained(tmp_path)
    for text in TEXTS:
        assert_texts_equal(both, text)
        if not text.startswith(">>"):  # which asks a Marian model for a language
            assert [*own.encode([text])[0], own.eos_id] == both[1](text).input_ids
    for i in range(100):
        assert_ids_equal(both, random.Random(i).choices(range(2, own.vocab_size), k=12))
    assert both[1].pad_token_id == own.pad_id

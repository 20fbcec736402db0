"""The laws that all of the encoders' tokenizers keep, and what each says of bad input."""

import json
import pickle
import random

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from transformer_jax.data import byte_bpe, sentencepiece_encoder, wordpiece
from transformer_jax.data.byte_bpe import ByteBpeTokenizer
from transformer_jax.data.sentencepiece_encoder import SentencePieceEncoder
from transformer_jax.data.subword_tokenizers import load_tokenizer
from transformer_jax.data.tokenizers import SentencePieceTokenizer
from transformer_jax.data.wordpiece import WordPieceTokenizer
from transformer_jax.errors import UserError

WORDS = ["".join(random.Random(i).choices("aeioubcdfglmnprst", k=2 + i % 6)) for i in range(200)]
NAMES = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "<s>", "</s>", "<pad>", "<unk>", "<mask>"]
KINDS = {
    "wordpiece": (WordPieceTokenizer, {"vocab_size": 150, "lowercase": True}),
    "cased wordpiece": (WordPieceTokenizer, {"vocab_size": 150, "lowercase": False}),
    "bytes": (ByteBpeTokenizer, {"vocab_size": 330}),
    "sentencepiece": (SentencePieceEncoder, {"vocab_size": 120, "lowercase": True}),
}
ANYTHING = st.lists(st.sampled_from([*NAMES, *WORDS, " "]) | st.text(st.characters())).map("".join)


def texts(count=300, seed=0):
    rng = random.Random(seed)
    plain = [" ".join(rng.choices(WORDS, k=rng.randint(2, 9))) for _ in range(count)]
    return [*plain, *NAMES * 2, "Hello, World! [ ] < > / masks pad unk sep cls"]


@pytest.fixture(scope="module", params=KINDS)
def kind(request):
    return KINDS[request.param]


@pytest.fixture(scope="module")
def path(kind, tmp_path_factory):
    cls, settings = kind
    path = tmp_path_factory.mktemp("tokenizer") / "tokenizer"
    cls.train(texts(), path, **settings)
    return path


@pytest.fixture(scope="module")
def tokenizer(path):
    return load_tokenizer(path)


def ids_of(tokenizer, texts):
    return [encoded.ids.tolist() for encoded in tokenizer.encode(texts)]


def test_the_file_says_which_kind_it_is_and_gives_the_trained_tokenizer(kind, path, tmp_path):
    cls, settings = kind
    trained, loaded = cls.train(texts(), tmp_path / "t", **settings), load_tokenizer(str(path))
    assert type(loaded) is type(trained) is cls
    assert loaded.fingerprint == trained.fingerprint
    assert loaded.vocab_size == trained.vocab_size == settings["vocab_size"]
    assert ids_of(loaded, texts(20, seed=1)) == ids_of(trained, texts(20, seed=1))
    loaded.save(tmp_path / "u")
    assert (tmp_path / "u").read_bytes() == (tmp_path / "t").read_bytes() == path.read_bytes()
    assert sorted(p.name for p in tmp_path.iterdir()) == ["t", "u"]  # no temporary file is left


def test_training_keeps_a_bounded_sample_however_long_a_paragraph_is(kind, tmp_path, monkeypatch):
    kept = []
    for module in (byte_bpe, sentencepiece_encoder, wordpiece):

        def sample(texts, count, seed, take=module._sample):
            kept.extend(take(texts, count, seed))
            return list(kept)

        monkeypatch.setattr(module, "MAX_TRAINING_SENTENCES", 250)
        monkeypatch.setattr(module, "_sample", sample)
    cls, settings = kind
    cls.train(iter([" ".join(texts())] * 5), tmp_path / "t", **settings)
    assert len(kept) <= 250 and max(map(len, kept)) <= 1000


def test_equal_training_gives_equal_bytes(kind, tmp_path, monkeypatch):
    for module in (byte_bpe, sentencepiece_encoder, wordpiece):
        monkeypatch.setattr(module, "MAX_TRAINING_SENTENCES", 250)  # so that it takes a sample
    cls, settings = kind
    files = [tmp_path / str(i) for i in range(6)]
    for i, file in enumerate(files):
        cls.train(iter(texts()), file, **settings, seed=int(i == 5))
    assert len({file.read_bytes() for file in files[:5]}) == 1
    assert files[0].read_bytes() != files[5].read_bytes()
    fingerprints = [load_tokenizer(files[i]).fingerprint for i in (0, 4, 5)]
    assert fingerprints[0] == fingerprints[1] != fingerprints[2]


def test_special_ids_are_those_of_the_five_special_tokens(tokenizer):
    found = [getattr(tokenizer, f"{name}_id") for name in ("pad", "unk", "cls", "sep", "mask")]
    assert tokenizer.special_ids == tuple(found)
    assert sorted(found) == [0, 1, 2, 3, 4]


@settings(max_examples=100)
@given(given=st.lists(ANYTHING, max_size=4))
def test_any_texts_can_be_encoded_and_never_become_special_tokens(tokenizer, given):
    special = {*tokenizer.special_ids} - {tokenizer.unk_id}
    found = tokenizer.encode(given)
    assert len(found) == len(given)
    for text, (ids, word_starts) in zip(given, found, strict=True):
        assert ids.dtype == np.int32 and word_starts.dtype == bool
        assert ids.shape == word_starts.shape == (len(ids),)
        assert word_starts[:1].all()
        assert not special & {*ids.tolist()} and (ids < tokenizer.vocab_size).all()
        assert isinstance(tokenizer.decode(ids), str)
        (alone,) = tokenizer.encode([text])
        assert alone.ids.tolist() == ids.tolist()


@pytest.mark.parametrize("name", NAMES)
def test_a_special_token_s_name_in_a_text_is_plain_text(tokenizer, name):
    (ids,) = ids_of(tokenizer, [f"{name} {WORDS[0]}{name}"])
    assert not {*ids} & {*tokenizer.special_ids}
    decoded = tokenizer.decode(ids).replace(" ", "").lower()
    assert decoded == f"{name}{WORDS[0]}{name}".lower()


def test_plain_text_is_decoded_as_it_was(tokenizer):
    plain = [" ".join(random.Random(i).choices(WORDS, k=8)) for i in range(30)]
    assert [tokenizer.decode(ids) for ids in ids_of(tokenizer, plain)] == plain


def test_the_tokens_from_a_word_s_start_to_the_next_are_the_word(tokenizer):
    words = random.Random(1).choices(WORDS, k=40)
    (found,) = tokenizer.encode([" ".join(words)])
    parts = np.split(found.ids, np.flatnonzero(found.word_starts)[1:])
    assert [tokenizer.decode(part).strip() for part in parts] == words
    assert len(found.ids) > len(words)  # not each token begins one


def test_special_tokens_have_no_text_but_unknown_ones_do(tokenizer):
    (ids,) = ids_of(tokenizer, [WORDS[7]])
    pad, unk, *others = tokenizer.special_ids
    assert tokenizer.decode([others[0], *ids, *others[1:], pad, pad]) == WORDS[7]
    assert tokenizer.decode(np.array([unk], np.int32)).strip() in ("[UNK]", "<unk>", "⁇")
    assert tokenizer.decode([]) == ""


@pytest.mark.parametrize("past", [-1, 0])
def test_an_id_outside_of_the_vocabulary_is_named(tokenizer, past):
    bad = -1 if past else tokenizer.vocab_size
    with pytest.raises(ValueError, match=f"token id {bad} "):
        tokenizer.decode([5, bad])


def test_odd_texts_have_defined_tokens(tokenizer):
    pair, character, lone, replacement, empty = ids_of(
        tokenizer, ["\ud83d\ude00", "😀", f"\udc00{WORDS[0]}\ud800", f"\ufffd{WORDS[0]}\ufffd", ""]
    )
    assert pair == character
    assert lone == replacement
    assert empty == []
    assert tokenizer.encode([]) == []


def test_a_line_of_a_megabyte_is_encoded(tokenizer):
    word, line = tokenizer.encode(["x" * 1_000_000, f"{WORDS[0]} " * 150_000])
    assert len(word.ids) > 0
    assert line.word_starts.sum() >= 150_000


def test_training_takes_odd_texts_and_long_lines(kind, tmp_path):
    cls, settings = kind
    odd = ["\ud800\ud83d\ude00", "a\0b", "", "\n", "x" * 1_000_000, f"{WORDS[0]} " * 200_000]
    trained = cls.train([*texts(), *odd], tmp_path / "t", **settings)
    assert len(ids_of(trained, [WORDS[0]])[0]) == 1  # the long line was not passed over


def test_a_tokenizer_can_be_sent_to_another_process(tokenizer):
    copy, given = pickle.loads(pickle.dumps(tokenizer)), [*texts(10, seed=2), *NAMES]
    assert ids_of(copy, given) == ids_of(tokenizer, given)
    assert copy.fingerprint == tokenizer.fingerprint


def test_too_few_texts_for_the_vocabulary_name_the_largest_size(kind, tmp_path):
    cls, settings = kind
    with pytest.raises(UserError, match=r"vocab_size=9000: the largest possible is \d+") as caught:
        cls.train(texts(), tmp_path / "t", **settings | {"vocab_size": 9000})
    assert not [*tmp_path.iterdir()]
    largest = int(str(caught.value).partition("possible is ")[2].partition(".")[0])
    trained = cls.train(texts(), tmp_path / "t", **settings | {"vocab_size": largest})
    assert trained.vocab_size == largest


def test_a_vocabulary_too_small_for_the_characters_names_what_it_needs(kind, tmp_path):
    cls, settings = kind
    with pytest.raises(UserError, match=r"vocab_size=20 is too small.*need \d+.*Raise"):
        cls.train(texts(), tmp_path / "t", **settings | {"vocab_size": 20})


@pytest.mark.parametrize("nothing", [[], ["", " \n"]])
def test_training_on_nothing_is_an_error(kind, tmp_path, nothing):
    cls, settings = kind
    with pytest.raises(UserError, match=r"empty|too few"):
        cls.train(nothing, tmp_path / "t", **settings)
    assert not [*tmp_path.iterdir()]


def test_a_missing_or_damaged_file_is_named(kind, path, tmp_path):
    file, whole = tmp_path / "tokenizer.x", path.read_bytes()
    for load in (load_tokenizer, kind[0]):
        with pytest.raises(UserError, match=r"absent cannot be read: No such file"):
            load(tmp_path / "absent")
        with pytest.raises(UserError, match="cannot be read"):
            load(tmp_path)
        for damaged in (b"", b"not a tokenizer", whole[: len(whole) // 2], b"{}", b"[" * 10**5):
            file.write_bytes(damaged)
            with pytest.raises(UserError, match=r"tokenizer\.x.* (damaged|no \[CLS\])"):
                load(file)


def test_another_kind_of_file_is_refused(kind, path, tmp_path):
    for other in {WordPieceTokenizer, ByteBpeTokenizer, SentencePieceEncoder} - {kind[0]}:
        with pytest.raises(UserError, match="damaged|of the kind"):
            other(path)
    SentencePieceTokenizer.train(texts(), tmp_path / "translation", vocab_size=60)
    with pytest.raises(UserError, match=r"has no \[CLS\], \[SEP\], \[MASK\].*train it"):
        load_tokenizer(tmp_path / "translation")


def changed(path, change):
    file = json.loads(path.read_bytes())
    change(file)
    path.write_text(json.dumps(file))
    return path


BAD_FILES = {
    "is of the kind WordLevel|of the kind WordLevel": lambda f: f["model"].update(type="WordLevel"),
    "is damaged .its tokens do not have": lambda f: f["model"]["vocab"].update(new=10**9),
    "is damaged .its vocabulary": lambda f: f["model"].update(vocab=[1]),
    "is damaged .its vocabulary or": lambda f: f.update(added_tokens=["x"]),
    "added to its vocabulary.*'x'": lambda f: f["added_tokens"].append(
        {"id": len(f["model"]["vocab"]), "content": "x", "special": False}
    ),
    "divides a text|not byte-level": lambda f: f.update(pre_tokenizer={"type": "Whitespace"}),
    "divides|changes a text": lambda f: f.update(normalizer={"type": "NFC"}),
    "has no (.MASK.|<mask>).*add them": lambda f: (
        f["model"]["vocab"].update(new=4),
        [f["model"]["vocab"].pop(name, None) for name in ("[MASK]", "<mask>")],
        f["added_tokens"].pop(),
    ),
}


@pytest.mark.parametrize("what", BAD_FILES)
@pytest.mark.parametrize("name", ["wordpiece", "bytes"])
def test_a_tokenizer_json_that_cannot_be_honoured_is_refused(tmp_path, name, what):
    cls, settings = KINDS[name]
    cls.train(texts(), tmp_path / "tokenizer.json", **settings)
    with pytest.raises(UserError, match=rf"tokenizer\.json.*({what})"):
        load_tokenizer(changed(tmp_path / "tokenizer.json", BAD_FILES[what]))


def test_the_unknown_token_has_to_be_in_the_vocabulary_of_the_model(tmp_path):
    WordPieceTokenizer.train(texts(), tmp_path / "t", vocab_size=150, lowercase=True)
    with pytest.raises(UserError, match=r"has \[UNK\] beside its vocabulary"):
        load_tokenizer(changed(tmp_path / "t", lambda file: file["model"]["vocab"].pop("[UNK]")))


def test_a_piece_that_is_no_text_is_named(tmp_path):
    trained = SentencePieceEncoder.train(texts(), tmp_path / "t", vocab_size=120, lowercase=True)
    assert b"[MASK]" in (whole := (tmp_path / "t").read_bytes())
    (tmp_path / "t").write_bytes(whole.replace(b"[MASK]", b"[M\xffSK]"))
    with pytest.raises(UserError, match="is damaged .*utf-8"):
        load_tokenizer(tmp_path / "t")
    trained.save(tmp_path / "t")
    assert load_tokenizer(tmp_path / "t").fingerprint == trained.fingerprint


def test_what_another_program_sets_in_the_file_changes_no_ids(tmp_path):
    trained = WordPieceTokenizer.train(texts(), tmp_path / "t", vocab_size=150, lowercase=True)
    cut = {"direction": "Right", "max_length": 3, "strategy": "LongestFirst", "stride": 0}
    loaded = load_tokenizer(changed(tmp_path / "t", lambda file: file.update(truncation=cut)))
    assert ids_of(loaded, texts(5)) == ids_of(trained, texts(5))


@pytest.fixture(scope="module")
def by_bytes(tmp_path_factory):
    path = tmp_path_factory.mktemp("bytes") / "t"
    return ByteBpeTokenizer.train(texts(), path, vocab_size=330)


@settings(max_examples=200)
@given(text=st.lists(st.sampled_from([*NAMES, *WORDS, " "]) | st.text()).map("".join))
def test_bytes_lose_nothing(by_bytes, text):
    (ids,) = ids_of(by_bytes, [text])
    assert by_bytes.decode(ids) == text
    assert by_bytes.unk_id not in ids


@pytest.fixture
def vocab_and_merges(by_bytes, tmp_path):
    by_bytes.save(tmp_path / "tokenizer.json")
    model = json.loads((tmp_path / "tokenizer.json").read_bytes())["model"]
    merges = "\n".join(["#version: 0.2", *(" ".join(pair) for pair in model["merges"]), ""])
    (tmp_path / "vocab.json").write_text(json.dumps(model["vocab"]))
    (tmp_path / "merges.txt").write_text(merges, encoding="utf-8")
    return tmp_path / "vocab.json", tmp_path / "merges.txt"


def test_vocab_json_and_merges_txt_give_the_tokenizer(by_bytes, vocab_and_merges):
    loaded = ByteBpeTokenizer.from_vocab(*vocab_and_merges)
    assert loaded.fingerprint == by_bytes.fingerprint
    assert ids_of(loaded, texts(20)) == ids_of(by_bytes, texts(20))


def test_bad_vocab_json_and_merges_txt_are_named(vocab_and_merges):
    vocabulary, merges = vocab_and_merges
    whole, pairs = vocabulary.read_text(), merges.read_text()
    for content, what in [
        ("{", r"vocab\.json is damaged"),
        ('{"a": "b"}', r"vocab\.json must give"),
        (whole.replace('"<mask>"', '"mask"'), r"vocab\.json has no <mask>"),
        (whole.replace('"a"', '"aaaa"'), r"merges\.txt does not fit .*vocab\.json"),
    ]:
        vocabulary.write_text(content)
        with pytest.raises(UserError, match=what):
            ByteBpeTokenizer.from_vocab(vocabulary, merges)
    vocabulary.write_text(whole)
    for content, what in [
        (pairs.replace(" ", "", 2), r"merges\.txt:2: a merge is two tokens"),
        (pairs + "zz qq\n", r"merges\.txt does not fit"),
    ]:
        merges.write_text(content, encoding="utf-8")
        with pytest.raises(UserError, match=what):
            ByteBpeTokenizer.from_vocab(vocabulary, merges)
    vocabulary.write_text(whole.replace('"A"', '"AA"'))
    merges.write_text("#version: 0.2\n")
    with pytest.raises(UserError, match=r"vocab\.json lacks 1 of the 256 bytes, such as 'A'"):
        ByteBpeTokenizer.from_vocab(vocabulary, merges)

"""WordPiece against a reference in plain Python, written from BERT's description of its tokens."""

import re
import unicodedata

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from transformer_jax.data.wordpiece import WordPieceTokenizer
from transformer_jax.errors import UserError

SPECIAL = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
CJK = [
    (0x4E00, 0x9FFF),
    (0x3400, 0x4DBF),
    (0x20000, 0x2A6DF),
    (0x2A700, 0x2B73F),
    (0x2B740, 0x2B81F),
    (0x2B820, 0x2CEAF),
    (0xF900, 0xFAFF),
    (0x2F800, 0x2FA1F),
]


def words(text, lowercase):
    """What BERT calls basic tokens; lower case is taken of each character for itself."""
    cleaned = ""
    for c in text:
        kind = unicodedata.category(c)
        if c in "\t\n\r" or kind == "Zs":
            cleaned += " "
        elif c not in "\0\ufffd" and kind not in ("Cc", "Cf", "Cs"):
            cleaned += f" {c} " if any(a <= ord(c) <= b for a, b in CJK) else c
    for token in cleaned.split():
        if lowercase:
            token = unicodedata.normalize("NFD", "".join(map(str.lower, token)))
            token = "".join(c for c in token if unicodedata.category(c) != "Mn")
        spaced = "".join(f" {c} " if is_punctuation(c) else c for c in token)
        yield from spaced.split()


def is_punctuation(c):
    if c.isascii():  # with $, +, <, ^ and others that Unicode takes for symbols
        return c.isprintable() and not c.isalnum() and c != " "
    return unicodedata.category(c).startswith("P")


def pieces(word, vocabulary):
    """The longest piece first, from the left; the whole word is unknown if anything is."""
    found, start = [], 0
    while start < len(word):
        prefix = "##" if start else ""
        for end in range(len(word), start, -1):
            if prefix + word[start:end] in vocabulary:
                break
        else:
            return ["[UNK]"]
        found.append(prefix + word[start:end])
        start = end
    return found if len(word) <= 100 else ["[UNK]"]


def reference(text, vocabulary, lowercase):
    return [p for word in words(text, lowercase) for p in pieces(word, vocabulary)]


def is_settled(c):
    """Whether Unicode's versions agree on a character, and BERT's programs on what it is."""
    kind, old = unicodedata.category(c), unicodedata.ucd_3_2_0.category(c)
    if kind in ("Co", "Cn") or 0x2B820 <= ord(c) <= 0x2B91F:
        return False
    return kind == old or (old == "Cn" and kind[0] in "LNSZ")


SETTLED = [chr(i) for i in range(0x110000) if is_settled(chr(i))]
ENCODABLE = [c for c in SETTLED if unicodedata.category(c) != "Cs"]
PIECES = ["the", "##th", "in", "##ing", "token", "##iz", "##ation", "un", "##able", "ca"]
PARTS = [
    *("the", "tokenization", "Un", "able", "café", "cafe\u0301", "İI", "ǅ", "ß", "ẞ", "Å", "ﬁ"),
    *(" ", "\t", "\r\n", "\u00a0", "\u2028", "\u200b", "\u200d", "\ufeff", "\0", "\x07", "\ufffd"),
    *("日本", "한국", "かな", "、", "!?", "$1.50", "don't", "«", "`^", "##ing", "[MASK]", "[UNK]"),
    *("👩‍👩‍👧‍👦", "👍🏽", "\u0327\u0301", "קָט", "x" * 100, "x" * 101, "\ud800", "\udfff"),
]
PAIR = re.compile("[\ud800-\udbff][\udc00-\udfff]")  # of surrogates: another character
MIXED = st.lists(st.sampled_from(PARTS) | st.text(st.sampled_from(SETTLED)))
MIXED = MIXED.map("".join).filter(lambda text: not PAIR.search(text))


@pytest.fixture(scope="module", params=[True, False], ids=["uncased", "cased"])
def lowercase(request):
    return request.param


@pytest.fixture(scope="module")
def vocabulary():
    """All characters but a few, so that some words are unknown, and some longer pieces."""
    known = [c for c in ENCODABLE if unicodedata.category(c)[0] != "C" and c not in "qœ한"]
    known = [c for c in known if c not in "\u2028\u2029"]
    return [*SPECIAL, *known, *(f"##{c}" for c in known), *PIECES]


@pytest.fixture(scope="module")
def tokenizer(vocabulary, lowercase, tmp_path_factory):
    path = tmp_path_factory.mktemp("wordpiece") / "vocab.txt"
    path.write_bytes("\n".join([*vocabulary, ""]).encode())
    return WordPieceTokenizer.from_vocab(path, lowercase=lowercase)


@pytest.fixture(scope="module")
def names(tokenizer, vocabulary):
    known = set(vocabulary)

    def of(texts):
        """Our tokens and the reference's, of each text."""
        ours = [[vocabulary[i] for i in found.ids] for found in tokenizer.encode(texts)]
        return ours, known

    return of


def test_each_character_is_treated_as_in_the_reference(names, lowercase):
    texts = [f"a{c}a" for c in SETTLED]
    ours, known = names(texts)
    theirs = [reference(text, known, lowercase) for text in texts]
    differing = [
        ascii((text, a, b)) for text, a, b in zip(texts, ours, theirs, strict=True) if a != b
    ]
    assert not differing, differing[:20]
    assert len(texts) > 100_000


@settings(max_examples=300)
@given(texts=st.lists(MIXED, min_size=1, max_size=4))
def test_any_text_has_the_pieces_of_the_reference(names, lowercase, texts):
    ours, known = names(texts)
    assert ours == [reference(text, known, lowercase) for text in texts]


@pytest.mark.parametrize(
    ("text", "uncased", "cased"),
    [
        ("Ünable", ["un", "##able"], ["Ü", "##n", "##able"]),
        ("tokenization's", ["token", "##iz", "##ation", "'", "s"], None),
        ("日本in", ["日", "本", "in"], None),
        ("aq in", ["[UNK]", "in"], None),
        ("a\0\x07\u200b\ufffd\ud800b", ["a", "##b"], None),
        ("x" * 101 + " in", ["[UNK]", "in"], None),
        ("x" * 100, ["x", *["##x"] * 99], None),
        ("##ing", ["#", "#", "in", "##g"], None),
        ("a\ud83d\ude00", ["a", "##\U0001f600"], None),
    ],
)
def test_texts_have_these_pieces(names, lowercase, text, uncased, cased):
    ours, _ = names([text])
    assert ours == [uncased if lowercase or cased is None else cased]


def test_where_google_s_script_differs_it_is_so(names, lowercase):
    ours, _ = names(["ΑΣ", "a\ue000b", "a\u2e43b"])
    assert ours[0] == (["α", "##σ"] if lowercase else ["Α", "##Σ"])  # str.lower() has ς at the end
    assert ours[1] == ["a", "##b"]
    assert ours[2] == ["[UNK]"]  # a dash of Unicode 9, which is in no vocabulary here: one word


@settings(max_examples=200)
@given(text=MIXED)
def test_the_decoded_text_has_the_same_ids(tokenizer, text):
    (found,) = tokenizer.encode([text])
    if tokenizer.unk_id not in found.ids:
        (again,) = tokenizer.encode([tokenizer.decode(found.ids)])
        assert again.ids.tolist() == found.ids.tolist()


def test_plain_text_is_decoded_as_it_was(tokenizer):
    text = "the tokenization, unable! in the end?"
    assert tokenizer.decode(tokenizer.encode([text])[0].ids) == text


@settings(max_examples=200)
@given(text=MIXED)
def test_a_word_starts_where_the_reference_begins_one(tokenizer, names, lowercase, text):
    _, known = names([])
    starts = [
        place == 0 for word in words(text, lowercase) for place in range(len(pieces(word, known)))
    ]
    assert tokenizer.encode([text])[0].word_starts.tolist() == starts


def test_any_word_of_the_alphabet_is_known_after_training(tmp_path):
    texts = ["Every sly jackdaw, being quick, vexed the fop; grazing memory!"] * 40
    trained = WordPieceTokenizer.train(texts, tmp_path / "t", vocab_size=95, lowercase=True)
    assert trained.vocab_size == 95
    (found,) = trained.encode(["zyxwvutsrqponmlkjihgfedcba ,;!"])
    assert trained.unk_id not in found.ids
    assert len(trained.encode(["memory"])[0].ids) == 1


def test_the_rarest_characters_stay_out_of_the_alphabet(tmp_path):
    common = ["the cat sees the dog"] * 1500  # 16 letters each: 24,000 characters
    rare = ["日本", "ж"]  # 3 of them; 2 may stay out, those of the highest code points stay in
    trained = WordPieceTokenizer.train(common + rare, tmp_path / "t", vocab_size=34, lowercase=True)
    found = [int(encoded.ids[0]) == trained.unk_id for encoded in trained.encode(["本", "日", "ж"])]
    assert found == [False, True, True]


@pytest.mark.parametrize(
    ("lines", "what"),
    [
        (SPECIAL[:-1], r"vocab\.txt has no \[MASK\]\..*add them"),
        ([*SPECIAL, "a", "", "b"], r"vocab\.txt:7: the line is empty"),
        ([*SPECIAL, "a", "b", "a"], r"vocab\.txt:8: 'a' stands there a second time"),
        ([], r"vocab\.txt:1: the line is empty"),
    ],
)
def test_a_bad_vocab_txt_is_named(tmp_path, lines, what):
    (tmp_path / "vocab.txt").write_text("\n".join(lines) + "\n")
    with pytest.raises(UserError, match=what):
        WordPieceTokenizer.from_vocab(tmp_path / "vocab.txt", lowercase=True)


def test_a_vocab_txt_that_is_missing_or_no_text_is_named(tmp_path):
    with pytest.raises(UserError, match=r"vocab\.txt cannot be read"):
        WordPieceTokenizer.from_vocab(tmp_path / "vocab.txt", lowercase=True)
    (tmp_path / "vocab.txt").write_bytes(b"\xff\xfe")
    with pytest.raises(UserError, match=r"vocab\.txt.*not UTF-8"):
        WordPieceTokenizer.from_vocab(tmp_path / "vocab.txt", lowercase=True)


def test_special_tokens_may_stand_anywhere_and_lines_may_end_as_on_windows(tmp_path):
    tokens = ["a", "[MASK]", "##b", "[SEP]", "[CLS]", "[PAD]", "[UNK]"]
    (tmp_path / "vocab.txt").write_bytes("\r\n".join(tokens).encode())
    loaded = WordPieceTokenizer.from_vocab(tmp_path / "vocab.txt", lowercase=True)
    assert loaded.special_ids == (5, 6, 4, 3, 1)
    assert loaded.special_ids == (
        *(loaded.pad_id, loaded.unk_id, loaded.cls_id, loaded.sep_id, loaded.mask_id),
    )
    assert loaded.encode(["AB b"])[0].ids.tolist() == [0, 2, 6]

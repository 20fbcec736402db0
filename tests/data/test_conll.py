"""Tagged sentences: how they are read, and which pieces of a word have its label."""

import re

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from transformer_jax.data.byte_bpe import ByteBpeTokenizer
from transformer_jax.data.conll import (
    TaggedSentence,
    encode_words,
    label_pieces,
    read_conll,
    tag_ids,
    tag_names,
)
from transformer_jax.data.sentencepiece_encoder import SentencePieceEncoder
from transformer_jax.data.wordpiece import WordPieceTokenizer
from transformer_jax.errors import UserError

WORDS = ["U.N.", "official", "Ekeus", "heads", "for", "Baghdad", ".", "naïve", "'s", "1996-08-22"]
KINDS = {
    "wordpiece": (WordPieceTokenizer, {"vocab_size": 75, "lowercase": False}),
    "bytes": (ByteBpeTokenizer, {"vocab_size": 270}),
    "sentencepiece": (SentencePieceEncoder, {"vocab_size": 38, "lowercase": False}),
}
FILE = """-DOCSTART- -X- -X- O

EU NNP B-NP B-ORG
rejects VBZ B-VP O

Peter NNP B-NP B-PER
Blackburn NNP I-NP I-PER
"""


@pytest.fixture(scope="module", params=KINDS)
def tokenizer(request, tmp_path_factory):
    cls, settings = KINDS[request.param]
    path = tmp_path_factory.mktemp("tokenizer") / "tokenizer"
    return cls.train([" ".join(WORDS)] * 20, path, **settings)


def write(folder, content):
    content = content.encode() if isinstance(content, str) else content
    (folder / "tagged.txt").write_bytes(content)
    return folder / "tagged.txt"


@pytest.mark.parametrize(
    "change",
    [
        lambda text: text,
        lambda text: text.removesuffix("\n"),
        lambda text: text.replace(" ", "\t"),
        lambda text: "\ufeff" + text.replace("\n", "\r\n"),
        lambda text: text.replace("\n", " \t\n").replace("\n \t\n", "\n\n \n\t\n"),
        lambda text: text.replace("-DOCSTART- -X- -X- O\n\n", "").replace("\n\n", "\n-DOCSTART-\n"),
    ],
)
def test_a_line_is_a_word_and_blank_or_docstart_lines_divide_sentences(tmp_path, change):
    assert read_conll(write(tmp_path, change(FILE))) == [
        TaggedSentence(["EU", "rejects"], ["B-ORG", "O"]),
        TaggedSentence(["Peter", "Blackburn"], ["B-PER", "I-PER"]),
    ]


def test_the_tags_are_in_the_column_that_is_asked_for(tmp_path):
    file = write(tmp_path, FILE)
    for column in (1, -3):
        assert [s.tags for s in read_conll(file, column=column)] == [["NNP", "VBZ"], ["NNP"] * 2]


def test_only_spaces_tabs_and_line_feeds_divide(tmp_path):
    [sentence] = read_conll(write(tmp_path, "10\xa0000\u2028x O\na\x0bb\u3000 B-X\n"))
    assert sentence == TaggedSentence(["10\xa0000\u2028x", "a\x0bb\u3000"], ["O", "B-X"])


@pytest.mark.parametrize(
    ("content", "column", "complaint"),
    [
        ("EU B-ORG\nrejects\n", -1, r"tagged\.txt:2 has 1 columns, too few .* column -1"),
        ("\nEU B-ORG\n", 2, r"tagged\.txt:2 has 2 columns, too few .* column 2"),
        ("EU B-ORG\n", -2, r"tagged\.txt:1 has 2 columns, too few"),
        (b"EU O\n\nM\xfcnchen O\n", -1, r"tagged\.txt:3 is not UTF-8"),
        ("", -1, r"tagged\.txt has no sentences"),
        ("-DOCSTART- O\n\n \n", -1, r"tagged\.txt has no sentences"),
    ],
)
def test_bad_files_are_named_with_the_line(tmp_path, content, column, complaint):
    with pytest.raises(UserError, match=complaint):
        read_conll(write(tmp_path, content), column=column)


def test_a_missing_file_is_an_error(tmp_path):
    with pytest.raises(UserError, match=r"absent\.txt cannot be read"):
        read_conll(tmp_path / "absent.txt")


def test_tags_are_numbered_in_order_with_the_outside_first():
    sentences = [
        TaggedSentence(["a", "b"], ["B-PER", "O"]),
        TaggedSentence(["c", "d"], ["I-LOC", "B-LOC"]),
    ]
    names = tag_names(sentences)
    assert names == ["O", "B-LOC", "B-PER", "I-LOC"]
    assert tag_names(sentences[1:]) == ["B-LOC", "I-LOC"]
    ids = tag_ids(sentences, names)
    assert [i.tolist() for i in ids] == [[2, 0], [3, 1]]
    assert all(i.dtype == np.int32 for i in ids)


def test_an_unknown_tag_is_named_with_its_word():
    sentences = [TaggedSentence(["a"], ["O"]), TaggedSentence(["b", "c"], ["O", "B-X"])]
    with pytest.raises(UserError, match=r"Sentence 2, word 2 \('c'\).*'B-X'.*none of O, B-Y"):
        tag_ids(sentences, ["O", "B-Y"])


def test_the_pieces_of_the_words_are_those_of_the_sentence(tokenizer):
    ids, word = encode_words(tokenizer, WORDS, 1000)
    [whole] = tokenizer.encode([" ".join(WORDS)])
    assert ids.tolist() == whole.ids.tolist()
    assert (ids.dtype, word.dtype, len(word)) == (np.int32, np.int32, len(ids))
    for i in range(len(WORDS)):  # the pieces up to here are the text up to here
        [begin] = tokenizer.encode([" ".join(WORDS[: i + 1])])
        assert (word <= i).sum() == len(begin.ids)
    assert word.tolist() == sorted(word)


def test_a_word_of_which_nothing_is_left_is_one_unknown_piece(tmp_path):
    path = tmp_path / "tokenizer.json"
    tokenizer = WordPieceTokenizer.train(WORDS * 9, path, vocab_size=60, lowercase=True)
    ids, word = encode_words(tokenizer, ["for", "\x07", "\u200b\ufffd", "for"], 100)
    [[known]] = [e.ids[:1] for e in tokenizer.encode(["for"])]
    length = len(tokenizer.encode(["for"])[0].ids)
    assert word.tolist() == [0] * length + [1, 2] + [3] * length
    assert ids[length : length + 2].tolist() == [tokenizer.unk_id] * 2
    assert ids[0] == ids[length + 2] == known


def test_long_sentences_are_cut_and_empty_ones_are_empty(tokenizer):
    ids, word = encode_words(tokenizer, WORDS, 1000)
    for most in (0, 1, 4, len(ids)):
        cut = encode_words(tokenizer, WORDS, most)
        assert [x.tolist() for x in cut] == [ids[:most].tolist(), word[:most].tolist()]
    assert [x.shape for x in encode_words(tokenizer, [], 5)] == [(0,), (0,)]


def test_only_the_first_piece_of_a_word_has_its_label():
    word = np.array([0, 1, 1, 1, 2, 3, 3])  # Jim Hen ##son ##x was pup ##peteer
    labels = label_pieces(np.diff(word, prepend=-1) > 0, np.array([7, 8, 0, 5]))
    assert labels.tolist() == [7, 8, -1, -1, 0, 5, -1]
    assert labels.dtype == np.int32


@given(st.lists(st.booleans(), max_size=12), st.integers(0, 3))
def test_labels_against_a_loop(starts, cut_off):
    tags = np.arange(sum(starts) + cut_off) + 10
    expected, left = [], list(tags)
    for start in starts:
        expected.append(left.pop(0) if start else -1)
    assert label_pieces(np.array(starts, bool), tags).tolist() == expected


def test_words_without_tags_are_refused():
    with pytest.raises(ValueError, match=re.escape("3 words begin, but 2 have tags")):
        label_pieces(np.ones(3, bool), np.zeros(2, int))


def test_comments_of_conll_u_before_a_sentence_are_no_words(tmp_path):
    comments = "# newdoc id = d\n# newpar\n# sent_id = 1-2\n# text = EU rejects it\n# id 12 en\n"
    text = "\ufeff" + comments + "EU x B\n# id x O\n\n# x O\n# = O\n"
    found = read_conll(write(tmp_path, text))
    assert [sentence.words for sentence in found] == [["EU", "#"], ["#", "#"]]
    assert [sentence.tags for sentence in found] == [["B", "O"], ["O", "O"]]

"""Questions of SQuAD, and the windows of their contexts, against loops over their description."""

import json
import random

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from tokenizers import pre_tokenizers

from transformer_jax.data.byte_bpe import ByteBpeTokenizer
from transformer_jax.data.sentencepiece_encoder import SentencePieceEncoder
from transformer_jax.data.squad import Question, read_squad, windows
from transformer_jax.data.wordpiece import WordPieceTokenizer
from transformer_jax.errors import UserError

CONTEXT = (
    "Élodie's café (est. 1870). It cost €5 + 30%, «not» 解二x à 1,234.5 Zürich's naïve re-use…"
)
PARTS = [
    *(
        "the",
        "Café",
        "cafe\u0301",
        "naïve",
        "1870",
        "5th",
        "İI",
        "x_y",
        "解",
        "二x",
        "한국어",
        "ÅΣς",
    ),
    *(
        "(",
        ")",
        ".",
        ",",
        "...",
        "'s",
        "n't",
        "$",
        "€",
        "+",
        "-",
        "«",
        "»",
        "…",
        "—",
        "、",
        "\u0301",
    ),
    *(
        " ",
        " ",
        " ",
        "  ",
        "\n",
        "\t",
        "\xa0",
        "\u2028",
        "\u3000",
        "\x07",
        "\x0b",
        "\x85",
        "\u200b",
    ),
    *("\u200d", "\ufeff", "\ufffd", "\0", "\ud83d", "😀", "[SEP]", "x" * 101),
]
TEXTS = st.lists(st.sampled_from(PARTS), max_size=12).map("".join)
KINDS = {
    "wordpiece": (WordPieceTokenizer, {"vocab_size": 150, "lowercase": True}),
    "cased wordpiece": (WordPieceTokenizer, {"vocab_size": 150, "lowercase": False}),
    "bytes": (ByteBpeTokenizer, {"vocab_size": 300}),
    "sentencepiece": (SentencePieceEncoder, {"vocab_size": 90, "lowercase": True}),
}


@pytest.fixture(scope="module")
def tokenizers(tmp_path_factory):
    folder = tmp_path_factory.mktemp("tokenizers")
    kept = [part for part in PARTS if part.isprintable() and len(part) < 9]
    texts = [" ".join(random.Random(i).sample(kept, 9)) for i in range(60)] + [CONTEXT] * 20
    return {
        name: cls.train(texts, folder / name, **settings) for name, (cls, settings) in KINDS.items()
    }


def ask(context, *answers, question="Which one?"):
    found = tuple((text, context.index(text)) for text in answers)
    return Question("q", question, context, found, not found)


def whole(tokenizer, context):
    """The one window of a context that is not too long."""
    [window] = windows(tokenizer, ask(context), max_tokens=10_000, stride=128)
    return window


def test_version_one_and_two_are_read_in_order(tmp_path):
    file = tmp_path / "dev.json"
    record = {"id": "a", "question": "Who?", "answers": [{"text": "Ann", "answer_start": 4}]}
    none = {"id": "b", "question": " Why? ", "answers": [], "is_impossible": True}
    more = {**none, "plausible_answers": [{"text": "Bob", "answer_start": 0}]}
    two = [{"text": "é1", "answer_start": 1}, {"text": "1", "answer_start": 2}]
    third = {"id": "c", "question": "What?", "answers": two, "is_impossible": False}
    paragraphs = [{"context": "It. Ann.", "qas": [record, more]}]
    articles = [{"title": "t", "paragraphs": paragraphs}]
    articles.append(
        {"paragraphs": [{"context": "", "qas": []}, {"context": "😀é1", "qas": [third]}]}
    )
    text = json.dumps({"version": "v2.0", "data": articles})
    for content in (text, "\ufeff" + text, json.dumps(json.loads(text), ensure_ascii=False)):
        file.write_text(content, encoding="utf-8")
        assert read_squad(file) == [
            Question("a", "Who?", "It. Ann.", (("Ann", 4),), False),
            Question("b", " Why? ", "It. Ann.", (), True),
            Question("c", "What?", "😀é1", (("é1", 1), ("1", 2)), False),
        ]


def broken(**changes):
    """A file whose second question is changed; None takes a key away."""
    answer = {"text": "Ann", "answer_start": 4}
    first = {"id": "a", "question": "Who?", "answers": [answer]}
    second = {"id": "b", "question": "Who?", "answers": [answer]} | changes
    second = {key: value for key, value in second.items() if value is not None}
    return {"data": [{"paragraphs": [{"context": "It. Ann.", "qas": [first, second]}]}]}


HERE = r"dev\.json, article 1, paragraph 1, question 2"


@pytest.mark.parametrize(
    ("content", "complaint"),
    [
        (broken(id=None), rf"{HERE} has no 'id' that is a str"),
        (broken(id=3), rf"{HERE} has no 'id' that is a str"),
        (broken(id="a"), rf"{HERE}: the id 'a' is also that of article 1, paragraph 1, question 1"),
        (broken(question=None), rf"{HERE} \(b\) has no 'question'"),
        (broken(answers=None), rf"{HERE} \(b\) has no 'answers' that is a list"),
        (broken(answers=["Ann"]), rf"{HERE} \(b\) has no 'text'"),
        (broken(answers=[{"text": "Ann"}]), rf"{HERE} \(b\) has no 'answer_start'"),
        (broken(answers=[{"text": "t", "answer_start": True}]), r"no 'answer_start' that is a int"),
        (broken(answers=[{"text": "Ann", "answer_start": 3}]), r"'Ann' .*character 3 .*' An'"),
        (
            broken(answers=[{"text": "Ann", "answer_start": 9}]),
            r"9 of .*, which has 8 and there ''",
        ),
        (broken(answers=[{"text": "Ann", "answer_start": -4}]), rf"{HERE} \(b\).*character -4"),
        (broken(answers=[{"text": "", "answer_start": 4}]), rf"{HERE} \(b\): the answer ''"),
        (broken(answers=[]), rf"{HERE} \(b\) has 0 answers, and is_impossible is False"),
        (broken(is_impossible=True), rf"{HERE} \(b\) has 1 answers, and is_impossible is True"),
        (broken(is_impossible="no"), rf"{HERE} \(b\) has no 'is_impossible' that is a bool"),
        ({"data": [{"paragraphs": [{"qas": []}]}]}, r"article 1, paragraph 1 has no 'context'"),
        ({"data": [{"paragraphs": [{"context": ""}]}]}, r"article 1, paragraph 1 has no 'qas'"),
        ({"data": [{"paragraphs": []}, {}]}, r"article 2 has no 'paragraphs' that is a list"),
        ({"data": [1]}, r"article 1 has no 'paragraphs'"),
        ({"data": []}, r"dev\.json has no questions"),
        ([], r"dev\.json has no 'data' that is a list"),
        ('{\n"data": [}', r"dev\.json:2 is no JSON"),
        ("", r"dev\.json:1 is no JSON"),
        ("[" * 100_000, r"dev\.json is no file of SQuAD: it is nested too deeply"),
        (b'{"data": "\xff"}', r"dev\.json is not UTF-8"),
    ],
)
def test_a_bad_file_is_named_with_the_place(tmp_path, content, complaint):
    file = tmp_path / "dev.json"
    if not isinstance(content, bytes):
        content = (content if isinstance(content, str) else json.dumps(content)).encode()
    file.write_bytes(content)
    with pytest.raises(UserError, match=complaint):
        read_squad(file)


def test_a_missing_file_is_an_error(tmp_path):
    with pytest.raises(UserError, match=r"absent\.json cannot be read"):
        read_squad(tmp_path / "absent.json")


@pytest.mark.parametrize("name", ["wordpiece", "cased wordpiece"])
@pytest.mark.parametrize("context", [CONTEXT, f"\n {CONTEXT}\u3000", "", " \x07 ", "Ὰ\u0345`a´;b"])
def test_wordpieces_are_those_of_the_whole_text(tokenizers, name, context):
    expected = tokenizers[name].encode([context])[0].ids.tolist()
    assert whole(tokenizers[name], context).context_ids.tolist() == expected


@given(text=TEXTS)
def test_wordpieces_are_those_of_any_text(tokenizers, text):
    for name in ("wordpiece", "cased wordpiece"):
        expected = tokenizers[name].encode([text])[0].ids.tolist()
        assert whole(tokenizers[name], text).context_ids.tolist() == expected


def gpt2_borders(text):
    """Where GPT-2 divides a text, without the spaces that its words begin with."""
    divide = pre_tokenizers.ByteLevel(add_prefix_space=False).pre_tokenize_str
    return {a + text[a:b].startswith(" ") for _, (a, b) in divide(text)}


@pytest.mark.parametrize(
    "text",
    ["It cost (in 1870) a lot, x.", "naïve Zürich, « not » 1870!", "a . b - c ( d )", " It's"],
)
def test_bytes_are_those_of_the_whole_text_where_gpt2_divides_it_too(tokenizers, text):
    window = whole(tokenizers["bytes"], text)
    same = set(window.spans[:, 0].tolist()) <= gpt2_borders(text)
    assert same != ("'" in text)  # GPT-2 takes 's for one word
    expected = tokenizers["bytes"].encode([text])[0].ids.tolist()
    assert (window.context_ids.tolist() == expected) >= same


@given(st.lists(st.sampled_from([p for p in PARTS if p.isprintable() and " " not in p])))
def test_bytes_are_those_of_any_text_where_gpt2_divides_it_too(tokenizers, words):
    for text in (" ".join(words), "".join(words)):
        window = whole(tokenizers["bytes"], text)
        if set(window.spans[:, 0].tolist()) <= gpt2_borders(text):
            expected = tokenizers["bytes"].encode([text])[0].ids.tolist()
            assert window.context_ids.tolist() == expected


def test_a_token_has_the_characters_of_its_part(tokenizers):
    window = whole(tokenizers["wordpiece"], "Ab 1870). \t二x€5 n't")
    expected = ["Ab", "1870", ")", ".", "二", "x€5", "n", "'", "t"]
    spans = list(dict.fromkeys(map(tuple, window.spans.tolist())))
    assert ["Ab 1870). \t二x€5 n't"[a:b] for a, b in spans] == expected
    assert (window.spans.dtype, window.spans.shape) == (np.int64, (len(window.context_ids), 2))


@pytest.mark.parametrize("name", KINDS)
def test_each_character_that_becomes_a_token_is_in_one_part(tokenizers, name):
    window = whole(tokenizers[name], CONTEXT)
    spans = sorted(set(map(tuple, window.spans.tolist())))
    assert "".join(CONTEXT[a:b] for a, b in spans) == CONTEXT.replace(" ", "")
    assert window.spans.tolist() == sorted(window.spans.tolist())
    for begin, end in spans:  # a part's tokens are those of the part alone
        mine = window.context_ids[(window.spans == [begin, end]).all(axis=1)].tolist()
        space = " " if begin and CONTEXT[begin - 1] == " " else ""
        assert mine == tokenizers[name].encode([space + CONTEXT[begin:end]])[0].ids.tolist()


def reference(count, room, stride):
    """Where windows begin and end, and in which one each token has most around it."""
    places, start = [], 0
    while not places or places[-1][1] < count:
        places.append((start, min(start + room, count)))
        start += min(stride, room)
    best = []
    for token in range(count):
        scores = {}
        for i, (a, b) in enumerate(places):
            if a <= token < b:
                scores[i] = min(token - a, b - 1 - token) + 0.01 * (b - a)
        best.append(max(scores, key=scores.get))  # the first of the best
    return places, best


@example(301, 300, 128)  # the last window is so much shorter that its length counts
@given(st.integers(0, 40), st.integers(1, 12), st.integers(1, 15))
def test_windows_against_a_loop(tokenizers, count, room, stride):
    tokenizer = tokenizers["wordpiece"]
    question = ask(" ".join("(" * count))
    length = len(tokenizer.encode([question.question])[0].ids)
    found = windows(
        tokenizer, question, max_tokens=room + length + 3, stride=stride, max_question_tokens=length
    )
    places, best = reference(count, room, stride)
    assert [w.spans[:, 0].tolist() for w in found] == [
        list(range(2 * a, 2 * b, 2)) for a, b in places
    ]
    for i, ((a, b), window) in enumerate(zip(places, found, strict=True)):
        assert window.has_max_context.tolist() == [j == i for j in best[a:b]]
        assert len(window.context_ids) == b - a
        assert window.question_ids.tolist() == tokenizer.encode(["Which one?"])[0].ids.tolist()


def test_each_token_has_its_best_context_once(tokenizers):
    found = windows(
        tokenizers["bytes"], ask(CONTEXT * 3), max_tokens=40, stride=7, max_question_tokens=5
    )
    assert len(found) > 5
    shown = sum(int(window.has_max_context.sum()) for window in found)
    assert shown == len(whole(tokenizers["bytes"], CONTEXT * 3).context_ids)


def test_the_best_context_of_the_example_in_googles_script(tokenizers):
    """The man went to the store and bought a gallon of milk: windows of five, three apart."""
    context = " ".join("( ) . , - + ( ) . , - +".split())
    found = windows(
        tokenizers["wordpiece"],
        ask(context, question="."),
        max_tokens=9,
        stride=3,
        max_question_tokens=1,
    )
    assert [len(window.context_ids) for window in found] == [5, 5, 5, 3]
    bought = 7
    assert not found[1].has_max_context[bought - 3]  # 4 left, none right
    assert found[2].has_max_context[bought - 6]  # 1 left, 3 right


@pytest.mark.parametrize("name", KINDS)
@pytest.mark.parametrize("text", ["café", "1870", "(est. 1870)", "1,234.5", "解", "Zürich", "It"])
def test_an_answer_of_whole_parts_is_where_its_tokens_are(tokenizers, name, text):
    question = ask(CONTEXT, text)
    shown = 0
    for window in windows(
        tokenizers[name], question, max_tokens=40, stride=5, max_question_tokens=9
    ):
        begin, end = question.answers[0][1], question.answers[0][1] + len(text)
        inside = [i for i, (a, b) in enumerate(window.spans.tolist()) if begin <= a and b <= end]
        is_whole = {begin, end} <= {int(x) for x in window.spans[inside].reshape(-1)}
        all_tokens = (whole(tokenizers[name], CONTEXT).spans[:, 0] >= begin) & (
            whole(tokenizers[name], CONTEXT).spans[:, 1] <= end
        )
        if is_whole and len(inside) == all_tokens.sum():
            assert window.answer == (inside[0], inside[-1])
            start, last = window.answer
            assert CONTEXT[window.spans[start, 0] : window.spans[last, 1]] == text
            shown += 1
        else:
            assert window.answer is None
    assert shown


def test_an_answer_within_a_word_is_the_whole_word(tokenizers):
    window = windows(tokenizers["wordpiece"], ask("the naïve x", "aïv"), max_tokens=100, stride=9)[
        0
    ]
    start, end = window.answer
    assert window.spans[[start, end]].tolist() == [[4, 9], [4, 9]]
    assert start == window.spans[:, 0].tolist().index(4)
    assert end == len(window.spans) - 2


def test_the_first_answer_is_the_one_to_learn(tokenizers):
    [window] = windows(tokenizers["wordpiece"], ask("( ) .", ")", "("), max_tokens=100, stride=9)
    assert window.answer == (1, 1)


@pytest.mark.parametrize("question", [ask("( )"), ask("( \x07 )", "\x07"), ask("( )", " ")])
def test_there_is_no_place_for_no_answer_or_one_that_is_no_token(tokenizers, question):
    [window] = windows(tokenizers["wordpiece"], question, max_tokens=100, stride=9)
    assert window.answer is None


def test_a_long_question_is_cut_and_its_room_is_the_contexts(tokenizers):
    question = ask(" ".join("(" * 50), question="  ? . , - + ? . , - +  ")
    for most, asked in ((4, 4), (10, 10), (64, 10)):
        found = windows(
            tokenizers["wordpiece"], question, max_tokens=68, stride=3, max_question_tokens=most
        )
        expected = tokenizers["wordpiece"].encode([question.question])[0].ids[:asked]
        assert found[0].question_ids.tolist() == expected.tolist()
        assert len(found[0].context_ids) == min(50, 68 - asked - 3)


@pytest.mark.parametrize("numbers", [(67, 1), (68, 0)])
def test_settings_that_leave_no_room_are_refused(tokenizers, numbers):
    max_tokens, stride = numbers
    with pytest.raises(ValueError, match=f"max_tokens={max_tokens}.*stride={stride}"):
        windows(tokenizers["bytes"], ask("x"), max_tokens=max_tokens, stride=stride)

"""Texts as an encoder reads them: special tokens, cutting, packed rows."""

import numpy as np
import pytest

from transformer_jax.data.text_examples import example_rows, pack_examples, text_examples
from transformer_jax.data.wordpiece import WordPieceTokenizer

WORDS = [f"w{letter}" for letter in "abcdefghijklmnop"]


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory):
    file = tmp_path_factory.mktemp("tokenizer") / "tokenizer.json"
    return WordPieceTokenizer.train(WORDS * 4, file, vocab_size=50, lowercase=True)


def ids(tokenizer, text):
    return tokenizer.encode([text])[0].ids.tolist()


def cut_by_steps(left, right, room):
    """One token at a time from the longer text."""
    left, right = list(left), list(right)
    while len(left) + len(right) > room:
        (left if len(left) > len(right) else right).pop()
    return left, right


@pytest.mark.parametrize("twice", [False, True])
@pytest.mark.parametrize("max_tokens", range(6, 20))
def test_pairs_are_cut_as_one_token_after_another(tokenizer, monkeypatch, twice, max_tokens):
    monkeypatch.setattr(type(tokenizer), "separates_twice", twice)
    texts = [" ".join(WORDS[:n]) for n in (0, 1, 2, 5, 8, 9)]
    first, second = zip(*[(a, b) for a in texts for b in texts], strict=True)
    found = text_examples(tokenizer, first, second, max_tokens=max_tokens)
    cls, sep = tokenizer.cls_id, tokenizer.sep_id
    for i, pair in enumerate(zip(first, second, strict=True)):
        a, b = (ids(tokenizer, text) for text in pair)
        left, right = cut_by_steps(a, b, max_tokens - 3 - twice)
        want = [cls, *left, sep, *[sep] * twice, *right, sep]
        assert found.tokens[i].tolist() == want
        assert found.first_sizes[i] == len(left) + 2
        assert found.cut[i] == len(a) + len(b) - len(left) - len(right)


def test_a_long_text_loses_its_end(tokenizer):
    texts = ["wa wb wc wd", "wa", ""]
    found = text_examples(tokenizer, texts, max_tokens=5)
    kept = ids(tokenizer, texts[0])
    assert found.tokens[0].tolist() == [tokenizer.cls_id, *kept[:3], tokenizer.sep_id]
    assert found.tokens[2].tolist() == [tokenizer.cls_id, tokenizer.sep_id]
    assert found.cut.tolist() == [len(kept) - 3, 0, 0]
    assert found.first_sizes.tolist() == found.tokens.lengths.tolist()


def test_what_makes_no_examples_is_refused(tokenizer):
    with pytest.raises(ValueError, match="max_tokens=2 leaves no room"):
        text_examples(tokenizer, ["wa"], max_tokens=2)
    with pytest.raises(ValueError, match="2 first texts and 1 second"):
        text_examples(tokenizer, ["wa", "wb"], ["wa"], max_tokens=9)


def test_rows_hold_each_example_once_and_whole(tokenizer):
    rng = np.random.default_rng(0)
    texts = [" ".join(rng.choice(WORDS, rng.integers(0, 9))) for _ in range(60)]
    examples = text_examples(tokenizer, texts, texts[::-1], max_tokens=14)
    shape = {"row_length": 30, "row_examples": 4}
    rows = pack_examples(examples, **shape, seed=0, epoch=0)
    batch = example_rows(examples, [*rows, np.zeros(0, np.int64)], **shape)
    seen = []
    for row in range(len(rows) + 1):
        for place, i in enumerate(batch["examples"][row]):
            inside = batch["segments"][row] == place + 1
            if i < 0:
                assert not inside.any()
                continue
            seen.append(i)
            assert batch["tokens"][row][inside].tolist() == examples.tokens[i].tolist()
            assert batch["positions"][row][inside].tolist() == list(range(inside.sum()))
            assert np.flatnonzero(inside)[0] == batch["first_tokens"][row, place]
            types = batch["token_types"][row][inside]
            assert types.tolist() == sorted(types.tolist())
            assert (types == 0).sum() == examples.first_sizes[i]
        empty = batch["segments"][row] == 0
        for name in ("tokens", "positions", "token_types"):
            assert not batch[name][row][empty].any()
    assert sorted(seen) == list(range(60))
    others = pack_examples(examples, **shape, seed=0, epoch=1)
    assert [row.tolist() for row in others] != [row.tolist() for row in rows]


def test_a_row_that_cannot_be_is_refused(tokenizer):
    examples = text_examples(tokenizer, ["wa"] * 3, max_tokens=9)
    with pytest.raises(ValueError, match="row 0 has 3 examples"):
        example_rows(examples, [np.arange(3)], row_length=30, row_examples=2)

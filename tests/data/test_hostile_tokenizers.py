"""Tokenizers' files that do harm or lie: refused by name; what is taken has ids within its size."""

import json
import random

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.hostile import PAYLOADS, changes, damages, payloads, refused
from transformer_jax.data.byte_bpe import ByteBpeTokenizer
from transformer_jax.data.sentencepiece_encoder import SentencePieceEncoder
from transformer_jax.data.subword_tokenizers import load_tokenizer
from transformer_jax.data.tokenizers import SentencePieceTokenizer
from transformer_jax.data.unigram import UnigramTokenizer
from transformer_jax.data.wordpiece import WordPieceTokenizer
from transformer_jax.errors import UserError

WORDS = "the red green blue cat dog house sees".split()
TEXTS = [" ".join(random.Random(i).choices(WORDS, k=4)) for i in range(200)]
ODD_TEXTS = [
    "the red cat",
    "",
    " ",
    "\0",
    "日本 é\u0301",
    "x" * 3000,
    "[MASK]<s>",
    "\ud800",
    "\ufeff",
]
SEARCH = settings(suppress_health_check=list(HealthCheck), max_examples=150)


def uncased(path):
    return UnigramTokenizer.from_sentencepiece(path, lowercase=True, keep_accents=False)


@pytest.fixture(scope="module")
def good(tmp_path_factory):
    """Files of all kinds."""
    root = tmp_path_factory.mktemp("tokenizers")
    WordPieceTokenizer.train(TEXTS, root / "words.json", vocab_size=45, lowercase=True)
    ByteBpeTokenizer.train(TEXTS, root / "bytes.json", vocab_size=275)
    SentencePieceEncoder.train(TEXTS, root / "pieces.model", vocab_size=28, lowercase=True)
    SentencePieceTokenizer.train(TEXTS, root / "own.model", vocab_size=27)
    uncased(root / "pieces.model").save(root / "pieces.json")
    vocabulary = json.loads((root / "words.json").read_text())["model"]["vocab"]
    (root / "vocab.txt").write_text("\n".join(sorted(vocabulary, key=vocabulary.get)))
    model = json.loads((root / "bytes.json").read_text())["model"]
    (root / "vocab.json").write_text(json.dumps(model["vocab"]))
    (root / "merges.txt").write_text("\n".join(map(" ".join, model["merges"])))
    return root


LOADERS = {
    "words.json": load_tokenizer,
    "bytes.json": load_tokenizer,
    "pieces.json": load_tokenizer,
    "pieces.model": load_tokenizer,
    "own.model": SentencePieceTokenizer,
    "vocab.txt": lambda path: WordPieceTokenizer.from_vocab(path, lowercase=True),
    "vocab.json": lambda path: ByteBpeTokenizer.from_vocab(path, path.with_name("merges.txt")),
    "merges.txt": lambda path: ByteBpeTokenizer.from_vocab(path.with_name("vocab.json"), path),
}


def load(good, folder, name, data):
    """Loads the file of this name with other bytes in it."""
    for beside in ("vocab.json", "merges.txt"):
        (folder / beside).write_bytes((good / beside).read_bytes())
    (folder / name).write_bytes(data)
    return LOADERS[name](folder / name)


def use(tokenizer):
    """Encodes and decodes odd texts, and sees that all ids are tokens."""
    size = tokenizer.vocab_size
    if isinstance(tokenizer, SentencePieceTokenizer):
        found = tokenizer.encode(ODD_TEXTS)
        assert len(tokenizer.decode(found)) == len(ODD_TEXTS)
        assert all(0 <= i < size for ids in found for i in ids)
        return
    special = {*tokenizer.special_ids} - {tokenizer.unk_id}
    for ids, starts in tokenizer.encode(ODD_TEXTS):
        assert len(ids) == len(starts) and all(0 <= i < size for i in ids)
        assert len(special) < 4 or not special & {*ids.tolist()}
        assert isinstance(tokenizer.decode(ids), str) and len(tokenizer.pieces(ids)) == len(ids)


@pytest.mark.parametrize("name", LOADERS)
def test_a_good_file_is_loaded_and_takes_any_text(good, tmp_path, name):
    use(load(good, tmp_path, name, (good / name).read_bytes()))


@pytest.mark.parametrize("payload", PAYLOADS)
@pytest.mark.parametrize("name", LOADERS)
def test_a_harmful_file_is_refused_by_name_and_not_run(good, tmp_path, name, payload):
    trace = tmp_path / "trace"
    with refused(trace, name):
        load(good, tmp_path, name, payloads(trace)[payload])


@pytest.mark.parametrize("name", LOADERS)
@SEARCH
@given(data=st.data())
def test_a_damaged_file_is_refused_or_gives_tokens(good, tmp_path, name, data):
    damaged = data.draw(damages((good / name).read_bytes()))
    try:
        tokenizer = load(good, tmp_path, name, damaged)
    except UserError as error:
        assert str(tmp_path) in str(error) and len(str(error)) < 10_000
    else:
        use(tokenizer)


@pytest.mark.parametrize("name", ["words.json", "bytes.json", "pieces.json", "vocab.json"])
@SEARCH
@given(data=st.data())
def test_changed_settings_are_refused_or_give_tokens(good, tmp_path, name, data):
    file = json.loads((good / name).read_text())
    try:
        tokenizer = load(good, tmp_path, name, json.dumps(data.draw(changes(file))).encode())
    except UserError as error:
        assert str(tmp_path) in str(error) and len(str(error)) < 10_000
    else:
        use(tokenizer)


@pytest.mark.parametrize("start", [b"\xef\xbb\xbf", b""])
@pytest.mark.parametrize("name", ["vocab.txt", "merges.txt", "vocab.json", "words.json"])
def test_a_bom_and_crlf_change_nothing(good, tmp_path, name, start):
    whole = (good / name).read_bytes()
    tokenizer = load(good, tmp_path, name, start + whole.replace(b"\n", b"\r\n"))
    want = load(good, tmp_path, name, whole)
    for one, other in zip(tokenizer.encode(TEXTS), want.encode(TEXTS), strict=True):
        assert one.ids.tolist() == other.ids.tolist()


@pytest.mark.parametrize("name", ["words.json", "bytes.json", "pieces.json", "vocab.json"])
@pytest.mark.parametrize(
    "what", [b"[" * 10**5, b'{"model":' * 10**5, b'{"a": NaN}', b'{"a":1,"a":1}']
)
def test_no_strict_json_is_damage(good, tmp_path, name, what):
    with pytest.raises(UserError, match=f"{name} is damaged"):
        load(good, tmp_path, name, what if what[:1] == b"{" else b'{"model": ' + what)

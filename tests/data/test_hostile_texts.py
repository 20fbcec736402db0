"""Files of texts with anything in them: examples, or an error that names the file."""

import json
import os

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.data.test_catalogs import make_mo
from tests.hostile import changes, damages
from transformer_jax.data.catalogs import read_catalog
from transformer_jax.data.choices import read_swag
from transformer_jax.data.conll import read_conll
from transformer_jax.data.documents import read_documents
from transformer_jax.data.labelled_text import read_labelled
from transformer_jax.data.sources import read_tsv
from transformer_jax.data.squad import read_squad
from transformer_jax.errors import UserError

SEARCH = settings(suppress_health_check=list(HealthCheck), max_examples=150)
SQUAD = {
    "version": "v2.0",
    "data": [
        {
            "title": "t",
            "paragraphs": [
                {
                    "context": "the red cat",
                    "qas": [
                        {
                            "id": "1",
                            "question": "who",
                            "answers": [{"text": "cat", "answer_start": 8}],
                            "is_impossible": False,
                        }
                    ],
                }
            ],
        }
    ],
}
GOOD = {
    "train.tsv": b"a red cat\tun chat rouge\na dog\tun chien\n",
    "valid.tsv": b"text\tlabel\na red cat\tyes\na dog\tno\n",
    "val.csv": b"sent1,sent2,ending0,ending1,ending2,ending3,label\n"
    b'a cat,it,"sits, a bit",runs,eats,sleeps,2\n',
    "words.txt": b"EU B-ORG\nrejects O\n\nGerman B-MISC\n",
    "squad.json": json.dumps(SQUAD).encode(),
    "train.txt": b"A paragraph.\nAnother one.\n\nA second document.\n",
    "messages.mo": make_mo({"a red cat": "un chat rouge"}),
}
READERS = {
    "train.tsv": read_tsv,
    "valid.tsv": lambda path: read_labelled(path.parent, "valid"),
    "val.csv": lambda path: read_swag(path.parent, "valid"),
    "words.txt": lambda path: read_conll(path),
    "squad.json": read_squad,
    "train.txt": lambda path: list(read_documents(str(path.parent), "train")),
    "messages.mo": read_catalog,
}
PARTS = [
    *(b"a", b"text\tlabel\n", b"-DOCSTART-", b"\r\n", b"\xef\xbb\xbf", b"\xe2\x80\xa8", b"\x1b[2J"),
    *(b"\xff", b"\xed\xa0\x80", b"\x85"),
    *(bytes([i]) for i in b' \t\n\r\0\x0c,"'),
]


def read(folder, name, data):
    (folder / name).write_bytes(data)
    return READERS[name](folder / name)


@pytest.mark.parametrize("name", READERS)
def test_a_good_file_is_read(tmp_path, name):
    assert len(read(tmp_path, name, GOOD[name]))


@pytest.mark.parametrize("name", READERS)
@SEARCH
@given(data=st.data())
def test_any_bytes_are_examples_or_an_error_with_the_file(tmp_path, name, data):
    anything = st.lists(st.sampled_from(PARTS), max_size=12).map(b"".join)
    drawn = data.draw(damages(GOOD[name]) | anything)
    try:
        found = read(tmp_path, name, drawn)
    except UserError as error:
        assert str(tmp_path) in str(error) and len(str(error)) < 10_000
    else:
        assert len(found) or name == "messages.mo"


@SEARCH
@given(changed=changes(SQUAD))
def test_a_changed_file_of_squad_is_questions_or_an_error_with_the_place(tmp_path, changed):
    try:
        found = read(tmp_path, "squad.json", json.dumps(changed).encode())
    except UserError as error:
        assert "squad.json" in str(error)
    else:
        assert all(isinstance(question.context, str) for question in found)


@pytest.mark.parametrize("what", ["empty", "folder", "pipe", "absent", "no utf8"])
@pytest.mark.parametrize("name", READERS)
def test_what_is_no_text_is_named(tmp_path, name, what):
    path = tmp_path / name
    if what == "folder":
        path.mkdir()
    elif what == "pipe":
        os.mkfifo(path)
    elif what != "absent":
        path.write_bytes(b"" if what == "empty" else b"\xff\xfe" * 9)
    if what == "pipe" and name == "words.txt":
        return  # its path is the user's own, who may mean a pipe
    with pytest.raises(UserError, match=str(tmp_path)):
        READERS[name](path)


@pytest.mark.parametrize("name", ["train.tsv", "valid.tsv", "words.txt", "train.txt"])
def test_a_line_of_a_megabyte_is_a_line(tmp_path, name):
    long = b"x" * 1_000_000
    assert len(read(tmp_path, name, GOOD[name].replace(b"red", long).replace(b"rejects", long)))


def test_messages_that_overlap_take_no_memory(tmp_path):
    """A thousand entries, each of them nearly the whole file."""
    count, size = 1000, 20_000
    head = b"\xde\x12\x04\x95" + b"".join(n.to_bytes(4, "little") for n in (0, count, 28, 28, 0, 0))
    entry = (15_000).to_bytes(4, "little") + (28).to_bytes(4, "little")
    with pytest.raises(UserError, match=r"messages\.mo .* message 0 overlaps others"):
        read(tmp_path, "messages.mo", (head + entry * count).ljust(size, b"x"))

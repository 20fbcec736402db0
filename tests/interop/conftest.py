"""A saved Marian folder, and a copy of it for each test that changes one."""

import json
import random
import shutil

import pytest

from tests.interop.marian_folder import PIECES, WORDS, edit, pretrained
from transformer_jax.data.marian_tokenizer import MarianTokenizer
from transformer_jax.data.tokenizers import SentencePieceTokenizer
from transformer_jax.interop.huggingface import save_pretrained


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory):
    texts = [" ".join(random.Random(i).choices(WORDS, k=4)) for i in range(200)]
    path = tmp_path_factory.mktemp("tokenizer") / "own.model"
    return SentencePieceTokenizer.train(texts, path, vocab_size=PIECES)


@pytest.fixture(scope="module")
def own(tokenizer):
    return pretrained(tokenizer)


@pytest.fixture(scope="module")
def saved(own, tmp_path_factory):
    folder = tmp_path_factory.mktemp("saved")
    save_pretrained(folder, own)
    return folder


@pytest.fixture
def folder(saved, tmp_path):
    """A saved folder that a test may change."""
    return shutil.copytree(saved, tmp_path / "folder")


@pytest.fixture(scope="module")
def separate(own, saved, tmp_path_factory):
    """A tokenizer with a target vocabulary of its own, in which the pieces have other ids."""
    folder = shutil.copytree(saved, tmp_path_factory.mktemp("separate") / "folder")
    pieces = own.tokenizer.source_pieces(range(PIECES))
    turned = pieces[:4] + pieces[4:][::-1] + ["zebra"]
    vocabulary = {piece: i for i, piece in enumerate(turned)}
    (folder / "target_vocab.json").write_text(json.dumps(vocabulary))
    edit(folder, "tokenizer_config.json", separate_vocabs=True)
    return MarianTokenizer(folder, bos_id=own.tokenizer.bos_id)

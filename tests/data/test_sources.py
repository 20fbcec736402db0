"""Sentence pairs: each source, and what it says of bad input."""

import subprocess
import sys
import textwrap

import pytest
import tensorflow_datasets as tfds

from transformer_jax.data.catalogs import split_of
from transformer_jax.data.sources import read_pairs
from transformer_jax.errors import UserError

PAIRS = {
    "train": [("Hello world", "Hallo Welt"), ("Good \u2028 day", "Guten Tag")],
    "validation": [("Yes", "Ja")],
    "test": [("No", "Nein"), ("ça", "das")],
}


class TinyTranslate(tfds.core.GeneratorBasedBuilder):
    """A dataset as TFDS's own translation datasets are."""

    VERSION = tfds.core.Version("1.0.0")

    def _info(self):
        return self.dataset_info_from_configs(
            features=tfds.features.Translation(languages=("en", "de"))
        )

    def _split_generators(self, dl_manager):
        return {split: self._generate_examples(pairs) for split, pairs in PAIRS.items()}

    def _generate_examples(self, pairs):
        for i, (en, de) in enumerate(pairs):
            yield i, {"en": en, "de": de}


def read(path, split="train", **kwargs):
    kwargs = {"source_language": "en", "target_language": "de"} | kwargs
    return read_pairs(str(path), split, **kwargs)


def write(folder, content, split="train"):
    (folder / f"{split}.tsv").write_bytes(content)
    return folder


@pytest.mark.parametrize(
    "content",
    [
        "one\teins\ntwo\u2028three\tzwei\x0cdrei\n",
        "one\teins\r\ntwo\u2028three\tzwei\x0cdrei\r\n",
        "\ufeffone\teins\ntwo\u2028three\tzwei\x0cdrei",
    ],
)
def test_crlf_a_bom_and_a_missing_last_newline_do_not_matter(tmp_path, content):
    pairs = read(write(tmp_path, content.encode()))
    assert pairs == [("one", "eins"), ("two\u2028three", "zwei\x0cdrei")]


def test_each_split_has_its_own_file(tmp_path):
    for split in ("train", "valid", "test"):
        write(tmp_path, f"a {split}\tb\n".encode(), split)
    assert [read(tmp_path, s)[0][0] for s in ("train", "valid", "test")] == [
        "a train",
        "a valid",
        "a test",
    ]


@pytest.mark.parametrize(
    ("content", "complaint"),
    [
        (b"one\teins\nno tab here\n", r"train\.tsv:2 has 0 tabs"),
        (b"one\teins\ttoo many\n", r"train\.tsv:1 has 2 tabs"),
        (b"one\teins\n\ntwo\tzwei\n", r"train\.tsv:2 has 0 tabs"),
        (b"one\teins\n\tzwei\n", r"train\.tsv:2 has an empty source"),
        (b"one\teins\ntwo\t \r\n", r"train\.tsv:2 has an empty target"),
        (b"one\teins\ntwo\tzw\xe4i\n", r"train\.tsv:2 is not UTF-8"),
        ("one\teins\n".encode("utf-16"), r"train\.tsv:1 is not UTF-8"),
        (b"", r"train\.tsv is empty"),
    ],
)
def test_a_bad_line_is_named_with_its_number(tmp_path, content, complaint):
    with pytest.raises(UserError, match=complaint):
        read(write(tmp_path, content))


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(UserError, match=r"valid\.tsv is missing"):
        read(write(tmp_path, b"one\teins\n"), "valid")


@pytest.mark.parametrize("path", ["", "absent/folder", "hf:wmt14", "tfds:", "catalogs:"])
def test_a_path_that_is_nothing_lists_what_is_accepted(path):
    with pytest.raises(UserError, match=r"train\.tsv.*tfds:NAME/CONFIG.*catalogs:installed"):
        read(path)


def test_a_split_that_does_not_exist_is_an_error(tmp_path):
    with pytest.raises(UserError, match="'validation' is none of train, valid, test"):
        read(tmp_path, "validation")


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    data_dir = str(tmp_path_factory.mktemp("tiny"))
    builder = TinyTranslate(data_dir=data_dir, file_format="array_record")
    builder.download_and_prepare()
    return data_dir


@pytest.mark.parametrize(
    ("split", "tfds_split"), [("train", "train"), ("valid", "validation"), ("test", "test")]
)
def test_tfds_pairs_come_in_the_asked_direction(tiny, split, tfds_split):
    there = read("tfds:tiny_translate", split, data_dir=tiny)
    assert sorted(there) == sorted(PAIRS[tfds_split])
    back = read(
        "tfds:tiny_translate", split, data_dir=tiny, source_language="de", target_language="en"
    )
    assert back == [(de, en) for en, de in there]


def test_reading_in_batches_loses_no_pair(tiny, monkeypatch):
    whole = read("tfds:tiny_translate", data_dir=tiny)
    monkeypatch.setattr("transformer_jax.data.sources._TFDS_BATCH", 1)
    assert read("tfds:tiny_translate", data_dir=tiny) == whole


def test_a_language_that_the_dataset_lacks_is_an_error(tiny):
    with pytest.raises(UserError, match="no language 'fr', only .*en"):
        read("tfds:tiny_translate", data_dir=tiny, target_language="fr")


def test_a_dataset_that_is_not_prepared_says_how_to(tmp_path):
    with pytest.raises(UserError, match="download_and_prepare") as caught:
        read("tfds:wmt14_translate/de-en", data_dir=str(tmp_path))
    command = str(caught.value).partition('python -c "')[2].rstrip('"')
    compile(command, "command", "exec")
    assert "import tensorflow_datasets as tfds, tensorflow_datasets.translate.wmt14" in command
    assert str(tmp_path) in command


@pytest.mark.parametrize("name", ["no_such_dataset", "wmt14_translate/xx-yy", "a b c", "../x"])
def test_an_unknown_dataset_is_an_error(tmp_path, name):
    with pytest.raises(UserError, match="knows no dataset"):
        read(f"tfds:{name}", data_dir=str(tmp_path))


@pytest.mark.parametrize(
    "name", ["huggingface:glue", "kaggle:x/y", "x:y:1.0.0", "os.path", "x/y/z"]
)
def test_a_data_set_of_a_namespace_is_refused(tmp_path, name):
    """TFDS would load the code of others for it."""
    with pytest.raises(UserError, match="a name is NAME, NAME/CONFIG or NAME/CONFIG:VERSION"):
        read(f"tfds:{name}", data_dir=str(tmp_path))


def write_catalog(folder, count):
    """A catalog of `count` messages, in the .mo format of one table after the other."""
    import struct

    entries = [("", "Content-Type: text/plain; charset=utf-8\n")]
    entries += [(f"Open the file {i:04}", f"Öffne Datei {i:04}") for i in range(count)]
    start = 28 + 16 * len(entries)
    tables, texts = b"", b""
    for side in (0, 1):
        for entry in entries:
            text = entry[side].encode()
            tables += struct.pack("<2I", len(text), start + len(texts))
            texts += text + b"\0"
    head = struct.pack("<7I", 0x950412DE, 0, len(entries), 28, 28 + len(tables) // 2, 0, start)
    path = folder / "app" / "de" / "LC_MESSAGES" / "app.mo"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(head + tables + texts)


def test_catalogs_are_split_without_overlap_and_read_again_when_they_change(tmp_path):
    write_catalog(tmp_path, 200)
    path, data_dir = f"catalogs:{tmp_path}", str(tmp_path / "data")
    splits = [read(path, split, data_dir=data_dir) for split in ("train", "valid", "test")]
    assert sum(map(len, splits)) == 200 == len(set().union(*splits))
    assert all(s.startswith("Open") and t.startswith("Öffne") for s, t in splits[0])
    names = ("train", "validation", "test")
    for split, pairs in zip(names, splits, strict=True):
        assert {split_of(source) for source, _ in pairs} == {split}
    assert read(path, "train", data_dir=data_dir) == splits[0]

    write_catalog(tmp_path, 300)
    assert len(read(path, "train", data_dir=data_dir)) > len(splits[0])


def test_catalogs_go_to_the_cache_folder_of_the_user(tmp_path, monkeypatch):
    write_catalog(tmp_path, 200)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    read(f"catalogs:{tmp_path}")
    assert (tmp_path / "cache" / "transformer_jax" / "gettext_catalogs").is_dir()


def test_catalogs_translate_from_english_only(tmp_path):
    with pytest.raises(UserError, match="from English"):
        read("catalogs:installed", source_language="fr")


def test_reading_catalogs_prints_nothing_and_needs_no_tensorflow(tmp_path):
    write_catalog(tmp_path, 200)
    program = textwrap.dedent(f"""
        import sys
        from transformer_jax.data.sources import read_pairs
        assert "tensorflow_datasets" not in sys.modules
        languages = dict(source_language="en", target_language="de")
        path, data_dir = {f"catalogs:{tmp_path}"!r}, {str(tmp_path / "data")!r}
        assert read_pairs(path, "train", data_dir=data_dir, **languages)
        assert "tensorflow" not in sys.modules
    """)
    result = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert (result.returncode, result.stdout, result.stderr) == (0, "", "")

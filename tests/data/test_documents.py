"""Documents: text files, TensorFlow datasets, prose; and what is said of bad input."""

import subprocess
import sys
import textwrap

import pytest
import tensorflow_datasets as tfds

from transformer_jax.data.document_ranges import TextRange
from transformer_jax.data.documents import read_documents, split_of
from transformer_jax.errors import UserError

RECORDS = {
    "train": ["First one.\nSecond \u2028 one.\n", "\n", "  Alone  \n\n after a gap"],
    "validation": ["ça"],
}


class TinyTexts(tfds.core.GeneratorBasedBuilder):
    """A dataset as TFDS's own text datasets are; its config says which splits and feature."""

    VERSION = tfds.core.Version("1.0.0")
    BUILDER_CONFIGS = [
        tfds.core.BuilderConfig(name=name) for name in ("both", "whole", "other", "empty")
    ]

    def _info(self):
        feature = "body" if self.builder_config.name == "other" else "text"
        return self.dataset_info_from_configs(
            features=tfds.features.FeaturesDict({feature: tfds.features.Text()}),
            disable_shuffling=True,
        )

    def _split_generators(self, dl_manager):
        records = {
            "both": RECORDS,
            "whole": {"train": [f"text {i}\nline" for i in range(2000)]},
            "other": RECORDS,
            "empty": {"train": [" "], "validation": ["\n"]},
        }[self.builder_config.name]
        return {split: self._generate_examples(texts) for split, texts in records.items()}

    def _generate_examples(self, texts):
        feature = "body" if self.builder_config.name == "other" else "text"
        for i, text in enumerate(texts):
            yield i, {feature: text}


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    data_dir = str(tmp_path_factory.mktemp("tiny"))
    for config in TinyTexts.BUILDER_CONFIGS:
        builder = TinyTexts(config=config, data_dir=data_dir, file_format="array_record")
        builder.download_and_prepare()
    return data_dir


def read(path, split="train", **kwargs):
    return list(read_documents(str(path), split, **kwargs))


def write(folder, content, name="train"):
    content = content.encode() if isinstance(content, str) else content
    (folder / f"{name}.txt").write_bytes(content)
    return folder


@pytest.mark.parametrize(
    "content",
    [
        "one\ntwo\u2028three\n\nfour\n",
        "\n\none\r\n  two\u2028three\t\r\n \t\r\n\r\nfour",
        "\ufeffone\ntwo\u2028three\n\n\n\nfour\n\n",
    ],
)
def test_a_paragraph_is_a_line_and_blank_lines_end_a_document(tmp_path, content):
    assert read(write(tmp_path, content)) == [["one", "two\u2028three"], ["four"]]


def test_each_split_has_its_own_file_and_others_are_not_read_and_named(tmp_path, recwarn):
    for name in ("train", "valid", "test"):
        write(tmp_path, f"a {name}\n", name)
    read(tmp_path)
    assert not [w for w in recwarn if "not read" in str(w.message)]
    write(tmp_path, "a note\n", "notes")
    with pytest.warns(match=r"1 beside train\.txt, valid\.txt, test\.txt are not read: notes\.txt"):
        read(tmp_path)
    with pytest.warns():
        found = [read(tmp_path, s) for s in ("train", "valid", "test")]
    assert found == [[["a train"]], [["a valid"]], [["a test"]]]


def test_files_of_other_names_are_split_by_document_wherever_it_stands(tmp_path):
    documents = [[f"text {i}", "line"] for i in range(3000)]
    texts = ["\n".join(d) + "\n" for d in documents]
    (tmp_path / "one").mkdir()
    (tmp_path / "many").mkdir()
    write(tmp_path / "one", "\n".join(texts), "all")
    for i in range(3):
        write(tmp_path / "many", "\n".join(texts[i::3]), f"part{i}")
    one, many = (
        {split: read(tmp_path / name, split) for split in ("train", "valid", "test")}
        for name in ("one", "many")
    )
    for split in one:
        assert sorted(one[split]) == sorted(many[split])
        assert {split_of(d) for d in one[split]} == {split}
    assert sorted(sum(one.values(), [])) == sorted(documents)
    assert one["train"] == [d for d in documents if split_of(d) == "train"]
    for split in ("valid", "test"):
        assert 0.005 < len(one[split]) / len(documents) < 0.015


def test_a_file_is_read_as_it_is_asked_for(tmp_path):
    write(tmp_path, b"one\n\ntwo\n\n\xff\n")
    documents = read_documents(str(tmp_path), "train")
    assert [next(documents), next(documents)] == [["one"], ["two"]]
    with pytest.raises(UserError, match=r"train\.txt:5 is not UTF-8"):
        next(documents)


@pytest.mark.parametrize(
    ("content", "complaint"),
    [
        (b"one\ntw\xe4i\n", r"train\.txt:2 is not UTF-8"),
        ("one\n".encode("utf-16"), r"train\.txt:1 is not UTF-8"),
        (b"", r"train\.txt is empty"),
        (b"\n \n\r\n", r"has no text in the split 'train'"),
    ],
)
def test_bad_files_are_named_with_the_line(tmp_path, content, complaint):
    with pytest.raises(UserError, match=complaint):
        read(write(tmp_path, content))


def test_an_empty_file_among_full_ones_is_named(tmp_path):
    write(write(tmp_path, "one\n", "a"), "", "b")
    with pytest.raises(UserError, match=r"b\.txt is empty"):
        read(tmp_path)


def test_what_is_missing_is_said_before_anything_is_read(tmp_path):
    with pytest.raises(UserError, match=r"has no \*\.txt files"):
        read_documents(str(tmp_path), "train")
    write(tmp_path, "one\n")
    with pytest.raises(UserError, match=r"no split 'valid', only train.*valid\.txt"):
        read_documents(str(tmp_path), "valid")
    with pytest.raises(UserError, match="'validation' is none of train, valid, test"):
        read_documents(str(tmp_path), "validation")


def test_too_few_documents_to_split_are_an_error(tmp_path):
    write(tmp_path, "one\n\ntwo\n", "all")
    assert read(tmp_path) == [["one"], ["two"]]
    with pytest.raises(UserError, match=r"no document falls into the split 'valid' by its hash"):
        read(tmp_path, "valid")


@pytest.mark.parametrize("path", ["", "absent/folder", "hf:wiki", "tfds:", "prose:"])
def test_a_path_that_is_nothing_lists_what_is_accepted(path):
    with pytest.raises(UserError, match=r"train\.txt.*tfds:NAME/CONFIG.*prose:installed"):
        read_documents(path, "train")


def test_a_file_that_cannot_be_opened_is_an_error(tmp_path):
    with pytest.raises(UserError, match="cannot be read"):
        list(TextRange(str(tmp_path), 0, 1).read())


def test_tfds_texts_are_cut_into_lines(tiny):
    train = [["First one.", "Second \u2028 one."], ["Alone", "after a gap"]]
    assert read("tfds:tiny_texts/both", data_dir=tiny) == train
    assert read("tfds:tiny_texts/both", "valid", data_dir=tiny) == [["ça"]]
    with pytest.raises(UserError, match="no split 'test', only train, valid"):
        read_documents("tfds:tiny_texts/both", "test", data_dir=tiny)


def test_reading_in_batches_loses_no_text(tiny, monkeypatch):
    whole = read("tfds:tiny_texts/whole", data_dir=tiny)
    monkeypatch.setattr("transformer_jax.data.document_ranges._RECORDS", 7)
    assert read("tfds:tiny_texts/whole", data_dir=tiny) == whole


def test_a_dataset_without_other_splits_is_split_by_document(tiny):
    splits = [read("tfds:tiny_texts/whole", s, data_dir=tiny) for s in ("train", "valid", "test")]
    assert sorted(sum(splits, [])) == sorted([f"text {i}", "line"] for i in range(2000))
    for split, documents in zip(("train", "valid", "test"), splits, strict=True):
        assert {split_of(d) for d in documents} == {split}


def test_datasets_that_are_not_texts_or_not_there_are_errors(tiny, tmp_path):
    with pytest.raises(UserError, match="no feature 'text', only body"):
        read_documents("tfds:tiny_texts/other", "train", data_dir=tiny)
    with pytest.raises(UserError, match="has no text in the split 'train'"):
        read("tfds:tiny_texts/empty", data_dir=tiny)
    with pytest.raises(UserError, match="knows no dataset"):
        read_documents("tfds:no_such_dataset", "train", data_dir=tiny)
    with pytest.raises(UserError, match="download_and_prepare") as caught:
        read_documents("tfds:wikipedia/20230601.en", "train", data_dir=str(tmp_path))
    command = str(caught.value).partition('python -c "')[2].rstrip('"')
    compile(command, "command", "exec")
    assert "import tensorflow_datasets as tfds, tensorflow_datasets.text.wikipedia" in command
    assert str(tmp_path) in command


def write_modules(folder, count):
    for i in range(count):
        text = f"This module is number {i} of all the modules that are in this folder."
        (folder / f"module{i}.py").write_text(f'"""{text}"""\n', encoding="utf-8")


def test_prose_is_split_by_module_and_read_again_when_it_changes(tmp_path):
    write_modules(tmp_path, 100)
    path, data_dir = f"prose:{tmp_path}", str(tmp_path / "data")
    splits = [read(path, split, data_dir=data_dir) for split in ("train", "valid", "test")]
    assert all(splits)
    assert len({p for documents in splits for d in documents for p in d}) == 100
    assert read(path, data_dir=data_dir) == splits[0]
    write_modules(tmp_path, 150)
    assert len(read(path, data_dir=data_dir)) > len(splits[0])


def test_reading_prose_prints_nothing_and_needs_no_tensorflow(tmp_path):
    write_modules(tmp_path, 100)
    program = textwrap.dedent(f"""
        import sys
        from pathlib import Path
        from transformer_jax.data.documents import read_documents
        assert "tensorflow_datasets" not in sys.modules
        assert list(read_documents({f"prose:{tmp_path}"!r}, "train"))
        assert "tensorflow" not in sys.modules
        assert (Path({str(tmp_path)!r}) / "cache/transformer_jax/installed_prose").is_dir()
    """)
    result = subprocess.run(
        [sys.executable, "-c", program],
        capture_output=True,
        text=True,
        env={"XDG_CACHE_HOME": str(tmp_path / "cache"), "PATH": ""},
    )
    assert (result.returncode, result.stdout, result.stderr) == (0, "", "")

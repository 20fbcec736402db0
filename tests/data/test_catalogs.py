"""Gettext catalogs: the file format, the filters, the split and the TFDS builder."""

import struct

import pytest

from transformer_jax.data.catalogs import (
    CatalogsConfig,
    clean_pairs,
    count_words,
    find_catalogs,
    has_markup,
    installed_folders,
    is_language,
    is_sentence_pair,
    parse_mo,
    prepare,
    read_catalog,
    split_of,
)
from transformer_jax.errors import UserError

HEADER = "Content-Type: text/plain; charset=utf-8\n"


def make_mo(messages, order="<", charset="utf-8"):
    """The bytes of a .mo file, messages sorted as msgfmt does."""
    header = HEADER.replace("utf-8", charset)
    entries = sorted((k.encode(charset), v.encode(charset)) for k, v in messages.items())
    entries = [(b"", header.encode("ascii")), *entries]
    ids_at, start = 28, 28 + 16 * len(entries)
    tables, texts = [b"", b""], b""
    for side in (0, 1):
        for entry in entries:
            tables[side] += struct.pack(f"{order}2I", len(entry[side]), start + len(texts))
            texts += entry[side] + b"\0"
    strings_at = ids_at + len(tables[0])
    head = struct.pack(f"{order}7I", 0x950412DE, 0, len(entries), ids_at, strings_at, 0, start)
    return head + tables[0] + tables[1] + texts


def write_catalog(root, messages, name="app/locale/fr/LC_MESSAGES/app.mo"):
    path = root / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(make_mo(messages))
    return path


def many(count, word="file"):
    return {f"Open the {word} {i} now": f"Ouvrir le fichier {i}" for i in range(count)}


@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize("charset", ["utf-8", "iso-8859-1"])
def test_messages_come_back_from_either_byte_order_and_any_charset(order, charset):
    messages = {"Page not found": "Page non trouvée", "Save it": "Enregistrer déjà"}
    assert dict(parse_mo(make_mo(messages, order, charset))) == messages


def test_the_python_standard_library_reads_what_the_tests_write(tmp_path):
    import gettext

    with write_catalog(tmp_path, {"Page not found": "Page non trouvée"}).open("rb") as file:
        assert gettext.GNUTranslations(file).gettext("Page not found") == "Page non trouvée"


def test_contexts_are_dropped_and_plural_forms_give_a_pair_each():
    messages = {"menu\x04Open it": "Ouvrir", "one file\0%d files": "un fichier\0%d fichiers"}
    assert list(parse_mo(make_mo(messages))) == [
        ("Open it", "Ouvrir"),
        ("one file", "un fichier"),
        ("%d files", "%d fichiers"),
    ]


@pytest.mark.parametrize(
    ("damage", "complaint"),
    [
        (lambda data: b"", "does not start"),
        (lambda data: b"GARBAGE!" * 10, "does not start"),
        (lambda data: data[:-40], "beyond its end"),
        (lambda data: data[:10], "unpack"),
        (lambda data: data.replace(b"utf-8", b"utf-9"), "utf-9"),
        (lambda data: data.replace("é".encode(), b"\xe9 "), "decode"),
    ],
)
def test_a_damaged_catalog_is_named(tmp_path, damage, complaint):
    path = write_catalog(tmp_path, {"Page not found": "Page non trouvée, mais pas loin d'ici"})
    path.write_bytes(damage(path.read_bytes()))
    with pytest.raises(UserError, match=complaint) as caught:
        read_catalog(path)
    assert str(path) in str(caught.value)


@pytest.mark.parametrize(
    ("text", "markup"),
    [
        ("see <a href='x'>this</a>", True),
        ("a line<br>", True),
        ("this &amp; that", True),
        ("it&#39;s", True),
        ("a < b and c > d", False),
        ("Terms & conditions", False),
        ("to <%(address)s>", False),
    ],
)
def test_markup_is_recognised(text, markup):
    assert has_markup(text) is markup


@pytest.mark.parametrize(
    ("text", "count"),
    [
        ("Save the file", 3),
        ("%(count)s items", 1),
        ("{name} of %s: %d", 1),
        ("3 + 4 = 7", 0),
        ("100% sure", 1),
        ("", 0),
    ],
)
def test_only_words_with_letters_count(text, count):
    assert count_words(text) == count


@pytest.mark.parametrize(
    ("source", "target", "kept"),
    [
        ("Delete %(name)s now?", "Supprimer %(name)s ?", True),
        ("  Save the file\n", "Enregistrer", True),
        ("Save", "Enregistrer", False),
        ("Save it", " ", False),
        ("", "Enregistrer", False),
        ("Code Source", "code  source", False),
        ("First line\nsecond line", "Une ligne", False),
        ("Save the file", "Une ligne\ndeux lignes", False),
        ("Save <b>it</b>", "Enregistrer", False),
        ("word " * 60, "mot", True),
        ("word " * 61, "mot", False),
        ("Save the file", "mot " * 61, False),
    ],
)
def test_only_plain_sentences_of_one_line_are_kept(source, target, kept):
    assert is_sentence_pair(source, target) is kept


def test_white_space_is_normalised_and_the_first_translation_of_a_source_wins():
    messages = [
        ("Save  the\tfile", "Enregistrer\u00a0: oui"),
        ("Save the file", "Sauver"),
        ("Page not found", "Page non trouvée"),
    ]
    assert clean_pairs(messages) == [
        ("Save the file", "Enregistrer : oui"),
        ("Page not found", "Page non trouvée"),
    ]


def test_the_split_of_a_source_ignores_case_and_spacing_and_is_frozen():
    sources = [f"Open the file {i}" for i in range(2000)]
    splits = [split_of(source) for source in sources]
    assert splits == [split_of(f"  {source.upper()} ") for source in sources]
    shares = {split: splits.count(split) / 2000 for split in set(splits)}
    assert shares == pytest.approx({"train": 0.9, "validation": 0.05, "test": 0.05}, abs=0.02)
    frozen = {12: "train", 13: "test", 28: "validation"}
    assert {i: split_of(f"Open the file {i}") for i in frozen} == frozen


@pytest.mark.parametrize(
    ("folder", "language", "same"),
    [
        ("fr", "fr", True),
        ("fr_FR", "fr", True),
        ("fr-FR", "fr", True),
        ("fr-FR", "fr_FR", True),
        ("fr_CA", "fr_FR", False),
        ("fr", "fr_FR", False),
        ("fro", "fr", False),
        ("pt_BR", "pt-br", True),
        ("en", "fr", False),
    ],
)
def test_languages_are_spelled_in_many_ways(folder, language, same):
    assert is_language(folder, language) is same


def test_catalogs_are_found_at_any_depth_and_nothing_else_is(tmp_path):
    names = [
        "a/locale/fr/LC_MESSAGES/django.mo",
        "b/c/d/fr_FR/LC_MESSAGES/b.mo",
        "b/c/d/fr_FR/LC_MESSAGES/z.mo",
    ]
    others = ["a/locale/de/LC_MESSAGES/django.mo", "a/fr/other/x.mo", "a/fr/LC_MESSAGES/x.po"]
    for name in names + others:
        write_catalog(tmp_path, {}, name)
    found = [path.relative_to(tmp_path).as_posix() for path in find_catalogs(tmp_path, "fr")]
    assert found == names


def test_installed_packages_are_looked_for_on_the_python_path(tmp_path, monkeypatch):
    site = tmp_path / "lib" / "site-packages"
    write_catalog(site, many(1))
    monkeypatch.setattr("sys.path", ["", str(tmp_path), str(site), str(site), "/nowhere"])
    assert installed_folders() == [site]
    assert len(CatalogsConfig.find("fr").files) == 1


def test_a_changed_catalog_changes_the_name_of_the_config(tmp_path):
    write_catalog(tmp_path, many(3))
    first = CatalogsConfig.find("fr", str(tmp_path)).name
    assert CatalogsConfig.find("fr", str(tmp_path)).name == first
    write_catalog(tmp_path, many(4))
    second = CatalogsConfig.find("fr", str(tmp_path)).name
    write_catalog(tmp_path, {}, "b/fr/LC_MESSAGES/new.mo")
    third = CatalogsConfig.find("fr", str(tmp_path)).name
    assert len({first, second, third}) == 3
    assert all(name.startswith("en-fr-") for name in (first, second, third))


def test_no_catalogs_says_where_was_looked_and_what_to_install(tmp_path):
    write_catalog(tmp_path, many(3))
    with pytest.raises(UserError, match=r"pip install 'transformer-jax\[demo\]'") as caught:
        CatalogsConfig.find("de", str(tmp_path))
    assert str(tmp_path) in str(caught.value)
    with pytest.raises(UserError, match="does not exist"):
        CatalogsConfig.find("fr", str(tmp_path / "absent"))


def test_too_few_pairs_for_three_splits_is_an_error(tmp_path):
    write_catalog(tmp_path, {"Save the file": "Enregistrer"})
    with pytest.raises(UserError, match="only 1 sentence pairs"):
        prepare(CatalogsConfig.find("fr", str(tmp_path)), str(tmp_path / "data"))


def test_preparing_twice_at_the_same_time_keeps_the_first(tmp_path, monkeypatch):
    write_catalog(tmp_path, many(200))
    config = CatalogsConfig.find("fr", str(tmp_path))
    first = prepare(config, str(tmp_path / "data"))
    before = first.info.splits["train"].num_examples

    def lost_race(self, **_):
        raise FileExistsError

    monkeypatch.setattr(type(first), "download_and_prepare", lost_race)
    assert prepare(config, str(tmp_path / "data")).info.splits["train"].num_examples == before
    with pytest.raises(FileExistsError):
        prepare(config, str(tmp_path / "elsewhere"))

"""Prose of modules: what is a sentence, what is code, and the corpus that comes of it."""

import textwrap

import pytest

from transformer_jax.data.prose import ProseConfig, find, harvest, prepare, python_folders, split_of
from transformer_jax.data.prose_text import is_prose, prose, python_texts
from transformer_jax.errors import UserError


def sentence(i):
    return f"This is the sentence with the number {i} of all that there are."


def paragraphs(text):
    return list(prose(textwrap.dedent(text)))


@pytest.mark.parametrize(
    ("text", "kept"),
    [
        ("The cat is on the mat and it sleeps.", True),
        ("Is this the way to the station (or not)?", True),
        ('He said that this is "the way to go."', True),
        ("Returns the value of max_len if it is in the table.", True),
        ("the cat is on the mat and it sleeps.", False),  # begins in the middle
        ("The cat is on the mat and it sleeps", False),
        ("The cat is here.", False),  # too short
        ("Foo bar baz qux quux corge grault garply waldo fred.", False),  # no common words
        ("Der Hund liegt auf der Matte und er schläft jetzt ein.", False),
        ("If x[0] == y[1] and z += 1 then a_b(c) or d|e.", False),
        ("The software is provided without warranty of any kind to you.", False),
        ("Copyright of this file is with all of the authors that it has.", False),
        ("The cat is on the mat \x00 and it sleeps there.", False),
        ("The cat is on the mat \ud800 and it sleeps there.", False),
        ("The cat is " + "on the mat and " * 200 + "it sleeps.", False),
    ],
)
def test_sentences_are_told_from_other_text(text, kept):
    assert is_prose(text) is kept


@pytest.mark.parametrize(
    ("text", "clean"),
    [
        (
            "Use the :func:`~os.path.join` of it for all of this.",
            "Use the join of it for all of this.",
        ),
        (
            "Use the :ref:`other page <page>` for all of this.",
            "Use the other page for all of this.",
        ),
        ("Use ``name`` or `name`_ for all of this text.", "Use name or name for all of this text."),
        (
            "See `the manual <https://a.b/c>`_ for all of this text.",
            "See the manual for all of this text.",
        ),
        ("See [the manual](https://a.b/c) for all of this.", "See the manual for all of this."),
        (
            "It is **very** good to have *all* of this here.",
            "It is very good to have all of this here.",
        ),
        ("It is as good as the others are [1]_.", "It is as good as the others are."),
        ("It is  as\tgood as\u00a0the others here are.", "It is as good as the others here are."),
    ],
)
def test_markup_is_taken_off(text, clean):
    assert paragraphs(text) == [clean]


def test_a_docstring_gives_its_sentences_and_nothing_of_its_code_and_tables():
    text = """\
        Return the sum of all that is in a list.

        The sum is taken in the order of the list, and so it is the same
        each time that it is taken.

        Parameters
        ----------
        values : list of float
            What is to be added, which may be of any length.
        start:
            Not a sentence

        Args:
          count (int): The number of the values that are to be added up.
          other: The value to which all the others of them are
            added at the end.

        :param str name: The name of the sum that is to be shown to you.

        - The first of the items that are in this list.
        - The second of the items that are in this list,
          which has two lines.

        >>> print("This is a line that the interpreter is to show to you.")
        This is a line that the interpreter has shown to you.

        This is how it is to be used by all of you::

            # This is a comment in the code, so it is not to be kept.
            The code itself is not a sentence, and is not to be kept.

        After the code there is more of the text for you.

        .. note:: The note is as good as the other text that is here.

        .. code-block:: python

            The code itself is not a sentence, and is not to be had.

        ===== ======================================
        Name  What is in the table is not for you.
        ===== ======================================

        ```
        The fence is around what is not to be in the text.
        ```
        """
    assert paragraphs(text) == [
        "Return the sum of all that is in a list.",
        "The sum is taken in the order of the list, and so it is the same each time that it is"
        " taken.",
        "What is to be added, which may be of any length.",
        "The number of the values that are to be added up.",
        "The value to which all the others of them are added at the end.",
        "The name of the sum that is to be shown to you.",
        "The first of the items that are in this list.",
        "The second of the items that are in this list, which has two lines.",
        "After the code there is more of the text for you.",
        "The note is as good as the other text that is here.",
    ]


def test_a_module_gives_strings_and_comments_in_order_and_is_not_run():
    source = '''\
"""Of the module."""
raise SystemExit
# A comment that
# has two lines.
x = 1  # not this one
# nor this one

def f():
    r"""Of f, \\d."""
    y = "not this one"
    g("""Long
    string.""", f"""not {y}
    this""")

class C:
    """Of C.

        Indented.
    Not.
    """
'''
    assert list(python_texts(source.encode())) == [
        "Of the module.",
        " A comment that\n has two lines.",
        "Of f, \\d.",
        "Long\nstring.",
        "Of C.\n\n    Indented.\nNot.",
    ]


@pytest.mark.parametrize(
    "source", [b"def f(:\n", b"\xff\xfe", b"x = 1\x00", b"# coding: nonsense\n'''A\nb'''", b""]
)
def test_what_is_no_python_has_no_texts(source):
    assert list(python_texts(source)) == []


def test_strange_escapes_in_a_module_cause_no_warning(recwarn):
    assert list(python_texts(b'"""A \\d."""\n')) == ["A \\d."]
    assert not recwarn.list


def test_no_paragraph_comes_twice_even_from_another_file(tmp_path):
    one, two = sentence(1), sentence(2)
    (tmp_path / "a.py").write_text(f'"""{one}\n\n{two}\n\n{one}"""')
    (tmp_path / "b.md").write_text(f"# Title\n\n{one.upper()[0]}{one[1:].replace(' ', '  ')}\n")
    (tmp_path / "c.txt").write_text(f"{two}\n\n{sentence(3)}\n")
    (tmp_path / "d.rst").write_bytes(b"This is the text that is in no \xff known letters.\n")
    files = [(p.name, p) for p in find(tmp_path)]
    assert [name for name, _ in files] == ["a.py", "b.md", "c.txt", "d.rst"]
    assert list(harvest(files)) == [("a.py", [one, two]), ("c.txt", [sentence(3)])]


def test_licenses_caches_and_other_files_are_not_looked_for(tmp_path):
    for name in ("LICENSE.txt", "COPYING.md", "a/__pycache__/b.py", "a/licenses/c.txt", "d.c"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    (tmp_path / "a" / "e.py").touch()
    assert find(tmp_path) == [tmp_path / "a" / "e.py"]


def test_the_installed_folders_hold_the_standard_library_and_packages():
    folders = python_folders()
    assert any((folder / "argparse.py").is_file() for folder in folders)
    assert any((folder / "numpy" / "__init__.py").is_file() for folder in folders)


def test_a_package_lies_in_one_split_whatever_its_version():
    for name in ("numpy", "portalocker", "re", "json"):
        files = (f"{name}/a/b.py", f"{name}.py", f"{name}-1.2.dist-info/c.md")
        assert len({split_of(file) for file in files}) == 1
    splits = [split_of(f"package{i}/module.py") for i in range(2000)]
    for split, share in (("validation", 0.05), ("test", 0.1)):
        assert abs(splits.count(split) / 2000 - share) < 0.02


def test_the_name_of_the_data_changes_with_any_file(tmp_path):
    names = set()
    for content in ("a", "b"):
        (tmp_path / "a.py").write_text(content)
        names.add(ProseConfig.find(str(tmp_path)).name)
    (tmp_path / "a.py").rename(tmp_path / "b.py")
    names.add(ProseConfig.find(str(tmp_path)).name)
    assert len(names) == 3
    assert ProseConfig.find(str(tmp_path)).name in names


def test_records_hold_the_paragraphs_of_a_module_by_line(tmp_path):
    for i in range(100):
        text = f'"""{sentence(i)}\n\n{sentence(1000 + i)}"""\n'
        (tmp_path / f"module{i}.py").write_text(text)
    builder = prepare(ProseConfig.find(str(tmp_path)), str(tmp_path / "data"))
    texts = []
    for split in ("train", "validation", "test"):
        texts += [record["text"].decode() for record in builder.as_data_source(split)]
    assert sorted(texts) == sorted(f"{sentence(i)}\n{sentence(1000 + i)}" for i in range(100))


def test_what_is_missing_is_an_error(tmp_path):
    with pytest.raises(UserError, match="does not exist"):
        ProseConfig.find(str(tmp_path / "absent"))
    with pytest.raises(UserError, match="no modules or pages"):
        ProseConfig.find(str(tmp_path))
    (tmp_path / "a.py").write_text(f'"""{sentence(1)}"""')
    with pytest.raises(UserError, match="only 1 modules with prose"):
        prepare(ProseConfig.find(str(tmp_path)), str(tmp_path / "data"))
    (tmp_path / "b.py").symlink_to(tmp_path / "absent")
    with pytest.raises(UserError, match=r"b\.py cannot be read"):
        ProseConfig.find(str(tmp_path))

"""What is English prose in a Python module or a page of documentation.

Rules of thumb that rather lose a sentence than keep a table: a text falls into pieces where lines
are blank, indented or marked as items, and a piece is kept if it reads like sentences.
"""

from __future__ import annotations

import ast
import inspect
import re
import warnings
from collections.abc import Iterator

MIN_WORDS = 7
MAX_WORDS = 400

_COMMENTS = re.compile(r"^[ \t]*#[:! ].*(?:\n[ \t]*#.*)+", re.MULTILINE)  # two lines or more
_COMMENT_SIGN = re.compile(r"^[ \t]*#[:!]?", re.MULTILINE)

_SKIPPED_DIRECTIVE = re.compile(
    r"\.\.\s+(?!(?:note|warning|tip|hint|important|caution|attention|seealso|versionadded|"
    r"versionchanged|deprecated|admonition|topic|rubric)\b)"
)
_DIRECTIVE = re.compile(r"\.\.\s+[\w-]+::\s*(?:v?\d[\w.]*\.?(?:\s|$))?")
_RULE = re.compile(r"([^\w\s])\1{2,}[^\w]*$")  # an underline, or the border of a table
_ITEM = re.compile(
    r"(?:[-*+•]|#+|\(?(?:\d{1,2}|[a-zA-Z])[.)])\s+"  # - text, # text, 1. text, (a) text
    r"|:\w+(?:\s+[^:]+)?:(?:\s+|$)"  # :param name: text
    r"|[`*]*\w[\w.]*[`*]*(?:,\s?\**\w+)*(?:\s?\([^)]*\))?(?::|\s(?:--|–))\s+"  # name (type): text
)
_PROMPT = re.compile(r">>>|\.\.\. |In \[|\$ |% ")

_MARKUP = (
    (re.compile(r"\s?\[[\w#*]+\]_"), ""),  # a footnote's mark
    (re.compile(r"!?\[([^\][]+)\](?:\([^)\s]*\)|\[[^\]]*\])"), r"\1"),  # Markdown's links
    (re.compile(r":[\w:+-]+:`~[\w.]*?\.?(\w+)`"), r"\1"),  # :func:`~package.name`
    (re.compile(r":[\w:+-]+:`([^`<]+?)(?:\s*<[^`>]*>)?`"), r"\1"),  # :func:`text <name>`
    (re.compile(r"`([^`<]+?)\s*<[^`>]*>`__?"), r"\1"),  # `text <address>`_
    (re.compile(r"``([^`]+)``|`([^`]+)`_{0,2}"), r"\1\2"),
    (re.compile(r"(?<![\w*])(\*{1,2})(?=\S)([^*]+?)(?<=\S)\1(?![\w*])"), r"\2"),
)

_WORD = re.compile(r"[(\[\"'‘“]*[A-Za-z]+(?:['’/-][A-Za-z]+)*[)\]\"'’”]*[.,;:!?]*[)\"'’”]*$")
_BEGIN = re.compile(r"[(\"'‘“]*[A-Z]")
_END = re.compile(r"[A-Za-z0-9)\]\"'’”][.!?][)\"'’”]*$")
_LICENSE = re.compile(
    r"copyright|warrant(?:y|ies)|redistribut|licen[sc]e|liabilit|hereby|all rights|\(c\)", re.I
)
_COMMON = frozenset(
    "a about all also an and any are as at be been but by can do does each for from had has have "
    "if in into is it its more must no not of on only or other same should so such than that the "
    "their them then there these they this to two used was we were what when where whether which "
    "will with would you your".split()
)


def python_texts(source: bytes) -> Iterator[str]:
    """The docstrings, other long strings and comments of a module, in the order of its lines.

    It is parsed, never run; a file that is no Python that can be parsed has none.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of escapes that its author got wrong
            tree = ast.parse(source)
        code = source.decode("utf-8-sig").replace("\r\n", "\n")
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return
    found, formatted = [], set()
    for node in ast.walk(tree):
        if isinstance(node, ast.JoinedStr):  # its strings are fragments
            formatted |= {id(value) for value in node.values}
        elif isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant):
            found.append(node.value)
        elif isinstance(node, ast.Constant) and isinstance(node.value, str) and "\n" in node.value:
            found.append(node)
    strings = {
        (node.lineno, node.col_offset): inspect.cleandoc(node.value)
        for node in found
        if isinstance(node.value, str) and id(node) not in formatted
    }
    line, at = 1, 0
    for match in _COMMENTS.finditer(code):
        line, at = line + code.count("\n", at, match.start()), match.start()
        strings[line, -1] = _COMMENT_SIGN.sub("", match[0])
    yield from (strings[place] for place in sorted(strings))


def prose(text: str) -> Iterator[str]:
    """The paragraphs of a text that are prose, each on one line, without markup."""
    for piece in _pieces(text.expandtabs().split("\n")):
        for pattern, replacement in _MARKUP:
            piece = pattern.sub(replacement, piece)
        piece = " ".join(piece.split())
        if is_prose(piece):
            yield piece


def _pieces(lines: list[str]) -> Iterator[str]:
    """Runs of lines of the same indent, or of one item; no code, tables, doctests, headings."""
    piece: list[str] = []
    indent, hanging = 0, False  # of the piece; whether it is an item, whose other lines hang
    literal: int | None = None  # what is indented more than this is code
    fenced = prompt = False
    for line in [*lines, ""]:
        text = line.strip()
        depth = len(line) - len(line.lstrip())
        if text.startswith(("```", "~~~")):
            fenced = not fenced
        if literal is not None and text and depth <= literal:
            literal = None
        prompt = bool(text) and (prompt or _PROMPT.match(text) is not None)
        rule = _RULE.match(text) is not None
        if rule:
            piece = []  # the heading above it
        skipped = not text or fenced or prompt or rule or literal is not None
        item = None if skipped else _ITEM.match(text) or _DIRECTIVE.match(text)
        if not skipped and not item and piece and (depth == indent or hanging and depth > indent):
            indent = depth if hanging else indent
            hanging = False
            piece.append(text)
        else:
            if piece:
                yield " ".join(piece)
            piece = [] if skipped else [text[item.end() :] if item else text]
            indent, hanging = depth, item is not None
        if not skipped and _SKIPPED_DIRECTIVE.match(text):
            piece, literal = [], depth
        elif not skipped and text.endswith("::") and not text.startswith(".."):
            literal = depth
    # The blank line at the end has given the last piece.


def is_prose(text: str) -> bool:
    """Whether a line of text reads like English sentences, and not like a license."""
    if not text.isprintable() or not _BEGIN.match(text) or not _END.search(text):
        return False
    words = text.split()
    if not MIN_WORDS <= len(words) <= MAX_WORDS or _LICENSE.search(text):
        return False
    common = sum(word.lower().rstrip(".,;:!?") in _COMMON for word in words)
    plain = sum(_WORD.match(word) is not None for word in words)
    return common >= 0.2 * len(words) and plain >= 0.8 * len(words)

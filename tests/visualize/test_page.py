"""The page of attention maps: its data, that text stays text, and what a browser makes of it."""

import base64
import html.parser
import json
import re
import shutil
import subprocess
import tomllib
import zlib
from fnmatch import fnmatch
from pathlib import Path

import numpy as np
import pytest

from transformer_jax.errors import UserError
from transformer_jax.visualize.maps import AttentionMaps, AttentionPart, token_label
from transformer_jax.visualize.page import PLACEHOLDER, STEPS, write_html

EVIL = (
    "</script><script>alert(1)</script>",
    "<!--<script>",
    "]]>",
    "\"'`&amp;",
    "\u2028\u2029\n\0",
    "\u202eright to left",
    "مرحبا",
    "👩‍👧",
    "\ud800",
    PLACEHOLDER,
    "▁the",
    "",
)


def weights(*shape, seed=0):
    rng = np.random.default_rng(seed)
    return rng.dirichlet(np.full(shape[-1], 0.3), shape[:-1]).astype(np.float32)


def evil_maps():
    keys = tuple("ab")
    encoder = AttentionPart("encoder", weights(2, 3, 2, 2), keys, keys)
    cross = AttentionPart("cross", weights(2, 3, len(EVIL), 2, seed=1), EVIL, keys)
    return AttentionMaps("</title><script>alert('2')</script> & \u2028", (cross, encoder))


def tame_maps():
    tame = AttentionPart("cross", weights(1, 1, 1, 1), ("a",), ("b",))
    return AttentionMaps("title", (tame,))


class Page(html.parser.HTMLParser):
    """The elements of a page, and the text of those with an id."""

    def __init__(self, text):
        super().__init__()
        self.elements, self.texts, self._inside = [], {}, []
        self.feed(text)
        self.close()

    def handle_starttag(self, tag, attributes):
        attributes = dict(attributes)
        self.elements.append((tag, attributes))
        if tag not in ("meta", "input"):
            self._inside.append(attributes.get("id"))

    def handle_endtag(self, tag):
        self._inside.pop()

    def handle_data(self, data):
        for name in set(self._inside) - {None}:
            self.texts[name] = self.texts.get(name, "") + data


def written(maps, folder):
    write_html(maps, folder / "page.html")
    return (folder / "page.html").read_text("utf-8")


def data_of(page):
    return json.loads(Page(page).texts["data"])


def decoded(part):
    raw = zlib.decompress(base64.b64decode(part["weights"], validate=True))
    return np.frombuffer(raw, "<u2").reshape(part["shape"]) / STEPS


def test_the_page_holds_the_weights_as_exactly_as_it_says(tmp_path):
    maps = evil_maps()
    data = data_of(written(maps, tmp_path))
    assert data["steps"] == STEPS
    for shown, part in zip(data["parts"], maps.parts, strict=True):
        assert shown["name"] == part.name
        np.testing.assert_allclose(decoded(shown), part.weights, rtol=0, atol=0.5001 / 65535)


@pytest.mark.parametrize(("weight", "shown"), [(0.0, 0.0), (1.0, 1.0), (1.0009, 1.0)])
def test_the_ends_of_the_range_are_exact(tmp_path, weight, shown):
    part = AttentionPart("cross", np.full((1, 1, 1, 1), weight), ("a",), ("b",))
    (found,) = data_of(written(AttentionMaps("", (part,)), tmp_path))["parts"]
    assert decoded(found) == shown


def test_the_page_shows_each_token_as_its_label(tmp_path):
    maps = evil_maps()
    for shown, part in zip(data_of(written(maps, tmp_path))["parts"], maps.parts, strict=True):
        assert shown["queries"] == [token_label(token) for token in part.query_tokens]
        assert shown["keys"] == [token_label(token) for token in part.key_tokens]


def test_no_text_adds_an_element_or_leaves_the_data(tmp_path):
    tame, evil = (written(maps, tmp_path) for maps in (tame_maps(), evil_maps()))
    assert Page(evil).elements == Page(tame).elements
    before, after = (side for side in tame.split(Page(tame).texts["data"]))
    assert evil.startswith(before) and evil.endswith(after)
    inside = evil.removeprefix(before).removesuffix(after)
    assert inside.isascii() and inside.isprintable() and not set("<>&") & set(inside)


def test_the_page_may_reach_nothing_outside(tmp_path):
    page = written(evil_maps(), tmp_path)
    outside = (
        r"https?:|//\w|\b(?:src|href)\s*=|\.(?:src|href)\b|@import|\burl\(|@font-face"
        r"|\bfetch\b|XMLHttp|WebSocket"
    )
    assert re.findall(outside, page.replace(Page(page).texts["data"], "")) == []
    rules = [
        attributes["content"]
        for _, attributes in Page(page).elements
        if attributes.get("http-equiv") == "Content-Security-Policy"
    ]
    assert [rule.split() for rule in rules[0].split(";")] == [
        ["default-src", "'none'"],
        ["style-src", "'unsafe-inline'"],
        ["script-src", "'unsafe-inline'"],
        ["base-uri", "'none'"],
        ["form-action", "'none'"],
    ]


def test_text_reaches_the_document_as_text_only(tmp_path):
    page = written(tame_maps(), tmp_path)
    assert "textContent" in page
    assert not re.findall(r"innerHTML|outerHTML|insertAdjacent|document\.write|\beval\b", page)


def test_long_texts_make_no_huge_page(tmp_path):
    tokens = tuple("▁token" for _ in range(512))
    # Half of it is zeros, as a causal mask makes them.
    part = AttentionPart("decoder", np.tril(weights(2, 2, 512, 512)), tokens, tokens)
    assert len(written(AttentionMaps("", (part,)), tmp_path)) < 2 * part.weights.size


def test_a_page_that_cannot_be_written_is_a_users_error(tmp_path):
    with pytest.raises(UserError, match="missing/page.html cannot be written"):
        write_html(tame_maps(), tmp_path / "missing" / "page.html")


def test_an_installation_has_the_template():
    root = Path(__file__).resolve().parents[2]
    project = tomllib.loads((root / "pyproject.toml").read_text("utf-8"))
    patterns = project["tool"]["setuptools"]["package-data"]["transformer_jax.visualize"]
    assert any(fnmatch("attention.html", pattern) for pattern in patterns)


def opened(folder, address):
    """The page as Chromium makes it, and what it complains about."""
    browser = shutil.which("chromium") or shutil.which("google-chrome")
    if browser is None:
        pytest.skip("no Chromium")
    command = [
        browser,
        "--headless",
        "--no-sandbox",
        "--disable-gpu",
        f"--user-data-dir={folder / 'browser'}",
        "--virtual-time-budget=10000",
        "--enable-logging=stderr",
        "--dump-dom",
        f"{(folder / 'page.html').as_uri()}#{address}",
    ]
    result = subprocess.run(command, capture_output=True, text=True, timeout=120)
    complaints = [line for line in result.stderr.splitlines() if "CONSOLE" in line]
    return Page(result.stdout), complaints


@pytest.mark.parametrize("head", [1, "mean"])
def test_a_browser_shows_the_row_that_the_address_names(tmp_path, head):
    maps = evil_maps()
    write_html(maps, tmp_path / "page.html")
    page, complaints = opened(tmp_path, f"part=cross&layer=1&head={head}&query=4")
    assert complaints == []
    layer = maps.parts[0].weights[1]  # [N,T,S]
    row = (layer.mean(axis=0) if head == "mean" else layer[head])[4]
    lines = [f"{'ab'[s]}{row[s]:.4f}" for s in np.argsort(-row)]
    assert page.texts["top"] == "".join(lines)
    name = "mean of 3 heads" if head == "mean" else "head 1"
    assert page.texts["shown"] == f"Cross-attention, layer 1, {name}"
    assert page.texts["queries"] == "".join(token_label(token) for token in EVIL)
    assert page.texts["title"] == "</title><script>alert('2')</script> & \\u2028"
    assert [tag for tag, _ in page.elements].count("script") == 2


def test_a_browser_opens_an_address_that_names_nothing(tmp_path):
    write_html(evil_maps(), tmp_path / "page.html")
    page, complaints = opened(tmp_path, "part=__proto__&layer=99&head=-3&scale=toString&zoom=-2")
    assert complaints == []
    assert page.texts["shown"] == "Cross-attention, layer 1, mean of 3 heads"

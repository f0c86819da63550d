"""The coloured page: hostile text comes back exactly, and no tags but ours are there."""

import base64
import hashlib
import re
from html.parser import HTMLParser

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fairseq_mhmoe.analysis.html import LEVELS, Piece, coloured_page, escape_text, level

OURS = {"html", "head", "meta", "title", "style", "body", "h1", "table", "tr", "th", "td", "p", "span", "main", "i"}
HOSTILE = [
    "<script>alert(1)</script>",
    "</p></main>",
    "&lt;b&gt; &amp &#60;",
    "\"' onmouseover='x'",
    "<!-- -->",
    "]]>",
    "\u202etxt.exe\u202c",
    "\u2066\u2069\u200f\u061c",
    "\x00\x07\x1b[31m\r\n\t\x7f\x85",
    "\ufeff\u00ad\u2028\u2029\ue000\ufffe",
    "\u05e9\u05dc\u05d5\u05dd e\u0301 \u0915\u094d\u200d\u0937",
]


class Reader(HTMLParser):
    """Collects tags, and the text of each paragraph of <main>; <i data-code> stands for the character."""

    def __init__(self):
        super().__init__()
        self.tags, self.paragraphs, self.spans, self.attributes = [], [], [], set()
        self.inside = self.in_span = self.in_code = False

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.attributes |= {name for name, _ in attrs}
        attrs = dict(attrs)
        if tag == "main":
            self.inside = True
        elif tag == "p" and self.inside:
            self.paragraphs.append("")
        elif tag == "span" and self.inside:
            self.spans.append([attrs["class"], attrs["title"], ""])
            self.in_span = True
        elif tag == "i" and self.inside:
            self._add(chr(int(attrs["data-code"], 16)))
            self.in_code = True

    def handle_endtag(self, tag):
        if tag == "main":
            self.inside = False
        elif tag == "span":
            self.in_span = False
        elif tag == "i":
            self.in_code = False

    def handle_data(self, data):
        if self.in_span and not self.in_code:
            self._add(data)
        elif self.inside and not self.in_code:
            assert data == "\n"  # between paragraphs

    def _add(self, text):
        self.paragraphs[-1] += text
        self.spans[-1][2] += text

    def handle_comment(self, data):
        raise AssertionError(f"a comment: {data}")

    def unknown_decl(self, data):
        raise AssertionError(f"a declaration: {data}")


def read(page):
    reader = Reader()
    reader.feed(page)
    reader.close()
    return reader


def page_of(documents):
    return coloured_page("title", [("text", "a <b>&")], documents, "experts", "words")


@pytest.mark.parametrize("text", HOSTILE)
def test_hostile_text_comes_back_and_stays_text(text):
    found = read(page_of([[Piece(text.encode(), 1.0), Piece(b"end", 2.0, "<note> \"'&")]]))
    assert found.paragraphs == [text + "end"]
    assert set(found.tags) <= OURS and found.tags.count("main") == 1 and found.tags.count("style") == 1
    assert found.attributes <= {"charset", "http-equiv", "content", "class", "title", "dir", "data-code"}
    assert found.spans[-1][1] == "<note> \"'&"


@given(st.lists(st.lists(st.text(min_size=1, max_size=6), min_size=1, max_size=4), min_size=1, max_size=3))
@settings(max_examples=60)
def test_any_text_comes_back(documents):
    pieces = [[Piece(text.encode(), 1.0) for text in document] for document in documents]
    found = read(page_of(pieces))
    assert found.paragraphs == ["".join(document) for document in documents]
    assert set(found.tags) <= OURS
    assert [span[2] for span in found.spans] == [text for document in documents for text in document]


@given(st.text(min_size=1, max_size=8), st.lists(st.integers(1, 3), max_size=30))
def test_pieces_that_split_characters_are_joined(text, sizes):
    content, pieces = text.encode(), []
    for size in sizes:
        pieces.append(Piece(content[:size], 1.0))
        content = content[size:]
    pieces.append(Piece(content, 1.0))
    found = read(page_of([pieces]))
    assert found.paragraphs == [text]


def test_a_character_of_two_pieces_has_their_mean_and_both_notes():
    pieces = [
        Piece(b"a", 1.0),
        Piece(b"\xc3", 2.0, "one"),
        Piece(b"\xa9", 4.0, "two", underlined=True),
        Piece(b"b", 5.0),
    ]
    found = read(page_of([pieces]))
    assert found.spans[1] == [f"c{level(3.0, 1.0, 5.0)} u", "one, two", "\u00e9"]


def test_bytes_that_are_no_text_are_marked():
    assert read(page_of([[Piece(b"\xff", 1.0), Piece(b"a\xc3", 1.0)]])).paragraphs == ["\ufffda\ufffd"]


def test_what_reorders_or_hides_is_shown_as_a_number():
    assert escape_text("a\u202eb") == 'a<i data-code="202e">U+202E</i>b'
    assert escape_text("\x00") == '<i data-code="0">U+0000</i>'
    assert escape_text("a\n\tb\u00a0\u200d") == "a\n\tb\u00a0\u200d"


def test_levels():
    assert [level(value, 2.0, 4.0) for value in (1.0, 2.0, 3.0, 4.0, 5.0)] == [0, 0, 5, LEVELS - 1, LEVELS - 1]
    assert level(3.0, 3.0, 3.0) == 0


def test_the_policy_allows_the_style_and_nothing_else():
    page = page_of([[Piece(b"a", 1.0), Piece(b"b", 3.0)]])
    style = re.search("<style>(.*)</style>", page).group(1)
    digest = base64.b64encode(hashlib.sha256(style.encode()).digest()).decode()
    assert f"content=\"default-src 'none'; style-src 'sha256-{digest}'; base-uri 'none'; form-action 'none'\"" in page
    assert not re.search(r"style=|src=|href=|url\(|@import", page)
    # colours of the text are those of the style, and the legend tells what they mean
    assert all(f".c{number}{{background:#" in style for number in range(LEVELS))
    assert re.findall(r'<span class="c\d+">([\d.]+)</span>', page)[:: LEVELS - 1] == ["1.00", "3.00"]
    assert "a &lt;b&gt;&amp;" in page


def test_an_empty_text_makes_a_page():
    assert read(page_of([])).paragraphs == []

"""Wiki markup becomes the text that a reader sees."""

import time
import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from data_prep.wikitext import Site, _unclosed, plain_text, tidy

CASES = {
    "bold and italic": ("'''Bold''' and ''italic''", "Bold and italic"),
    "link": ("a [[River]] runs", "a River runs"),
    "link with text": ("[[River|rivers]] and [[bird]]s", "rivers and birds"),
    "link to a section": ("[[#History|below]]", "below"),
    "file with nested link": ("[[File:A.jpg|thumb|A [[river]] bank]]Text", "Text"),
    "image": ("[[Image:A.jpg|right]]Text", "Text"),
    "category": ("Text\n[[Category:Rivers]]", "Text"),
    "category as text": ("see [[:Category:Rivers]]", "see Category:Rivers"),
    "interlanguage link": ("Text\n[[fr:Fleuve]]\n[[zh-min-nan:Hô]]", "Text"),
    "external link": ("the [https://example.org/a?b=c site] is", "the site is"),
    "external link without text": ("this [https://example.org] is", "this is"),
    "template": ("{{Infobox|name=A|x={{y|z}}}}Text", "Text"),
    "unit": ("It is {{convert|50|km|mi|abbr=on}} long.", "It is 50 km long."),
    "language": ("called {{lang|grc|ἀναρχία}} or {{lang-fr|anarchie}}.", "called ἀναρχία or anarchie."),
    "template inside a template": ("{{nowrap|{{lang|fr|eau}} pure}}", "eau pure"),
    "unbalanced template": ("Text {{cite", "Text cite"),
    "reference": ("A fact.<ref name=x>{{cite|a}}</ref> More.<ref name=x />", "A fact. More."),
    "comment": ("A<!-- not\nshown -->B", "AB"),
    "entity": ("A&nbsp;B &amp; C &mdash; D&#233;", "A B & C — Dé"),
    "lone surrogate entity": ("A&#xD800;B", "AB"),
    "table": ("Before\n{| class=wikitable\n|-\n! h !! i\n|-\n| a || b\n|}\nAfter", "Before\nAfter"),
    "end of a table alone": ("Before\n| rest\n|}\nAfter", "Before\nAfter"),
    "heading": ("Lead\n== History ==\nText", "Lead\nHistory\nText"),
    "heading with nothing below": ("Lead\n== History ==\n=== Old ===\n== Now ==\nText", "Lead\nNow\nText"),
    "heading above a filled one": ("Lead\n== History ==\n=== Old ===\nText", "Lead\nHistory\nOld\nText"),
    "link section": ("Lead\n== See also ==\n* [[A]]\n=== More ===\n* [[B]]\n== Life ==\nText", "Lead\nLife\nText"),
    "list": ("* one\n* two\n# three\n; term\n: definition", "one\ntwo\nthree\nterm\ndefinition"),
    "line break": ("a<br />b<br>c", "a\nb\nc"),
    "sub and sup": ("CO<sub>2</sub> and m<sup>2</sup>", "CO2 and m2"),
    "mathematics": ("where <math>x^2 < y</math> holds", "where holds"),
    "gallery": ("A\n<gallery>\nFile:A.jpg|text\n</gallery>\nB", "A\nB"),
    "magic word": ("__NOTOC__\nText", "Text"),
    "brackets that became empty": ("Athens ({{IPA-el|aˈθina}}; {{lang|el|Αθήνα}}) is", "Athens (Αθήνα) is"),
    "nothing in brackets": ("Athens ({{IPA-el|aˈθina}}) is", "Athens is"),
    "several line ends": ("a\r\nb\rc\u2028d", "a\nb\nc\nd"),
    "no words": ("----\n*\n'''\nText", "Text"),
}


@pytest.mark.parametrize("markup, text", CASES.values(), ids=CASES)
def test_markup_becomes_text(markup, text):
    assert plain_text(markup) == text


MARKUP = st.lists(
    st.sampled_from(
        "{{ }} [[ ]] {| |} | ! == \n '' ''' <ref> </ref> <ref/> <b> <!-- --> & &amp; &#xD800; [http://a {{{ }}} * # ; "
        ": <table> <math> </math> <nowiki> File: \x00 \ud800 \u2028 \u200b ▁ é text".split(" ")
    ),
    max_size=40,
).map("".join)


def assert_clean(text):
    assert text == unicodedata.normalize("NFC", text)
    assert not any(unicodedata.category(char) in ("Cs", "Zl", "Zp", "Zs") and char != " " for char in text)
    assert "▁" not in text and "  " not in text and "\r" not in text
    assert all(line and line == line.strip() for line in text.split("\n")) or text == ""
    text.encode("utf-8")


@given(st.one_of(MARKUP, st.text(max_size=200)))
def test_any_markup_gives_clean_text_or_a_value_error(markup):
    try:
        text = plain_text(markup)
    except ValueError:
        return
    assert_clean(text)


@given(st.text(max_size=200))
def test_any_text_becomes_clean(text):
    assert_clean(tidy(text))


def test_clean_text_stays_as_it_is():
    text = "Lake (Ἀνα) – 50 km, naïve; (a) b.\nTwo = 2.\n日本語 ไทย"
    assert tidy(text) == text


@pytest.mark.parametrize("unit", ["{{a|", "[[a|", "<b>", "<ref name=x>", "<!--", "{|\n", "[http://a "])
def test_markup_that_would_take_hours_is_refused_at_once(unit):
    start = time.process_time()
    with pytest.raises(ValueError, match="20000 brackets that are never closed"):
        plain_text(unit * 20_000)
    assert time.process_time() - start < 1


def test_a_large_page_with_few_mistakes_is_read():
    text = "<br>[http://a b] [[c]] {{d}} <ref name=e /> <b>f</b>\n" * 5000
    assert plain_text("{{ [[ <i>" + text[:5300]).count("b c f") == 100
    assert _unclosed("{{ [[ <i>" + text) == 3


def test_a_site_names_its_own_sections_and_files():
    site = Site(frozenset({"datei"}), frozenset({"weblinks"}))
    assert plain_text("Fluss [[Datei:A.jpg]] A\n== Weblinks ==\n* B", site) == "Fluss A"

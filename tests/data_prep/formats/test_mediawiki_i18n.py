"""MediaWiki's translations: what becomes a document, what is rejected, and clear errors for damaged files."""

import io
import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from data_prep.formats import FORMATS, Rejected
from data_prep.formats.mediawiki_i18n import clean_i18n, read_i18n
from data_prep.opening import DamagedFile


def read(content):
    content = content if isinstance(content, bytes) else content.encode()
    return list(read_i18n(io.BytesIO(content), "de.json"))


def clean(text):
    [document] = read(json.dumps({"key": text}))
    return clean_i18n(document) or document.text


def test_messages_are_documents_and_the_translators_are_none():
    found = read('{"@metadata": {"authors": ["A"]}, "yes": "Ja", "no": "Nein"}')
    assert [record.text for record in found] == ["Ja", "Nein"]
    assert read('{"yes": "Oui"}')[0].id == found[0].id


def test_what_is_no_message_is_rejected_with_its_name():
    found = read('{"a": 1, "b": {"c": "d"}, "e": "-", "f": "\\ud800", "g": "G", "g": "H", "h": ""}')
    assert [record.text for record in found if not isinstance(record, Rejected)] == ["G"]
    assert [tuple(record) for record in found if isinstance(record, Rejected)] == [
        ("text_type", "message 1 ('a')"),
        ("text_type", "message 2 ('b')"),
        ("empty", "message 3 ('e')"),
        ("encoding", "message 4 ('f')"),
        ("repeated", "message 6 ('g')"),
        ("empty", "message 7 ('h')"),
    ]


@pytest.mark.parametrize(
    "message, text",
    [
        ("'''$1''' {{PLURAL:$1|Seite|Seiten}}", "… Seiten"),
        ("{{PLURAL:$1|0=keine|eine|viele {{GENDER:$2|seiner|ihrer}}}}", "viele seiner"),
        ("{{GRAMMAR:genitiv|Wiki}} von {{SITENAME}}", "Wiki von …"),
        ("Siehe [[Special:Log|Logbuch]] und [https://a.b hier]", "Siehe Logbuch und hier"),
    ],
)
def test_wiki_text_of_a_message(message, text):
    assert clean(message) == text


@pytest.mark.parametrize(
    "content, message",
    [
        (b"", "line 1: no JSON"),
        (b'{"a": "b"', "line 1: no JSON"),
        (b'{"a":\n"b",\n"c"}', "line 3: no JSON"),
        (b'{"a": "\xff"}', "byte 7: no UTF-8"),
        (b'["a"]', "expected an object of messages"),
        (b"[" * 100_000, "cannot be read as JSON"),
        (b'{"a": ' + b"9" * 5000 + b"}", "cannot be read as JSON"),
    ],
)
def test_a_damaged_file_is_named_with_the_position(content, message):
    with pytest.raises(DamagedFile, match=f"de.json: .*{message}"):
        read(content)


def test_the_format_is_known_by_its_first_bytes(tmp_path):
    recognizes = FORMATS["mediawiki-i18n"].recognizes
    assert recognizes(b'{\n\t"@metadata": {') and not recognizes(b'{"text": "a"}\n')


VALUES = st.recursive(st.none() | st.integers() | st.text(max_size=8), lambda inner: st.lists(inner, max_size=2))


@given(st.dictionaries(st.text(max_size=5), VALUES, max_size=8), st.integers(0, 120))
@settings(max_examples=30)
def test_every_message_is_accepted_or_rejected_and_a_cut_is_an_error(messages, cut):
    content = json.dumps(messages).encode()
    found = read(b"\xef\xbb\xbf" + content)
    assert len(found) == len(messages.keys() - {"@metadata"})
    if cut < len(content):
        with pytest.raises(DamagedFile):
            read(content[:cut])

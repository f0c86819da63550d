"""Messages of programs become text: without tags, entities and placeholders."""

import pytest
from datatrove.data import Document

from data_prep.formats.messages import clean_message


def clean(text):
    document = Document(text=text, id="a")
    return clean_message(document) or document.text


@pytest.mark.parametrize(
    "message, text",
    [
        ("%(count)s Zeilen in %s", "… Zeilen in …"),
        ("{0} von {total} für ${name}", "… von … für …"),
        ("$1 $2 geändert", "… geändert"),
        ("%d Tage", "… Tage"),
        ("50% der Zeit, 100%.", "50% der Zeit, 100%."),
        ("<strong>Achtung</strong>: <a href='%(url)s'>hier</a>&nbsp;&amp; dort", "Achtung: hier & dort"),
        ("erste<br/>zweite", "erste\nzweite"),
        ("a < b und c > d", "a < b und c > d"),
        ("Kosten: $5", "Kosten: …"),
        ("e\u0301te\u0301", "été"),
    ],
)
def test_text_of_a_message(message, text):
    assert clean(message) == text


@pytest.mark.parametrize("message", ["%s", "{0} / {1}", "...", "12:30", "<br/>", ""])
def test_a_message_without_letters_is_rejected(message):
    assert clean(message) == "empty"


@pytest.mark.timeout(20)  # a search that began anew at every "<!--" would take hours
def test_comments_without_end_cost_one_pass():
    document = Document(text="<!--" * 500_000 + " Save", id="a")
    assert clean_message(document) is None
    assert document.text.endswith("Save")

"""Messages of programs: their common id in all languages, and their text without markup and placeholders."""

import hashlib
import html
import re

from datatrove.data import Document

from data_prep.wikitext import tidy

PLACEHOLDER = re.compile(
    r"""%\([^()%\n]{1,60}\)[-+ #0]*\d*(?:\.\d+)?[a-zA-Z]   # %(name)s
    | %(?:\d+\$)?[-+#0]*\d*(?:\.\d+)?[sdifrxcu](?![^\W\d_])  # %s, %1$d; not the percent sign of "5%discount"
    | \$?\{[^{}\n]{0,60}\}                                 # {name}, {0}, ${name}
    | \$\d+ | \$[A-Za-z_]\w*                               # $1, $name
    """,
    re.VERBOSE,
)
# A comment reaches from the last "<!--" before its end, so that a text of nothing but beginnings is read once.
TAG = re.compile(r"</?[A-Za-z][^<>]{0,500}>|<!--(?:(?!<!--).)*?-->", re.DOTALL)
BLOCK_TAG = re.compile(r"</?(?:br|p|div|li|ul|ol|h\d|tr|td|th|table|dd|dt)\b[^<>]{0,500}>", re.IGNORECASE)
# What stands for a placeholder; several in a row are one.
GAP = "…"
GAPS = re.compile(rf"{GAP}(?:\s*{GAP})+")
LETTER = re.compile(r"[^\W\d_]")


def message_id(context: str, original: str) -> str:
    """A name that all translations of a message share: 16 hexadecimal digits."""
    key = f"{context}\x04{original}".encode("utf-8", errors="surrogatepass")
    return hashlib.sha256(key).hexdigest()[:16]


def clean_message(doc: Document) -> str | None:
    """Make clean text of a message, in place -> why it is rejected, or None.

    Tags and comments go, entities become characters, each placeholder an ellipsis. Reasons: empty (no letter is left).
    """
    text = TAG.sub("", BLOCK_TAG.sub("\n", doc.text))
    text = tidy(GAPS.sub(GAP, PLACEHOLDER.sub(GAP, html.unescape(text))))
    doc.text = text
    return None if LETTER.search(text) else "empty"

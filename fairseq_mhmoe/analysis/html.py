"""A page that shows a text coloured token by token, safe to open whatever the text holds.

Everything of the text is escaped; characters that can't be seen or that reorder others are shown as their numbers; the
page has no script, and its Content-Security-Policy lets a browser use nothing but the one style sheet in it.
"""

import base64
import codecs
import hashlib
import html
import unicodedata
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

LEVELS = 11
LOW, HIGH = (255, 255, 255), (240, 140, 46)  # black letters can be read on all colours between these
# inside of words of some scripts, harmless
JOINERS = "\u200c\u200d"


@dataclass(frozen=True)
class Piece:
    """A token of the text: its bytes (maybe a part of a character), its value, what to show beside it, an underline."""

    content: bytes
    value: float
    note: str = ""
    underlined: bool = False


def coloured_page(
    title: str, facts: Sequence[tuple[str, str]], documents: Sequence[Sequence[Piece]], unit: str, underline: str = ""
) -> str:
    """The page as text, to be written in UTF-8.

    Args:
        title: plain text, like all others here.
        facts: (name, text) for the head of the page.
        documents: a paragraph each; colours reach from the smallest to the largest value of all pieces.
        unit: what the values are, for the legend.
        underline: what underlined pieces are; "" if there are none.
    """
    values = [piece.value for document in documents for piece in document]
    low, high = (min(values), max(values)) if values else (0.0, 1.0)
    style = _style()
    digest = base64.b64encode(hashlib.sha256(style.encode()).digest()).decode()
    policy = f"default-src 'none'; style-src 'sha256-{digest}'; base-uri 'none'; form-action 'none'"
    parts = [
        "<!DOCTYPE html>\n<html>\n<head>\n",
        '<meta charset="utf-8">\n',
        f'<meta http-equiv="Content-Security-Policy" content="{policy}">\n',
        f"<title>{html.escape(title)}</title>\n<style>{style}</style>\n</head>\n<body>\n<h1>{html.escape(title)}</h1>\n",
        "<table>\n",
        *(f"<tr><th>{html.escape(name)}</th><td>{escape_text(text)}</td></tr>\n" for name, text in facts),
        "</table>\n",
        _legend(low, high, unit, underline),
        "<main>\n",
        *(f'<p dir="auto">{"".join(_spans(document, low, high))}</p>\n' for document in documents),
        "</main>\n</body>\n</html>\n",
    ]
    return "".join(parts)


def level(value: float, low: float, high: float) -> int:
    """Which of the LEVELS colours a value has, 0 for low."""
    if high <= low:
        return 0
    return round((LEVELS - 1) * min(max((value - low) / (high - low), 0.0), 1.0))


def escape_text(text: str) -> str:
    """Text for a page: markup escaped; what can't be seen, or changes how other text is seen, as <i>U+number</i>."""
    return "".join(
        f'<i data-code="{ord(character):x}">U+{ord(character):04X}</i>' if _is_hidden(character) else character
        for character in html.escape(text)
    )


def _is_hidden(character: str) -> bool:
    if character in "\n\t" or character in JOINERS:
        return False
    # controls, formats (bidi marks among them), unassigned, private, surrogates; separators of lines and paragraphs
    category = unicodedata.category(character)
    return category.startswith("C") or category in ("Zl", "Zp")


def _spans(document: Sequence[Piece], low: float, high: float) -> Iterator[str]:
    """One element a token; tokens that are parts of one character share an element, which has their mean."""
    decoder = codecs.getincrementaldecoder("utf-8")("replace")
    together: list[Piece] = []
    text = ""
    for number, piece in enumerate(document):
        last = number == len(document) - 1
        text += decoder.decode(piece.content, final=last)
        together.append(piece)
        if decoder.getstate()[0] and not last:
            continue
        if text:
            yield _span(text, together, low, high)
        together, text = [], ""


def _span(text: str, pieces: Sequence[Piece], low: float, high: float) -> str:
    value = sum(piece.value for piece in pieces) / len(pieces)
    names = f"c{level(value, low, high)}" + (" u" if any(piece.underlined for piece in pieces) else "")
    notes = ", ".join(piece.note for piece in pieces if piece.note)
    return f'<span class="{names}" title="{html.escape(notes)}">{escape_text(text)}</span>'


def _legend(low: float, high: float, unit: str, underline: str) -> str:
    steps = [low + (high - low) * number / (LEVELS - 1) for number in range(LEVELS)]
    boxes = "".join(f'<span class="c{number}">{step:.2f}</span>' for number, step in enumerate(steps))
    marked = f'; <span class="u">underlined</span>: {html.escape(underline)}' if underline else ""
    return f'<p class="legend">{html.escape(unit)}: {boxes}{marked}</p>\n'


def _style() -> str:
    rules = [
        "body{background:#fff;color:#000;font:16px/1.7 sans-serif;max-width:60em;margin:2em auto;padding:0 1em}",
        "h1{font-size:1.3em}",
        "table{font-size:.85em;line-height:1.4;border-spacing:0 .2em}",
        "th{text-align:left;vertical-align:top;padding-right:1em;white-space:nowrap}",
        "main p{white-space:pre-wrap;overflow-wrap:anywhere}",
        "main p+p{border-top:1px solid #ccc;padding-top:1em}",
        ".legend{position:sticky;top:0;background:#fff;border-bottom:1px solid #ccc;padding:.3em 0}",
        ".legend span{padding:.2em .4em;border:1px solid #ccc}",
        "i{font:.7em monospace;border:1px solid #888}",
        ".u{text-decoration:underline;text-decoration-thickness:2px}",
    ]
    for number in range(LEVELS):
        share = number / (LEVELS - 1)
        red, green, blue = (round(a + (b - a) * share) for a, b in zip(LOW, HIGH, strict=True))
        rules.append(f".c{number}{{background:#{red:02x}{green:02x}{blue:02x}}}")
    return "".join(rules)

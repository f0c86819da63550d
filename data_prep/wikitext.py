"""Wiki markup -> the text that a reader of the page sees, without tables, templates, references and link lists."""

import re
import unicodedata
from collections import Counter
from typing import NamedTuple

import mwparserfromhell
from mwparserfromhell import nodes
from mwparserfromhell.parser import ParserError
from mwparserfromhell.wikicode import Wikicode

# Sections that hold lists of links and citations rather than prose (English Wikipedia's names).
LINK_SECTIONS = frozenset(
    "bibliography|citations|external links|footnotes|further reading|notes|notes and references|references|see also"
    "|sources|works cited".split("|")
)

# Elements whose content is no prose.
DROPPED_TAGS = frozenset(
    "categorytree|ce|chem|gallery|graph|hiero|imagemap|indicator|inputbox|mapframe|math|noinclude|ref|references|score"
    "|script|section|source|style|syntaxhighlight|table|templatestyles|timeline".split("|")
)
BLOCK_TAGS = frozenset("blockquote|br|center|dd|div|dl|dt|hr|li|ol|p|poem|pre|tr|ul".split("|"))

# Link targets that show a file or file the page under something, instead of being part of its text.
DROPPED_NAMESPACES = frozenset("category|file|image|media".split("|"))
INTERLANGUAGE = re.compile(r"[a-z]{2,3}(-[a-z]+)*")


class Site(NamedTuple):
    """What differs between the wikis of two languages, in lower case; English names are understood by all.

    dropped_namespaces: of links that show a file or file the page under something.
    link_sections: titles of sections that hold lists of links and citations.
    """

    dropped_namespaces: frozenset[str] = DROPPED_NAMESPACES
    link_sections: frozenset[str] = LINK_SECTIONS


ENGLISH = Site()

# Templates that stand for words of the sentence: name -> text, {1} being the first unnamed argument.
# All others are boxes, citations and notices.
TEMPLATE_TEXT = {
    "angbr": "⟨{1}⟩",
    "as of": "As of {1}",
    "blockquote": "{1}",
    "c.": "c. {1}",
    "circa": "c. {1}",
    "convert": "{1} {2}",
    "cquote": "{1}",
    "cvt": "{1} {2}",
    "flag": "{1}",
    "frac": "{1}/{2}",
    "ipa": "{1}",
    "lang": "{2}",
    "mdash": " — ",
    "nbsp": " ",
    "nihongo": "{1}",
    "ndash": "–",
    "nobr": "{1}",
    "nobreak": "{1}",
    "nowrap": "{1}",
    "pi": "π",
    "quote": "{1}",
    "small": "{1}",
    "snd": " – ",
    "spaced ndash": " – ",
    "sub": "{1}",
    "sup": "{1}",
    "transl": "{2}",
    "unicode": "{1}",
    "val": "{1}",
    "'": "'",
    "'s": "'s",
    "–": "–",
    "—": "—",
}

# Each bracket or tag that is never closed makes the parser go over the rest of the page once more.
BRACKETS = (("{{", "}}"), ("[[", "]]"), ("{|", "|}"), ("<!--", "-->"))
TAG = re.compile(r"<(/?)([a-z]+)\b[^<>]*?(/?)>", re.IGNORECASE)
UNPAIRED_TAGS = frozenset("br|dd|dt|hr|img|li|link|meta|td|th|tr|wbr".split("|"))
MAX_PARSER_STEPS = 100_000_000  # about ten seconds

LINE_BREAKS = re.compile(r"\r\n?|[\v\f\x1c-\x1e\x85\u2028\u2029]")
# controls, lone surrogates, zero-width space, byte order mark, soft hyphen; joiners stay, some scripts need them
INVISIBLE = re.compile(r"[\x00-\x08\x0e-\x1f\x7f-\x9f\ud800-\udfff\u200b\ufeff\u00ad]")
SPACES = re.compile(r"[^\S\n]+")
LEFTOVERS = re.compile(r"'{2,}|\{\{|\}\}|\[\[|\]\]|__[A-Z]+__")
WORD = re.compile(r"\w")
EMPTY_BRACKETS = re.compile(r"\([^\S\n]*(?:[,;:][^\S\n]*)*\)|\[\s*\]")
AFTER_BRACKET = re.compile(r"\([^\S\n]*(?:[,;:][^\S\n]*)*")
COMMAS = re.compile(r",(?:[^\S\n]*,)+")
BEFORE_PUNCTUATION = re.compile(r" +(?=[,;)]|\.(?:\s|$))")
TABLE_LINE = re.compile(r"\s*(?:\{\||\|[-}+]?|!)")


def plain_text(markup: str, site: Site = ENGLISH) -> str:
    """The prose of a page: paragraphs, headings and list items, one a line, without empty lines.

    Raises:
        ValueError: the markup cannot be parsed, or not in reasonable time.
    """
    if (unclosed := _unclosed(markup)) * len(markup) > MAX_PARSER_STEPS:
        raise ValueError(f"wiki markup of {len(markup)} characters has {unclosed} brackets that are never closed")
    try:
        page = mwparserfromhell.parse(markup, skip_style_tags=True)
        text = _without_empty_sections(page, site)
    except (ParserError, RecursionError) as error:
        raise ValueError(f"wiki markup cannot be parsed: {error}") from None
    return tidy(text)


def _unclosed(markup: str) -> int:
    """About how many brackets and tags are opened and never closed."""
    single_ends = markup.count("]") - 2 * markup.count("]]")
    unclosed = max(0, markup.count("[http") + markup.count("[//") - single_ends)
    unclosed += sum(max(0, markup.count(start) - markup.count(end)) for start, end in BRACKETS)
    tags = Counter()
    for end, name, closed in TAG.findall(markup):
        if not closed and name.lower() not in UNPAIRED_TAGS:
            tags[name.lower()] += -1 if end else 1
    return unclosed + sum(max(0, count) for count in tags.values())


def tidy(text: str) -> str:
    """Normal form of any text: NFC, \\n between lines, single spaces, no invisible characters, no lines without words.

    U+2581 becomes an underscore, because SentencePiece marks spaces with it; so what is left survives tokenization.
    """
    text = INVISIBLE.sub("", LINE_BREAKS.sub("\n", text)).replace("\u2581", "_")
    text = LEFTOVERS.sub("", text)
    text = AFTER_BRACKET.sub("(", EMPTY_BRACKETS.sub("", text))
    text = BEFORE_PUNCTUATION.sub("", SPACES.sub(" ", COMMAS.sub(",", text)))
    text = unicodedata.normalize("NFC", text)
    lines = (line.strip() for line in text.split("\n") if not TABLE_LINE.match(line))
    return "\n".join(line for line in lines if WORD.search(line))


def _without_empty_sections(page: Wikicode, site: Site) -> str:
    """Text of a page, less its link sections and the headings with nothing under them."""
    # (level, title, text) in order; the lead section has level 0 and no title
    sections = [(0, "", [])]
    for node in page.nodes:
        if isinstance(node, nodes.Heading):
            sections.append((node.level, _text_of(node.title, site).strip(), []))
        else:
            sections[-1][2].append(_node_text(node, site))

    kept = []
    skipped_level = None
    for level, title, parts in sections:
        if skipped_level is not None and level > skipped_level:
            continue
        skipped_level = level if title.lower() in site.link_sections else None
        if skipped_level is None:
            kept.append((level, title, "".join(parts)))

    lines = []
    # from the end, so that a heading knows whether anything follows on its level or below
    filled_below = 0
    for level, title, text in reversed(kept):
        if text.strip():
            lines.append(text)
        if title and (text.strip() or filled_below > level):
            lines.append(title)
            filled_below = level
        elif text.strip():
            filled_below = level
    return "\n".join(reversed(lines))


def _text_of(code: Wikicode | None, site: Site) -> str:
    return "" if code is None else "".join(_node_text(node, site) for node in code.nodes)


def _node_text(node: nodes.Node, site: Site) -> str:
    if isinstance(node, nodes.Text):
        return node.value
    if isinstance(node, nodes.HTMLEntity):
        return node.normalize()
    if isinstance(node, nodes.Wikilink):
        return _link_text(node, site)
    if isinstance(node, nodes.ExternalLink):
        return _text_of(node.title, site) if node.brackets else str(node.url)
    if isinstance(node, nodes.Template):
        return _template_text(node, site)
    if isinstance(node, nodes.Tag):
        return _tag_text(node, site)
    if isinstance(node, nodes.Heading):
        return f"\n{_text_of(node.title, site).strip()}\n"
    return ""  # comments, and arguments of templates' own pages


def _link_text(link: nodes.Wikilink, site: Site) -> str:
    target = str(link.title).strip()
    namespace = target.partition(":")[0].strip().lower() if ":" in target else ""
    if namespace in site.dropped_namespaces:
        return ""
    if link.text is not None:
        return _text_of(link.text, site)
    if INTERLANGUAGE.fullmatch(namespace):
        return ""
    return _text_of(link.title, site).lstrip(":")


def _template_text(template: nodes.Template, site: Site) -> str:
    name = str(template.name).strip().lower()
    # {{lang-fr|...}} shows a label of the language that nothing here knows; its text is enough
    pattern = "{1}" if name.startswith("lang-") else TEMPLATE_TEXT.get(name, "")
    return re.sub(r"\{(\d)\}", lambda match: _argument(template, match[1], site), pattern)


def _argument(template: nodes.Template, name: str, site: Site) -> str:
    return _text_of(template.get(name).value, site).strip() if template.has(name) else ""


def _tag_text(tag: nodes.Tag, site: Site) -> str:
    name = str(tag.tag).strip().lower()
    if name in DROPPED_TAGS:
        return ""
    text = _text_of(tag.contents, site)
    return f"\n{text}\n" if name in BLOCK_TAGS and not tag.wiki_markup else text

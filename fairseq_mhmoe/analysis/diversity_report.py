"""Figures of diversity as lines to read in a terminal."""

from itertools import zip_longest

from fairseq_mhmoe.cli.text_table import text_table

# of a token in a table; longer ones are cut
SHOWN = 24


def printable(token: bytes) -> str:
    """A token on one line: spaces as SentencePiece's mark, controls and parts of characters as numbers."""
    text = token.decode("utf-8", errors="backslashreplace").replace(" ", "\u2581")
    return "".join(
        character if character.isprintable() else character.encode("unicode_escape").decode() for character in text
    )


def printed(content: dict) -> str:
    """What `mhmoe-analyze diversity` says; content as diversity.json holds it."""
    tokens = content["tokens"]
    lines = [
        f"{tokens['tokens']:,} tokens, each of {content['heads']} sub-tokens that go to {content['top_k']} of "
        f"{content['experts']} experts, in {len(tokens['layers'])} MoE layers",
        "",
        text_table(
            ["different experts of a token", "by all choices", "by first choice"],
            [
                ["mean over tokens and layers", *_both(tokens, "mean")],
                *[[f"block {layer['block']}", *_both(layer, "mean")] for layer in tokens["layers"]],
                ["if heads were independent", *_both(tokens, "expected_independent_heads")],
                ["uniform random routing", *_both(tokens, "expected_uniform")],
            ],
        ),
        "",
    ]
    if tokens["dropped_share"]:
        lines += [f"capacity dropped {tokens['dropped_share']:.1%} of the choices; they are counted all the same", ""]
    for words in content["lists"]:
        lines += [_list_lines(words), ""]
    for kind in ("token", "word"):
        lines += [_extremes(content[f"by_{kind}"], kind, content["min_count"]), ""]
    return "\n".join(lines).rstrip()


def _both(figures: dict, name: str) -> list[str]:
    return [f"{figures[name]:.3f}", f"{figures[f'{name}_first_choice']:.3f}"]


def _list_lines(words: dict) -> str:
    head = (
        f"{words['name']} against the rest: {words['words_matched']} of {words['words']} words are in the text "
        f"({words['occurrences']:,} times), {words['rest_words']:,} others ({words['rest_occurrences']:,} times)"
    )
    matched = words["matched"]
    named = (
        ("all choices", words["all_choices"]),
        ("first choice", words["first_choice"]),
        (f"as frequent and long: {matched['words']} against {matched['rest_words']:,} words", matched),
    )
    rows = []
    for name, figures in named:
        means = [_number(figures.get(key)) for key in ("mean", "rest_mean")]
        error = _number(figures["standard_error_of_difference"])
        difference, ratio = _number(figures["difference"], "+.3f"), _number(figures["ratio"], "+.1f")
        rows.append([name, *means, difference, error, ratio, figures["verdict"]])
    header = ["", "list", "rest", "difference", "standard error", "ratio", "verdict"]
    return f"{head}\n{text_table(header, rows)}"


def _number(value: float | None, form: str = ".3f") -> str:
    return "" if value is None else format(value, form)


def _extremes(found: dict, kind: str, min_count: int) -> str:
    if not found["top"]:
        return f"{kind}s: {found['enough']} occur {min_count} times or more, too few for a table; lower --min-count"
    rows = []
    for pair in zip_longest(found["top"], found["bottom"]):
        rows.append([cell for row in pair for cell in (_cut(row["text"]), f"{row['mean']:.3f}", f"{row['count']:,}")])
    header = [f"{kind}s to most experts", "mean", "times", f"{kind}s to fewest", "mean", "times"]
    return f"of {found['enough']:,} {kind}s that occur {min_count} times or more:\n{text_table(header, rows)}"


def _cut(text: str) -> str:
    return text if len(text) <= SHOWN else text[: SHOWN - 1] + "\u2026"

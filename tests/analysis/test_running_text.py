"""Words of a text that comes in pieces."""

from hypothesis import given, settings
from hypothesis import strategies as st

from fairseq_mhmoe.analysis.running_text import Word, WordStream, characters, find_words, fold, words_of


def words(text):
    return [word for word, _, _ in find_words(text)]


def test_words_are_runs_of_letters():
    assert words("The bank's (old) well-known spring, 1990s; don\u2019t") == [
        *("The", "bank", "old", "well", "known", "spring", "s"),
        "don\u2019t",
    ]
    assert words("na\u00efve nai\u0308ve l'\u00e9t\u00e9") == ["na\u00efve", "nai\u0308ve", "l'\u00e9t\u00e9"]
    assert words("\u0939\u093f\u0928\u094d\u0926\u0940 \u092d\u093e\u0937\u093e") == [
        "\u0939\u093f\u0928\u094d\u0926\u0940",
        "\u092d\u093e\u0937\u093e",
    ]
    assert words("1,234 _ \u2581 ... '") == []


def test_places_of_words():
    assert list(find_words("a bank's bar")) == [("a", 0, 1), ("bank", 2, 6), ("bar", 9, 12)]


def test_case_and_composition_make_no_difference():
    assert fold("Stra\u00dfe") == fold("STRASSE")
    assert fold("NAI\u0308VE") == fold("na\u00efve")


def test_characters_of_pieces_that_split_them():
    pieces = [b" a", b"\xc3", b"\xa9b", b"", b"\xf0\x9f", b"\x98", b"\x80", b"\xff"]
    text, spans = characters(pieces)
    assert text == " a\u00e9b\U0001f600\ufffd"
    assert spans == [(0, 2), (2, 3), (2, 4), (4, 4), (4, 5), (4, 5), (4, 5), (5, 6)]


def test_a_word_has_the_pieces_with_its_letters():
    # the space alone and the comma are none of its pieces, a piece with a bracket and a letter is
    assert list(words_of([b" ", b"ba", b"nk", b",", b" (s", b"pring", b")"])) == [
        Word("bank", 1, 3),
        Word("spring", 4, 6),
    ]
    assert list(words_of([b" caf", b"\xc3", b"\xa9", b" x"])) == [Word("caf\u00e9", 0, 3), Word("x", 3, 4)]
    # a piece over two words belongs to both
    assert list(words_of([b" of the", b" end"])) == [Word("of", 0, 1), Word("the", 0, 1), Word("end", 1, 2)]


VOCABULARY = [b" the", b" b", b"ank", b"'s", b".", b" ", b"\xc3", b"\xa9", b"\n", b"x", b" \xe2\x96\x81"]
END = len(VOCABULARY)


@given(st.lists(st.integers(0, END), max_size=40), st.lists(st.integers(1, 7), max_size=40))
@settings(max_examples=200)
def test_portions_make_no_difference(tokens, sizes):
    values = [(float(place), 1.0) for place in range(len(tokens))]

    def run(portions):
        stream, found = WordStream(lambda token: b"" if token == END else VOCABULARY[token], {END}), []
        for start, stop in portions:
            found += [(word.text, of_pieces) for word, of_pieces in stream.feed(tokens[start:stop], values[start:stop])]
        return found + [(word.text, of_pieces) for word, of_pieces in stream.finish()]

    borders = [0]
    for size in sizes:
        borders.append(min(borders[-1] + size, len(tokens)))
    borders.append(len(tokens))
    whole = run([(0, len(tokens))])
    assert run(list(zip(borders, borders[1:]))) == whole
    # each document by itself
    expected, start = [], 0
    for stop in [*(place for place, token in enumerate(tokens) if token == END), len(tokens)]:
        for word in words_of([VOCABULARY[token] for token in tokens[start:stop]]):
            expected.append((word.text, values[start + word.first : start + word.stop]))
        start = stop + 1
    assert whole == expected


def test_a_text_without_spaces_is_not_kept_for_ever():
    stream = WordStream(lambda token: b"x", set())
    found = [word for _ in range(10) for word in stream.feed([0] * 1000, [(1.0, 1.0)] * 1000)]
    assert found and len(stream._tokens) <= 5000

"""fairseq's dict.txt: the numbers that come first, and symbols that its readers don't split."""

from collections.abc import Iterable

# fairseq's Dictionary puts these first, whatever the file says.
FAIRSEQ_SPECIALS = ("<s>", "<pad>", "</s>", "<unk>")
BOS, PAD, EOS, UNK = range(4)


def symbol_of(piece: str) -> str:
    """How a piece stands in dict.txt: as it is, but white space as <U+00A0>, where fairseq would split a line."""
    return "".join(f"<U+{ord(character):04X}>" if character.isspace() else character for character in piece)


def dictionary_text(symbols: Iterable[str]) -> str:
    """Content of fairseq's dict.txt. Every count is 1: so it depends on the model alone and hashes compare."""
    return "".join(f"{symbol} 1\n" for symbol in symbols)

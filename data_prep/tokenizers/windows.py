"""Long texts cut into windows, so that memory and exactness of a tokenizer don't depend on a document's length."""

from collections.abc import Iterator

# Characters. SentencePiece needs about 100 bytes for each, and sums up scores in float32.
WINDOW = 1 << 20
# A cut is sought in the last part of a window.
SEARCHED = WINDOW // 4


def windows(text: str, size: int = WINDOW) -> Iterator[str]:
    """The parts of a text, at most `size` characters each; cut before a line end, else a space, else anywhere.

    Joined they are the text; an empty text has one empty part.
    """
    searched = min(SEARCHED, size // 2)
    start = 0
    while len(text) - start > size:
        end = start + size
        for mark in ("\n", " "):
            cut = text.rfind(mark, end - searched, end)
            if cut > start:
                end = cut
                break
        yield text[start:end]
        start = end
    yield text[start:] if start else text

"""The first tokens of a text as a page coloured by their diversity."""

from collections.abc import Callable, Collection, Sequence

from fairseq_mhmoe.analysis.html import Piece, coloured_page
from fairseq_mhmoe.analysis.running_text import words_of


class TextPage:
    """Collects tokens until there are enough of them, and makes the page.

    Args:
        tokens: how many to show, ends of documents not counted.
        bytes_of: id of a token -> its bytes. end: id that ends a document.
    """

    def __init__(self, tokens: int, bytes_of: Callable[[int], bytes], end: int):
        self.wanted = tokens
        self._bytes_of = bytes_of
        self._end = end
        self._shown = 0
        self._documents: list[list[tuple[bytes, float, float]]] = [[]]

    def feed(self, tokens: Sequence[int], values: Sequence[tuple[float, float]]) -> None:
        """The next tokens with their diversity by all choices and by first choice."""
        for token, (value, first) in zip(tokens, values, strict=True):
            if self._shown >= self.wanted:
                return
            if token == self._end:
                self._documents.append([])
            else:
                self._documents[-1].append((self._bytes_of(token), value, first))
                self._shown += 1

    def html(self, content: dict, listed: Collection[str]) -> str:
        """The page.

        Args:
            content: what diversity.json holds.
            listed: folded words that are underlined.
        """
        tokens = content["tokens"]
        read = content.get("text") or f"{content['data']}, split {content['split']}"
        facts = (
            ("checkpoint", content["checkpoint"]),
            ("text", f"{read}: the first {self._shown:,} of {tokens['tokens']:,} tokens"),
            (
                "model",
                f"{content['heads']} sub-tokens per token, each to {content['top_k']} of {content['experts']} experts",
            ),
            ("shown", content["definition"]),
            ("whole text", f"mean {tokens['mean']:.3f}, by first choice {tokens['mean_first_choice']:.3f}"),
            (
                "by chance",
                f"uniform random routing {tokens['expected_uniform']:.3f}, heads that are independent of each other "
                f"{tokens['expected_independent_heads']:.3f}",
            ),
        )
        names = ", ".join(words["name"].replace("_", " ") for words in content["lists"])
        documents = [_pieces(document, listed) for document in self._documents if document]
        unit = "different experts, mean over layers"
        return coloured_page("To how many experts tokens go", facts, documents, unit, f"words of the lists {names}")


def _pieces(document: Sequence[tuple[bytes, float, float]], listed: Collection[str]) -> list[Piece]:
    contents = [content for content, _, _ in document]
    underlined = {place for word in words_of(contents) if word.key in listed for place in range(word.first, word.stop)}
    return [
        Piece(content, value, f"{value:.2f}, by first choice {first:.2f}", place in underlined)
        for place, (content, value, first) in enumerate(document)
    ]

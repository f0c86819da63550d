"""Reasons not to take a document: its length, or that a sample leaves it out."""

import hashlib
from dataclasses import dataclass

from datatrove.data import Document

NOT_SAMPLED = "not_sampled"


@dataclass(frozen=True)
class LengthFilter:
    """Refuse documents shorter than `min_chars` or longer than `max_chars` characters (None: no limit)."""

    min_chars: int
    max_chars: int | None = None

    def reason(self, document: Document) -> str | None:
        """ "short", "long", "empty" where nothing is too short, or None for a document that is taken."""
        if len(document.text) < self.min_chars:
            return "short"
        if not document.text:
            return "empty"
        if self.max_chars is not None and len(document.text) > self.max_chars:
            return "long"
        return None


@dataclass(frozen=True)
class SampleFilter:
    """Take an expected `share` of the documents, chosen by a hash: neither order nor number of tasks matters."""

    share: float
    seed: int = 0

    def reason(self, document: Document) -> str | None:
        """ "not_sampled", or None for a document that is taken."""
        if self.share >= 1 or position_of(document, f"sample\t{self.seed}") < self.share:
            return None
        return NOT_SAMPLED


def position_of(document: Document, salt: str) -> float:
    """A number in [0, 1) that depends on the document and the salt only.

    Documents with a title are told apart by id and title, others by their text: so exact copies stay together.
    """
    title = document.metadata.get("title")
    key = f"{salt}\t{document.id}\t{title}" if title else f"{salt}\t\t{document.text}"
    return int.from_bytes(hashlib.sha256(key.encode("utf-8", "surrogatepass")).digest()[:8], "big") / 2**64

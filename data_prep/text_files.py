"""The cleaned text between stages: <folder>/<source>/<split>/<task>.jsonl, read as a stream, in whole or in parts."""

from collections.abc import Iterable, Iterator
from pathlib import Path

import orjson

# A document belongs to the segment in which its line begins.
SEGMENT_BYTES = 1 << 20


def segments_of(path: Path, segment_bytes: int = SEGMENT_BYTES) -> range:
    """Numbers of a file's segments."""
    return range(-(-path.stat().st_size // segment_bytes))


def read_texts(path: Path, segments: Iterable[int] | None = None, segment_bytes: int = SEGMENT_BYTES) -> Iterator[str]:
    """Texts of a file's documents in their order: of all, or of those in the segments given, in rising order.

    One document is in memory at a time, and skipped segments aren't read.

    Raises:
        ValueError: a line is no document.
    """
    with open(path, "rb") as file:
        position = 0
        for segment in segments_of(path, segment_bytes) if segments is None else segments:
            start = segment * segment_bytes
            if position < start:
                file.seek(start - 1)
                file.readline()  # the rest of a line that belongs to an earlier segment, or just its end
                position = file.tell()
            while position < start + segment_bytes and (line := file.readline()):
                try:
                    yield orjson.loads(line)["text"]
                except (ValueError, KeyError, TypeError):
                    raise ValueError(
                        f"{path}: the line at byte {position} is no document: the file is damaged; "
                        "delete the work folder and run again"
                    ) from None
                position += len(line)

"""Lines of a file, each with its number, without holding a line that is too long."""

from collections.abc import Iterator
from typing import BinaryIO

from data_prep.opening import DamagedFile

# A record of a corpus is a document; a longer line is taken for damage.
MAX_LINE_BYTES = 64 << 20
SKIP_BYTES = 1 << 20
BOM = b"\xef\xbb\xbf"


def numbered_lines(stream: BinaryIO, max_bytes: int | None = None) -> Iterator[tuple[int, bytes | None]]:
    r"""(number from 1, line without its \n or \r\n) of every line; None for one of more than `max_bytes` bytes.

    A byte order mark before the first line is left out. `max_bytes` is `MAX_LINE_BYTES` unless given.

    Raises:
        DamagedFile: from the stream, with the number of the last whole line.
    """
    limit = MAX_LINE_BYTES if max_bytes is None else max_bytes
    number = 0
    try:
        while line := stream.readline(limit + 1):
            number += 1
            if len(line) > limit and not line.endswith(b"\n"):
                yield number, None
                while line and not line.endswith(b"\n"):
                    line = stream.readline(SKIP_BYTES)
                continue
            line = line.removesuffix(b"\n").removesuffix(b"\r")
            yield number, line.removeprefix(BOM) if number == 1 else line
    except DamagedFile as error:
        raise DamagedFile(f"{error} (after line {number})") from None

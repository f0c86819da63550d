"""File formats of corpora: each module reads one, `FORMATS` holds them by name, `format_of` finds a file's."""

from pathlib import Path

from data_prep.formats import jsonl, mediawiki_i18n, po, text, wikiextractor, wikipedia
from data_prep.formats.base import Format, Record, Rejected
from data_prep.opening import ENDINGS, open_input

__all__ = ["FORMATS", "Format", "Record", "Rejected", "format_of"]

HEAD = 1 << 14
# the particular before the general: the first that recognizes a file has it
MODULES = (wikipedia, wikiextractor, po, mediawiki_i18n, jsonl, text)
FORMATS: dict[str, Format] = {module.FORMAT.name: module.FORMAT for module in MODULES}


def format_of(path: Path) -> str:
    """Name of a file's format: by the ending of its name, and where that is not enough by its first bytes.

    Raises:
        ValueError: neither tells; DamagedFile, if it cannot be opened as text.
        OSError: the file cannot be opened.
    """
    name = path.name.lower()
    for ending in ENDINGS:
        name = name.removesuffix(ending)
    fitting = [format for format in FORMATS.values() if name.endswith(format.endings)]
    if len(fitting) == 1:
        return fitting[0].name
    with open_input(path) as stream:
        head = stream.read(HEAD)
    for format in fitting or FORMATS.values():
        if format.recognizes and format.recognizes(head):
            return format.name
    silent = [format.name for format in fitting if not format.recognizes]
    if len(silent) == 1:
        return silent[0]
    raise ValueError(
        f"{path}: neither the name nor the first bytes tell its format; "
        f"name one of {', '.join(FORMATS)} (--format NAME=FORMAT)"
    )

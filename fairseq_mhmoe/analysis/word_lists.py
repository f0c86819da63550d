"""Lists of words that are compared with the rest of a text: ours, or files of the user's own."""

from dataclasses import dataclass
from pathlib import Path

from fairseq_mhmoe.analysis.running_text import find_words, fold

SHIPPED = Path(__file__).with_name("words")
# how many bad lines an error names
NAMED = 5


@dataclass(frozen=True)
class WordList:
    """A named list. words: folded, see `running_text.fold`. repeated: lines that say again what an earlier one says."""

    name: str
    path: Path
    words: frozenset[str]
    repeated: tuple[str, ...] = ()


def shipped_lists() -> list[WordList]:
    """Ours: polysemous English words, and English words that are false cognates of German, French or Spanish ones."""
    return [read_word_list(SHIPPED / name) for name in ("polysemous.txt", "false_cognates.txt")]


def read_word_list(path: str | Path) -> WordList:
    """Read a file with one word a line, named after the file.

    A line that begins with # is a remark, and so is what follows a tab; empty lines are passed over.

    Raises:
        ValueError: no such file, not UTF-8, no words in it, or lines that are no single word, named with their numbers.
    """
    path = Path(path)
    try:
        content = path.read_bytes().decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = path.read_bytes()[: error.start].count(b"\n") + 1
        raise ValueError(f"{path}, line {line}: no UTF-8; save the file as UTF-8") from None
    except OSError as error:
        raise ValueError(f"words file {path}: {error.strerror}; expected a text file with one word a line") from None
    lines: dict[str, int] = {}
    bad, repeated = [], []
    for number, line in enumerate(content.split("\n"), start=1):
        entry = line.split("\t")[0].strip()
        if not entry or entry.startswith("#"):
            continue
        found = [word for word, _, _ in find_words(entry)]
        if found != [entry]:
            bad.append(f"line {number}: {entry[:60]!r}")
        elif (word := fold(entry)) in lines:
            repeated.append(f"{path}, line {number}: {entry!r} stands in line {lines[word]} already")
        else:
            lines[word] = number
    if bad:
        more = f" and {len(bad) - NAMED} more" if len(bad) > NAMED else ""
        raise ValueError(
            f"{path}: {'; '.join(bad[:NAMED])}{more}: expected one word of letters a line; a remark goes behind a tab "
            "or into a line that begins with #"
        )
    if not lines:
        raise ValueError(f"{path} has no words; expected one word a line")
    return WordList(path.stem, path, frozenset(lines), tuple(repeated))

"""Every message that a user may see is explained on a page of docs/errors, and these pages explain nothing else."""

import pytest

from tests.docs.messages import (
    ERRORS,
    FEWEST_WORDS,
    HOLE,
    PAGES,
    all_messages,
    entries,
    matches,
    python_messages,
    shell_messages,
    without_entry,
    words,
)

LARGEST_FAMILY = 10  # an entry that fits more would hide a new message
WRITTEN = sorted(PAGES)


@pytest.fixture(scope="module")
def messages():
    """Every message of the source, each with its page."""
    return all_messages()


@pytest.mark.parametrize("name", WRITTEN)
def test_every_message_has_an_entry(name, messages):
    missing = [f"{m.path}:{m.line}: {m.text}" for m in without_entry(messages, ERRORS / name)]
    assert missing == [], f"add them to docs/errors/{name}; python -m tests.docs.messages {name} lists them"


@pytest.mark.parametrize("name", WRITTEN)
def test_every_entry_is_of_a_message(name, messages):
    texts = [message.text for message in messages if message.page == name]
    orphans = [row[0] for row in entries(ERRORS / name) if not any(matches(row[0].strip("`"), text) for text in texts)]
    assert orphans == [], "the source no longer says this"


@pytest.mark.parametrize("name", WRITTEN)
def test_an_entry_is_about_one_kind_of_message(name, messages):
    texts = [message.text for message in messages if message.page == name]
    covered = {row[0]: sum(matches(row[0].strip("`"), text) for text in texts) for row in entries(ERRORS / name)}
    assert {entry: count for entry, count in covered.items() if count > LARGEST_FAMILY} == {}


@pytest.mark.parametrize("name", WRITTEN)
def test_an_entry_says_why_and_what_to_do(name):
    for row in entries(ERRORS / name):
        assert len(row) == 3 and all(row), f"{name}: expected | message | why | what to do |, got {row}"
        assert row[0].count("`") == 2 and row[0].endswith("`"), f"{name}: {row[0]}: one message in backticks"
        assert len(words(row[0])) >= FEWEST_WORDS, f"{name}: {row[0]}: too few words to know the message by"


def test_there_are_messages_of_every_page(messages):
    assert {message.page for message in messages} == PAGES
    assert {message.path.rpartition(".")[2] for message in messages} == {"py", "sh"}


SOURCE = """
class Damaged(ValueError):
    def __init__(self, name):
        super().__init__(f"{name} was cut off early")

def because(reason):
    return f"it is so because of {reason}"

def check(x, y):
    raise ValueError(f"--size {x}: expected at least {y} " "of them" if x else "no size was given")
    text = "a text in a variable"
    return OSError(text + ", and more")
    raise ValueError(because(x))
    parser.error("the --option has no such value")
    logger.warning("%s lines of %d are left out", x, y)
    sys.exit(f"error: nobody is at work here")
    raise IndexError("not meant for any user")
    raise ValueError("too short")
"""


def test_messages_of_python_are_found():
    assert {message.text for message in python_messages({"data_prep/a.py": SOURCE})} == {
        "... was cut off early",
        "--size ...: expected at least ... of them",
        "no size was given",
        "a text in a variable, and more",
        "it is so because of ...",
        "the --option has no such value",
        "... lines of ... are left out",
        "error: nobody is at work here",
    }


def test_messages_of_a_shell_script_are_found():
    script = r"""
x || die "no '$A' in ${B:-here}; run it $((1 + 2)) times" \
  'or not'
  complain "$# arguments; expected two"
# die "this is a comment only"
fail "the folder $(dirname "$0") is gone" "look for it"
"""
    assert {message.text for message in shell_messages("scripts/a.sh", script)} == {
        "no '...' in ...; run it ... times or not",
        "... arguments; expected two",
        "the folder ... is gone look for it",
    }


@pytest.mark.parametrize(
    "entry, matched",
    [("no ... in ...; run it", True), ("in ... no", False), ("run it", True), ("run them", False), ("... times", True)],
)
def test_pieces_of_an_entry_occur_in_order(entry, matched):
    assert matches(entry, f"no {HOLE} in {HOLE}; run it {HOLE} times") is matched


def test_a_message_without_entry_and_its_page_are_named(tmp_path, messages):
    page = tmp_path / "scripts.md"
    page.write_text("| message | why | what to do |\n|---|---|---|\n| `NGPUS is ..., but this machine has` | a | b |\n")
    missing = without_entry(messages, page)
    wanted = [message for message in messages if message.page == "scripts.md"]
    assert 0 < len(missing) < len(wanted)

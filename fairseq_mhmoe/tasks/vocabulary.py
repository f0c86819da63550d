"""Whether the tokens of a checkpoint are those of a task: two dictionaries of one size may have other symbols."""

import hashlib

from fairseq.data import Dictionary

KEY = "dictionary"  # of a task's state, which its checkpoints hold


def digest_of(dictionary: Dictionary) -> str:
    """SHA-256 of the symbols in their order; counts do not matter."""
    return hashlib.sha256("\n".join(dictionary.symbols).encode("utf-8", "surrogateescape")).hexdigest()


def check_vocabulary(before: dict, now: dict) -> None:
    """ValueError where two states of tasks tell of different symbols; a state that tells of none is fine."""
    if None not in (before.get(KEY), now.get(KEY)) and before[KEY] != now[KEY]:
        raise ValueError(
            "the checkpoint was trained with another dictionary, whose numbers stand for other tokens; take the "
            "dict.txt and spm.model of its data folder, and prepare the data with them"
        )

"""What a program of ours says when something is wrong, and what it lets other libraries say: one line each."""

import argparse
import logging
import sys
from collections.abc import Callable


def warnings_only() -> None:
    """Sets up logging for a program. Some module that fairseq imports has asked for every message of every library."""
    logging.basicConfig(format="%(levelname)s: %(message)s", level=logging.WARNING, force=True)


def run(
    program: Callable[[argparse.Namespace], object], parser: argparse.ArgumentParser, words: list[str] | None
) -> None:
    """What a main() does: call the program with the arguments of the words (None: of the command line).

    ValueError and OSError end it with status 1 and one line.
    """
    arguments = parser.parse_args(words)
    warnings_only()
    try:
        program(arguments)
    except (ValueError, OSError) as error:
        sys.exit(f"error: {error}")

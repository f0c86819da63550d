"""What a program of ours lets other libraries say: warnings, in one line each."""

import logging


def warnings_only() -> None:
    """Sets up logging for a program. Some module that fairseq imports has asked for every message of every library."""
    logging.basicConfig(format="%(levelname)s: %(message)s", level=logging.WARNING, force=True)

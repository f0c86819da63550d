"""`--user-dir` when this package is already imported, for fairseq 0.12.3.1.

fairseq compares paths as they are written: the folder named through a link, or with the package installed and imported
before, ends in "not globally unique". The same folder is accepted here, whatever its spelling; another copy is refused
with both places named.
"""

from pathlib import Path

from fairseq import utils

from fairseq_mhmoe.integration.hooks import wrap

PACKAGE = Path(__file__).resolve().parents[1]


def install():
    """Installs the hook of this file."""
    wrap(utils, "import_user_module", import_user_module)


def import_user_module(original, args):
    """Imports args.user_dir, unless it is this package.

    Raises:
        ImportError: user_dir is another copy of this package.
    """
    user_dir = getattr(args, "user_dir", None)
    if user_dir is None or Path(user_dir).resolve() == PACKAGE:
        return None
    if user_dir == PACKAGE.name and not Path(user_dir).exists():
        return None  # as the shipped configurations name it, away from the repository
    if Path(user_dir).resolve().name == PACKAGE.name:
        raise ImportError(
            f"--user-dir {user_dir} is another copy of {PACKAGE.name} than {PACKAGE}, which is already imported: "
            "name that folder, or start a program that does not import the package first"
        )
    return original(args)

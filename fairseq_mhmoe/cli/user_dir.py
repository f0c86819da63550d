"""`--user-dir` for programs that read checkpoints: a module of the user's that registers routers or other parts."""

import argparse
from pathlib import Path


def add_user_dir(parser: argparse.ArgumentParser) -> None:
    """The option; the folder is imported as soon as its words are parsed, as fairseq's programs do it."""
    parser.add_argument(
        "--user-dir",
        action=_ImportModule,
        metavar="FOLDER",
        help="module that registers what the model was trained with beside this package, such as its router",
    )


class _ImportModule(argparse.Action):
    """Imports the folder that the option names; a folder that is not there is an error of the command line."""

    def __call__(self, parser, namespace, values, option_string=None):
        if not (Path(values) / "__init__.py").is_file():
            parser.error(f"--user-dir {values}: no Python module there; expected a folder with an __init__.py")
        from fairseq import utils

        import fairseq_mhmoe  # noqa: F401  its hooks go first

        utils.import_user_module(argparse.Namespace(user_dir=values))
        setattr(namespace, self.dest, values)

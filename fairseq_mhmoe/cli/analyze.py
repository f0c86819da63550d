"""The analyses of the papers on any checkpoint or run.

    mhmoe-analyze activation CHECKPOINT... DATA    which experts are in use (MH-MoE v1, figures 1 and 5)
    mhmoe-analyze diversity CHECKPOINT DATA        to how many experts a token's sub-tokens go (figure 7)
    mhmoe-analyze curves RUN...                    perplexity by update, tokens, FLOPs, time (figures 4, 6, 9)

`mhmoe-analyze COMMAND --help` tells the options. Exit status: 0, or 2 if the command asks for what can't be.
"""

import argparse
import importlib.util
import sys

from fairseq_mhmoe.cli.messages import warnings_only
from fairseq_mhmoe.cli.user_dir import add_user_dir

# Command -> module of this folder with add_arguments(parser) and run(arguments); imported when asked for, since each
# needs large libraries.
COMMANDS = {
    "activation": "fairseq_mhmoe.cli.analyze_activation",
    "diversity": "fairseq_mhmoe.cli.analyze_diversity",
    "curves": "fairseq_mhmoe.cli.analyze_curves",
}


def make_parser(command: str) -> argparse.ArgumentParser:
    """The command line of one analysis."""
    module = importlib.import_module(COMMANDS[command])
    parser = argparse.ArgumentParser(
        prog=f"mhmoe-analyze {command}",
        description=module.__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    module.add_arguments(parser)
    add_user_dir(parser)
    parser.set_defaults(run=module.run)
    return parser


def main(words: list[str] | None = None) -> int:
    """Command line; returns the exit status and says errors in one line."""
    if words is None:
        words = sys.argv[1:]
        warnings_only()
    if not words or words[0] in ("-h", "--help"):
        print(__doc__.strip())
        return 0 if words else 2
    command, *rest = words
    if command not in COMMANDS:
        print(f"mhmoe-analyze: error: '{command}': expected one of {', '.join(COMMANDS)}", file=sys.stderr)
        return 2
    if importlib.util.find_spec("matplotlib") is None:
        problem = "matplotlib is not installed: pip install 'fairseq-mhmoe[analysis]'"
        print(f"mhmoe-analyze: error: {problem}", file=sys.stderr)
        return 2
    arguments = make_parser(command).parse_args(rest)
    try:
        arguments.run(arguments)
    except (ValueError, OSError) as error:
        print(f"mhmoe-analyze: error: {' '.join(str(error).split())}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())

"""Commands that are only printed here (DRY_RUN=1): each goes as far as its program's own parser."""

import argparse
import contextlib
import re
import shlex
import sys
from pathlib import Path

from fairseq import options
from fairseq.dataclass.utils import convert_namespace_to_omegaconf

from ...forks import ROOT
from . import programs
from .small import shrink, value

# the packages' own parsers are not ours to call; what is asked of them is that the files are there
FILES_ONLY = ("pytest",)
# module -> how many words it takes: it has no parser
WITHOUT_PARSER = {"fairseq_mhmoe.cli.score_table": 1, "fairseq_mhmoe.cli.evaluation_table": 2}


class Parsed(BaseException):
    """A program has understood its words, and is left."""


def check(words: list[str]) -> None:
    """Ends with SystemExit, or an exception, if the program would not understand these words."""
    name, *rest = words
    name = Path(name).name
    if name == "srun":
        from .clusters import SLURM, SLURM_FLAGS, take_options  # uses this module

        return check(take_options("srun", rest, SLURM, SLURM_FLAGS)[1])
    if name == "ssh":
        words = shlex.split(" ".join(rest[1:]))
        return check(without_variables(words[words.index("exec") + 1 :]))
    if name == "torchrun":
        given = programs.get_args_parser().parse_args(rest)
        if given.no_python:  # bash scripts/cluster/elastic.sh --rank WORDS
            return check(["fairseq-train", *given.training_script_args[2:]])
        inner = ["python", "-m"] if given.module else []
        return check([*inner, given.training_script, *given.training_script_args])
    programs.accept_user_dir()
    if name == "fairseq-train":
        return check_fairseq(options.get_training_parser(), rest)
    if name == "fairseq-eval-lm":
        return check_fairseq(options.get_eval_lm_parser(), rest)
    if rest[:2] == ["-m", "fairseq_mhmoe.cli.evaluate"]:
        at = rest.index("--output")
        return check_fairseq(options.get_eval_lm_parser(), [*rest[2:at], *rest[at + 2 :]])
    if rest[:2] == ["-m", "fairseq_mhmoe.cli.hydra_train"]:
        return programs.module(rest[1], [*rest[2:], "--cfg", "job"])
    if name == "python" and rest[0] == "-m" and rest[1] in FILES_ONLY:
        [missing] = [[word for word in rest if word.startswith("tests") and not (ROOT / word).exists()]]
        if missing:
            raise SystemExit(f"{shlex.join(words)}: no {missing[0]}")
        return None
    if rest[0] == "-m" and rest[1] in WITHOUT_PARSER and len(rest) - 2 == WITHOUT_PARSER[rest[1]]:
        return None
    if rest[0] == "-m" and rest[1].split(".")[0] in programs.OURS:
        return parse_only(programs.our_module, rest[1], rest[2:])
    return parse_only(programs.run, [name, *rest])


def without_variables(words: list[str]) -> list[str]:
    """A command behind `env` and what is set for it."""
    words = words[1:] if words[:1] == ["env"] else list(words)
    while words and re.match(r"[A-Za-z_]\w*=", words[0]):
        del words[0]
    return words


def check_tasks(words: list[str]) -> None:
    """ValueError for a name that lm-evaluation-harness, with our groups, does not know."""
    from fairseq_mhmoe.evaluation.harness_tasks import find_tasks, leaves

    names = [name for name in value(words, "--tasks").split(",") if name]
    leaves(names, find_tasks(names))


def check_fairseq(parser, words: list[str]) -> None:
    """A command of fairseq: its options, and the configuration that they make."""
    convert_namespace_to_omegaconf(options.parse_args_and_arch(parser, shrink("", words)))


def parse_only(function, *arguments) -> None:
    """Calls what runs a program until its first parser has understood all words."""
    original = argparse.ArgumentParser.parse_args

    def parse(self, *arguments, **named):
        original(self, *arguments, **named)
        raise Parsed

    argparse.ArgumentParser.parse_args = parse
    try:
        with contextlib.suppress(Parsed):
            function(*arguments)
            raise SystemExit(f"{arguments}: it ended without a parser, so its words are not checked")
    finally:
        argparse.ArgumentParser.parse_args = original


def check_lines(text: str) -> int:
    """Checks every line that a script has printed as a command -> how many."""
    count = 0
    for line in text.splitlines():
        words = without_variables(shlex.split(line, comments=True))
        if not words:
            continue
        if Path(words[0]).name not in (*programs.names(), "srun", "ssh"):
            raise SystemExit(f"printed, but not a command: {line}")
        check(words)
        count += 1
    print(f"{count} commands were understood", file=sys.stderr)
    return count

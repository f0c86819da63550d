"""What the documents name is there: files, functions and tests."""

import dataclasses
import re
import runpy
from pathlib import Path

import pytest
from fairseq import options
from torch.distributed.run import get_args_parser

from data_prep.__main__ import make_parser as data_prep_parser
from data_prep.zero_shot import make_parser as zero_shot_parser
from fairseq_mhmoe.cli import analyze, checkpoint, cost, export, lm_eval, reproduce_arguments
from fairseq_mhmoe.models.options import MHMoELanguageModelConfig

ROOT = Path(__file__).parents[2]
DOCUMENTS = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
MADE_LATER = ("runs/", "data/", "work/", ".venv")
# of srun, of docs/data.md's demonstrations, and of WikiExtractor
OF_OTHERS = {"--ntasks-per-node", "--sources", "--json"}


def rows_of_equations():
    text = (ROOT / "docs/papers-to-code.md").read_text().split("## Where paper")[0]
    return [line.split("|")[1:4] for line in text.splitlines() if line.startswith("| v") or line.startswith("| X-MoE")]


@pytest.mark.parametrize("title, functions, tests", rows_of_equations(), ids=lambda cell: None)
def test_functions_and_tests_of_an_equation_exist(title, functions, tests):
    found = 0
    for cell, folder, pattern in ((functions, "fairseq_mhmoe", r"(?:def|class) {}\b"), (tests, "tests", r"def {}\b")):
        for path, names in re.findall(r"`([\w/]+\.py)(?:: ([\w., ]+))?`", cell):
            source = (ROOT / folder / path).read_text()
            for name in filter(None, names.split(", ")):
                for part in name.split("."):
                    assert re.search(pattern.format(part), source), f"{path} has no {part}"
            found += 1
    assert found >= 2, title


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_named_files_exist(document):
    names = re.findall(r"(?:`|\()((?:[\w-]+/)+[\w.-]*|[\w-]+\.(?:sh|md|toml|txt|cff))(?:`|\))", document.read_text())
    roots = (ROOT, ROOT / "docs", ROOT / "fairseq_mhmoe", ROOT / "tests", ROOT / "scripts", ROOT / "fairseq_mhmoe/cli")
    missing = [
        name
        for name in names
        if not name.startswith(MADE_LATER)
        and not any((root / name).exists() for root in roots)
        and name not in ("dict.txt", "json/train.json", "json/valid.json", "lib/", "golden/", "end_to_end/")
    ]
    assert missing == []


@pytest.fixture(scope="module")
def options_of_the_programs():
    """Every option of fairseq's programs with our model, task and criterion, of our own ones, and of launchers."""
    words = ["data", "--task", "gpt", "--arch", "mhmoe_lm_tiny", "--criterion", "moe_cross_entropy"]
    words += ["--optimizer", "adam", "--lr-scheduler", "polynomial_decay"]
    names = {"--help", "--user-dir", "--output", "--config-dir", "--config-name", *OF_OTHERS}
    commands = next(action.choices for action in checkpoint.parser()._actions if action.dest == "command")
    benchmark = runpy.run_path(str(ROOT / "benchmarks/expert_parallel.py"))["make_parser"]()
    for script in (ROOT / "benchmarks").glob("*.sh"):
        names |= set(re.findall(r"(?<= )(--[a-z-]+)(?=[ )])", script.read_text()))
    own = data_prep_parser(), export.parser(), cost.parser(with_arch=True), *map(analyze.make_parser, analyze.COMMANDS)
    own += lm_eval.make_parser(), zero_shot_parser(), reproduce_arguments.make_parser()
    for parser in (get_args_parser(), benchmark, *own, *commands.values()):
        names |= set(parser._option_string_actions)
    for parser, given in ((options.get_training_parser(), words), (options.get_eval_lm_parser(), words[:3])):
        options.parse_args_and_arch(parser, given)
        names |= set(parser._option_string_actions)
    return names | {f"--{field.name.replace('_', '-')}" for field in dataclasses.fields(MHMoELanguageModelConfig)}


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_named_options_exist(document, options_of_the_programs):
    named = set(re.findall(r"(?<![\w-])--[a-z][a-z0-9-]*[a-z0-9](?![\w-])", document.read_text()))
    assert named - options_of_the_programs == set()

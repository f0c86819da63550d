"""What the documents name is there: files, functions and tests."""

import dataclasses
import re
import runpy
from pathlib import Path

import pytest
from fairseq import options
from fairseq.registry import REGISTRIES
from fairseq.tasks import TASK_DATACLASS_REGISTRY
from torch.distributed.run import get_args_parser

from data_prep import coco_captions, nlvr2, vqa
from data_prep.__main__ import make_parser as data_prep_parser
from data_prep.images.__main__ import make_parser as images_parser
from data_prep.zero_shot import make_parser as zero_shot_parser
from fairseq_mhmoe.cli import (
    analyze,
    checkpoint,
    cost,
    evaluate_captions,
    evaluate_nlvr2,
    evaluate_vqa,
    export,
    image_codes,
    lm_eval,
    reproduce_arguments,
    score_captions,
    train_image_tokenizer,
)
from fairseq_mhmoe.models.multimodal_options import MHMoEMultimodalConfig
from fairseq_mhmoe.models.options import MHMoELanguageModelConfig
from scripts.machine import doctor, fresh, versions

ROOT = Path(__file__).parents[2]
DOCUMENTS = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
MULTIMODAL_TASKS = ("masked_multimodal", "vqa", "nlvr2", "captioning")  # their criteria have the same names
MADE_LATER = ("runs/", "data/", "work/", ".venv")
# of srun, of docs/data.md's demonstrations, of WikiExtractor, and of fairseq-interactive
OF_OTHERS = {"--ntasks-per-node", "--requeue", "--signal", "--batch", "--sources", "--json", "--max-len-b", "--logdir"}
OF_OTHERS |= {"--gpus", "--languages", "--map-by"}  # of docker, of docs/data.md's demonstrations, of mpirun
OF_OTHERS |= {"--no-build-isolation", "--no-binary"}  # of pip


def rows_of(section, *columns):
    """These cells of every row of one section's table in papers-to-code.md that says there is something."""
    text = (ROOT / "docs/papers-to-code.md").read_text().split(f"## {section}\n")[1].split("\n## ")[0]
    rows = [
        [cell.strip() for cell in line.strip("| ").split(" | ")] for line in text.splitlines() if line.startswith("| ")
    ]
    return [[row[column] for column in columns] for row in rows[1:] if "none yet" not in row]


EVIDENCE = [*rows_of("Equations", 0, 1, 2), *rows_of("Tables", 0, 3, 4), *rows_of("Figures", 0, 2, 3)]
SAME_AS_ABOVE = "the same"


@pytest.mark.parametrize("title, functions, tests", EVIDENCE, ids=lambda cell: None)
def test_functions_and_tests_of_an_equation_table_or_figure_exist(title, functions, tests):
    for cell, folder, pattern in ((functions, "fairseq_mhmoe", r"(?:def|class) {}\b"), (tests, "tests", r"def {}\b")):
        found = re.findall(r"`([\w/]+(?:\.py|/))(?:: ([\w., ]+))?`", cell)
        assert found or cell.startswith(SAME_AS_ABOVE), title
        for path, names in found:
            assert (ROOT / folder / path).exists() or path.startswith("configs/"), path
            for name in filter(None, names.split(", ")):
                for part in name.split("."):
                    assert re.search(pattern.format(part), (ROOT / folder / path).read_text()), f"{path} has no {part}"


def test_the_configurations_of_a_table_exist():
    named = [name for _, cell in rows_of("Tables", 0, 1) for name in re.findall(r"`(configs/\S+)`", cell)]
    assert len(named) >= 10
    for name in named:
        start, braces, rest = name.partition("{")
        parts, _, end = rest.partition("}")
        for part in parts.split(",") if braces else [""]:
            assert list(ROOT.glob(f"{start}{part}{end}".rstrip("/"))), name


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_named_files_exist(document):
    names = re.findall(r"(?:`|\()((?:[\w-]+/)+[\w.-]*|[\w-]+\.(?:sh|md|toml|txt|cff))(?:`|\))", document.read_text())
    roots = (ROOT, ROOT / "docs", ROOT / "fairseq_mhmoe", ROOT / "tests", ROOT / "scripts", ROOT / "fairseq_mhmoe/cli")
    roots += (ROOT / "scripts/cluster",)
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
    own += lm_eval.make_parser(), zero_shot_parser(), reproduce_arguments.make_parser(), images_parser()
    own += image_codes.make_parser(), train_image_tokenizer.make_parser()
    own += coco_captions.make_parser(), evaluate_captions.make_parser(), score_captions.make_parser()
    own += doctor.make_parser(), fresh.make_parser(), versions.make_parser()
    own += vqa.make_parser(), nlvr2.make_parser(), evaluate_vqa.make_parser(), evaluate_nlvr2.make_parser()
    for parser in (get_args_parser(), benchmark, *own, *commands.values()):
        names |= set(parser._option_string_actions)
    for parser, given in ((options.get_training_parser(), words), (options.get_eval_lm_parser(), words[:3])):
        options.parse_args_and_arch(parser, given)
        names |= set(parser._option_string_actions)
    configs = [MHMoELanguageModelConfig, MHMoEMultimodalConfig]
    for name in MULTIMODAL_TASKS:
        configs += [TASK_DATACLASS_REGISTRY[name], REGISTRIES["criterion"]["dataclass_registry"][name]]
    return names | {f"--{field.name.replace('_', '-')}" for config in configs for field in dataclasses.fields(config)}


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_named_options_exist(document, options_of_the_programs):
    named = set(re.findall(r"(?<![\w-])--[a-z][a-z0-9-]*[a-z0-9](?![\w-])", document.read_text()))
    assert named - options_of_the_programs == set()

"""docs/migration.md: what is said to be accepted is accepted, what is said not to be there is not."""

import re
from pathlib import Path

import pytest
from fairseq import options

PAGE = (Path(__file__).parents[2] / "docs/migration.md").read_text()
ROWS = [line.strip("| ").split(" | ") for line in PAGE.splitlines() if line.startswith("| ")]
TITLES = ("there", "---")


def cells(column):
    return [row[column] for row in ROWS if row[0] not in TITLES and len(row) > column]


@pytest.fixture(scope="module")
def accepted():
    """Options of fairseq-train with our model, task and criterion."""
    parser = options.get_training_parser()
    words = ["data", "--task", "gpt", "--arch", "mhmoe_lm_tiny", "--criterion", "moe_cross_entropy"]
    options.parse_args_and_arch(parser, [*words, "--optimizer", "adam", "--lr-scheduler", "polynomial_decay"])
    return set(parser._option_string_actions)


def test_options_with_dashes_are_accepted(accepted):
    named = {name for row in ROWS for cell in row[:2] for name in re.findall(r"`(--[a-z0-9-]+)`", cell)}
    assert len(named) > 50
    assert named - accepted == set()


def test_options_without_dashes_are_not(accepted):
    named = {name for cell in cells(0) for name in re.findall(r"`([a-zA-Z][a-zA-Z0-9]*(?:_[a-zA-Z0-9]+)+)`", cell)}
    assert len(named) > 60
    assert {name for name in named if "--" + name.replace("_", "-") in accepted} == set()


def test_what_changes_nothing_is_said_to_change_nothing():
    rows = [there for there, here in zip(cells(0), cells(1)) if "no effect" in here]
    silent = {name for there in rows for name in re.findall("--[a-z0-9-]+", there)}
    assert silent == {"--flash-attention", "--scale-length", "--moe-gating-use-fp32"}

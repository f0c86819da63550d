"""What is copied into a folder stands alone, and how weights are spread over files."""

import ast
import sys
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from fairseq_mhmoe.export import hf_card, hf_folder

ROOT = Path(__file__).parents[2]
FOLDER = Path(hf_folder.__file__).parent
COPIED = [*hf_folder.CODE, hf_folder.TOKENIZER_CODE]


@pytest.mark.parametrize("name", COPIED)
def test_copied_files_import_only_what_users_have(name):
    allowed = {"torch", "transformers", "sentencepiece", "tiktoken", *sys.stdlib_module_names}
    for node in ast.walk(ast.parse((FOLDER / name).read_text())):
        if isinstance(node, ast.Import):
            assert {alias.name.partition(".")[0] for alias in node.names} <= allowed
        elif isinstance(node, ast.ImportFrom) and node.level:
            assert node.level == 1 and f"{node.module}.py" in COPIED
        elif isinstance(node, ast.ImportFrom):
            assert node.module.partition(".")[0] in allowed


def test_all_that_can_be_copied_is():
    assert sorted(COPIED) == sorted(path.name for path in FOLDER.glob("*_mhmoe.py"))


def test_the_licence_is_the_projects():
    assert hf_card.MIT == (ROOT / "LICENSE").read_text()


@given(st.lists(st.integers(0, 9), min_size=1, max_size=20), st.integers(1, 60))
def test_files_hold_at_most_so_many_bytes(sizes, most):
    weights = {f"w{number}": torch.zeros(size) for number, size in enumerate(sizes)}
    groups = hf_folder.split_by_size(weights, most)
    assert [name for group in groups for name in group] == list(weights)
    for group in groups:
        assert group and (len(group) == 1 or sum(weights[name].nbytes for name in group) <= most)

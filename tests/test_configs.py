"""The YAML files say what the table of architectures and the command line say."""

import importlib.util
from pathlib import Path

import pytest
import yaml
from fairseq import options

from fairseq_mhmoe.models.architectures import ARCHITECTURES
from fairseq_mhmoe.models.multimodal_architectures import MULTIMODAL_ARCHITECTURES

ROOT = Path(__file__).resolve().parents[1]
FOLDER = ROOT / "configs" / "model"


@pytest.fixture(scope="module")
def writer():
    spec = importlib.util.spec_from_file_location("write_model_configs", ROOT / "scripts" / "write_model_configs.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_files_are_those_of_the_table(writer):
    on_disk = {path.name: path.read_text() for path in FOLDER.glob("*.yaml")}
    assert on_disk == writer.model_configs(), "run scripts/write_model_configs.py"


@pytest.mark.parametrize("name", sorted([*ARCHITECTURES, *MULTIMODAL_ARCHITECTURES]))
def test_hydra_and_the_command_line_build_the_same_model(name):
    preset = yaml.safe_load((FOLDER / f"{name}.yaml").read_text())
    multimodal = name in MULTIMODAL_ARCHITECTURES
    assert preset.pop("_name") == ("mhmoe_multimodal" if multimodal else "mhmoe_lm")
    task = "masked_multimodal" if multimodal else "language_modeling"
    words = ["data", "--task", task, "--arch", name, "--tokens-per-sample", "32"]
    args = vars(options.parse_args_and_arch(options.get_training_parser(), words))
    assert {key: args[key] for key in preset} == preset

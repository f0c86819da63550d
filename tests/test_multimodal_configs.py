"""configs/v1/multimodal_*.yaml: what hydra makes of them, and that models, headers and cost model agree."""

import functools
import importlib.util
import re
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from fairseq import criterions, models

from fairseq_mhmoe.cli.cost_models import config_model, load_config, preset_model
from fairseq_mhmoe.moe.multimodal_cost import cost_of

ROOT = Path(__file__).resolve().parents[1]
FOLDER = ROOT / "configs"


def _writer():
    spec = importlib.util.spec_from_file_location("write_paper_configs", ROOT / "scripts" / "write_paper_configs.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


ROWS = {row.name: row for row in _writer().multimodal_rows()}
NAMES = ("v1/multimodal_dense", "v1/multimodal_xmoe_8experts", "v1/multimodal_mhmoe_32experts")


@functools.cache
def composed(name):
    """What fairseq-hydra-train would train with; half a second each."""
    return load_config(FOLDER / f"{name}.yaml", ["task.data=folder"])


class Symbols(SimpleNamespace):
    """As much of a dictionary as a model asks for."""

    def __len__(self):
        return self.size

    def pad(self):
        return 1


def task_of(cfg):
    """What the task tells a model and a criterion."""
    symbols = Symbols(size=cfg.cost.vocab_size)
    heads = {"image": {"kind": "codes", "classes": cfg.task.num_codes}, "text": {"kind": "text"}}
    sizes = dict(image_size=cfg.task.image_size, patch_size=cfg.task.patch_size)
    sizes["max_text_positions"] = max(cfg.task.tokens_per_sample, cfg.task.caption_length)
    return SimpleNamespace(source_dictionary=symbols, target_dictionary=symbols, model_heads=lambda: heads, **sizes)


def test_every_model_of_the_table_has_a_file():
    assert set(NAMES) | {"v1/multimodal_xmoe_32experts", "v1/multimodal_mhmoe_8experts"} == set(ROWS)


@pytest.mark.parametrize("name", NAMES)
def test_the_file_builds_the_model_of_its_header(name):
    cfg, row = composed(name), ROWS[name]
    with torch.device("meta"):
        model = models.build_model(cfg.model, task_of(cfg))
    counted = sum(p.numel() for p in model.parameters())
    experts = sum(p.numel() for key, p in model.named_parameters() if ".experts." in key)
    text = (FOLDER / f"{name}.yaml").read_text()
    [said] = re.findall(r"# parameters: ([\d,]+) \(([\d,]+) \+ ([\d,]+) of", text)
    assert [int(number.replace(",", "")) for number in said] == [counted, counted - experts, experts]
    shape = config_model(str(FOLDER / f"{name}.yaml")).shape
    assert shape == preset_model(row.preset, cfg.cost.vocab_size, cfg.task.tokens_per_sample, **row.model).shape
    assert f"of a pair: {cost_of(shape).flops_per_token:,}" in text
    assert f"perplexity in the paper: {row.perplexity}" in text
    assert cfg.checkpoint.save_dir == f"runs/{name}"


def test_training_is_that_of_the_paper():
    cfg = composed(NAMES[0])
    assert type(criterions.build_criterion(cfg.criterion, task_of(cfg))).__name__ == "MaskedMultimodal"
    assert 8 * cfg.dataset.batch_size * cfg.optimization.update_freq[0] == 512
    assert (cfg.task.image_size, cfg.task.patch_size) == (224, 16)
    ratios = ("image_mask_ratio", "pair_image_mask_ratio", "text_mask_ratio", "pair_text_mask_ratio")
    assert [cfg.task[name] for name in ratios] == [0.4, 0.4, 0.15, 0.5]
    assert (cfg.optimizer.adam_betas, cfg.optimizer.adam_eps) == ("(0.9, 0.98)", 1e-6)
    assert (cfg.optimizer._name, cfg.optimizer.weight_decay, cfg.optimization.lr) == ("adam", 0.05, [0.0028])
    assert (cfg.lr_scheduler._name, cfg.lr_scheduler.warmup_updates) == ("cosine", 10000)

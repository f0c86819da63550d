"""configs/v1 and v2: what the script writes, what hydra makes of it, and that models, headers and cost model agree."""

import copy
import functools
import importlib.util
import re
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
import yaml
from fairseq import criterions, models
from fairseq.data import Dictionary
from omegaconf import OmegaConf
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from fairseq_mhmoe.cli.cost_models import CostedModel, config_model, load_config, preset_model
from fairseq_mhmoe.models.architectures import ARCHITECTURES, apply_architecture
from fairseq_mhmoe.models.decoder import MoEDecoder
from fairseq_mhmoe.models.options import MHMoELanguageModelConfig, lm_shape
from fairseq_mhmoe.moe.cost import model_cost

ROOT = Path(__file__).resolve().parents[1]
FOLDER = ROOT / "configs"
NUMBER = re.compile(r"[\d,]*\d")


def _writer():
    spec = importlib.util.spec_from_file_location("write_paper_configs", ROOT / "scripts" / "write_paper_configs.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


WRITER = _writer()
ROWS = {row.name: row for row in WRITER.v1_rows() + WRITER.v2_rows()}
# Table 11 of v1, millions; the fitted 256 experts are 12160 wide, a multiple of 8, and 1.4M short
TABLE_11 = {
    "v1/english_dense": (162, 0),
    "v1/english_xmoe_8experts": (134, 227),
    "v1/english_xmoe_32experts": (134, 908),
    "v1/english_xmoe_256experts": (134, 7263),
    "v1/english_mhmoe_8experts": (141, 213),
    "v1/english_mhmoe_32experts": (141, 898),
    "v1/english_mhmoe_256experts": (141, 7230),
}


def header(name):
    """{"parameters": [numbers], ...} of a file's comments."""
    lines = [line[2:] for line in (FOLDER / f"{name}.yaml").read_text().splitlines() if line.startswith("# ")]
    fields = (line.partition(": ") for line in lines)
    return {key: [int(number.replace(",", "")) for number in NUMBER.findall(text)] for key, _, text in fields}


class Vocabulary(SimpleNamespace):
    """As much of a dictionary as a model asks for."""

    def __len__(self):
        return self.size

    def pad(self):
        return 1


def test_the_files_are_those_of_the_script():
    on_disk = {path.relative_to(FOLDER).as_posix() for paper in WRITER.PAPERS for path in (FOLDER / paper).iterdir()}
    contents = WRITER.paper_configs()
    assert on_disk | {"README.md"} == set(contents), "run scripts/write_paper_configs.py"
    for name, content in contents.items():
        assert (FOLDER / name).read_text() == content, "run scripts/write_paper_configs.py"


def test_every_model_of_the_tables_has_a_file():
    """v1: dense, numbers of experts, heads, depths, components, multilingual; v2: tables 1 to 5."""
    names = [name.split("/")[0] for name in ROWS]
    assert (names.count("v1"), names.count("v2")) == (1 + 12 + 4 + 3 + 2 + 5, 5 + 4 + 5 + 3 + 2)
    english = {name for name in ROWS if name.startswith("v1/english")}
    for kind in ("xmoe", "mhmoe"):
        assert {f"v1/english_{kind}_{count}experts" for count in (8, 16, 32, 64, 128, 256)} <= english


# Hydra takes half a second a file: it composes one file of each pair of shared settings and architecture, and for the
# others what it does with a file whose own part comes last is done here.
COMPOSED = {(row.run, row.preset): row for row in ROWS.values()}


@functools.cache
def composed(run, preset):
    """What fairseq-hydra-train would train with for one file of the pair, and that file's own part."""
    path = FOLDER / f"{COMPOSED[run, preset].name}.yaml"
    return load_config(path, ["task.data=folder"]), own_part(path)


def own_part(path):
    """A file without its defaults list, which has to be that of its row."""
    part = yaml.safe_load(path.read_text())
    row = ROWS[path.relative_to(FOLDER).with_suffix("").as_posix()]
    launch, logging = {"optional /launch": None}, {"override /hydra/job_logging": "stdout"}
    assert part.pop("defaults") == [{"/shared": row.run}, {"/model": row.preset}, launch, logging, "_self_"]
    assert set(part) <= {"model", "optimization", "checkpoint"}
    return part


def config_of(row):
    """The whole configuration of a row's file."""
    cfg, theirs = composed(row.run, row.preset)
    if row is COMPOSED[row.run, row.preset]:
        return cfg
    cfg, preset = copy.deepcopy(cfg), yaml.safe_load((FOLDER / "model" / f"{row.preset}.yaml").read_text())
    for name in theirs.get("model", {}):
        cfg.model[name] = preset.get(name, getattr(MHMoELanguageModelConfig, name))
    cfg.optimization.max_update = 100000
    return OmegaConf.merge(cfg, own_part(FOLDER / f"{row.name}.yaml"))


@pytest.mark.parametrize("name", ROWS)
def test_the_file_builds_the_model_of_its_header(name):
    row, said = ROWS[name], header(name)
    cfg = config_of(row)
    assert cfg.checkpoint.save_dir == f"runs/{name}"
    assert cfg.optimization.max_update == (row.steps or 100000)
    vocabulary = Vocabulary(size=cfg.cost.vocab_size)
    task = SimpleNamespace(source_dictionary=vocabulary, target_dictionary=vocabulary)
    with torch.device("meta"):
        model = models.build_model(cfg.model, task)
    counted = sum(p.numel() for p in model.parameters())
    experts = sum(p.numel() for key, p in model.named_parameters() if ".experts." in key)
    shape = lm_shape(cfg.model, cfg.cost.vocab_size, cfg.task.tokens_per_sample)
    cost = model_cost(shape)
    figures = [counted, counted - experts, experts, cost.params_activated, cfg.cost.vocab_size]
    assert said["parameters"] == figures
    assert (cost.params_total, cost.params_expert) == (counted, experts)
    assert said["training FLOPs per token"] == [cost.flops_per_token]
    assert shape == preset_model(row.preset, cfg.cost.vocab_size, cfg.task.tokens_per_sample, **row.model).shape
    if name in TABLE_11:
        non_expert, expert = TABLE_11[name]
        assert round((counted - experts) / 1e6) == non_expert
        assert experts / 1e6 == pytest.approx(expert, rel=0.002 if "mhmoe" in name else 0, abs=0.5)
    gpus, batch, frequency, sequences, tokens, product = said["batch"]
    assert (cfg.dataset.batch_size, cfg.optimization.update_freq) == (batch, [frequency])
    assert sequences == gpus * batch * frequency == 256
    assert (cfg.task.tokens_per_sample, product) == (tokens, sequences * tokens)


@pytest.mark.parametrize("run, preset", COMPOSED)
def test_training_is_that_of_the_paper(run, preset):
    cfg, _ = composed(run, preset)
    task = SimpleNamespace(target_dictionary=Vocabulary(size=9), source_dictionary=Vocabulary(size=9))
    assert type(criterions.build_criterion(cfg.criterion, task)).__name__ == "MoECrossEntropy"
    v1 = run.startswith("v1")
    assert cfg.lr_scheduler.warmup_updates == (10000 if v1 else 375)
    assert cfg.lr_scheduler.total_num_update == 100000
    assert (cfg.optimization.lr, cfg.lr_scheduler.end_learning_rate) == (([0.0005], 0) if v1 else ([0.0006], 3e-5))
    assert cfg.optimizer.adam_betas == ("(0.9, 0.98)" if v1 else "(0.9, 0.95)")
    assert (cfg.optimizer.adam_eps, cfg.optimizer.weight_decay) == (1e-6, 0.01 if v1 else 0.1)
    assert cfg.model.dropout == (0.1 if v1 else 0)
    assert cfg.task.sampling_alpha == (0.7 if run == "v1_multilingual" else 1.0)


def test_the_command_reads_the_vocabulary_from_the_file():
    path = str(FOLDER / "v2" / "english_smoe.yaml")
    assert config_model(path) == CostedModel(path, preset_model("smoe_lm_v2", 32000, 2048).shape)
    assert config_model(path, vocab_size=64).shape.vocab_size == 64


def shrunken(row):
    """The options of a row's model in small: its kind and its heads stay."""
    chosen = SimpleNamespace(**row.model)
    apply_architecture(ARCHITECTURES[row.preset], chosen)
    fields = dict(vars(chosen), decoder_embed_dim=48, decoder_layers=2, decoder_attention_heads=4)
    fields |= dict(decoder_ffn_embed_dim=32, moe_expert_backend="loop", dropout=0.0, tokens_per_sample=12)
    if fields.get("moe_freq"):
        fields |= dict(moe_expert_count=min(6, fields["moe_expert_count"]), moe_ffn_dim=16)
        fields["moe_shared_expert_dim"] = min(20, fields.get("moe_shared_expert_dim", 0))
    return fields | dict(add_bos_token=False, max_target_positions=None)


KINDS = {str(sorted(shrunken(row).items())): name for name, row in ROWS.items()}  # one row of each kind


@pytest.mark.parametrize("name", KINDS.values())
def test_flops_of_the_kind_are_counted_ones(name):
    cfg = MHMoELanguageModelConfig(**shrunken(ROWS[name]))
    dictionary = Dictionary()
    for i in range(50 - len(dictionary)):
        dictionary.add_symbol(f"word{i}")
    model = MoEDecoder(cfg, dictionary)
    cost = model_cost(lm_shape(cfg, len(dictionary), 12))
    assert cost.params_total == sum(p.numel() for p in model.parameters())
    tokens = torch.randint(4, len(dictionary), (3, 12))
    with FlopCounterMode(display=False) as counter, sdpa_kernel(SDPBackend.MATH):  # the fused kernels are not counted
        model(tokens)[0].sum().backward()
    # the balance loss multiplies a vector with a matrix, too
    assert counter.get_total_flops() == pytest.approx(3 * 12 * cost.flops_per_token, rel=0.003)

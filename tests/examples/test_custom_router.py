"""examples/custom_router: short, and as good as the package's own routers in every program."""

import ast
import json
from argparse import Namespace
from pathlib import Path

import pytest
import torch
from fairseq.utils import import_user_module

from fairseq_mhmoe.checkpoint import load_merged
from fairseq_mhmoe.cli import cost
from fairseq_mhmoe.moe import MoEConfig, MoELayer

from ..distributed.launcher import TINY_MODEL, describe, program_ranks, train_words, words_of
from ..forks import run_program

FOLDER = Path(__file__).parents[2] / "examples" / "custom_router"
LINES_OF_CODE = 40
OWN = {"user_dir": FOLDER, "moe_router": "headwise", "mhmoe_heads_number": 2, "moe_expert_count": 4}
ROUTER = "decoder.layers.1.moe_layer.router."


def code_lines(path):
    """Lines of a file that are neither empty nor a docstring."""
    tree, lines = ast.parse(path.read_text()), set()
    for node in ast.walk(tree):
        if isinstance(node, (ast.Module, ast.ClassDef, ast.FunctionDef)) and ast.get_docstring(node) is not None:
            lines |= set(range(node.body[0].lineno, node.body[0].end_lineno + 1))
    numbered = enumerate(path.read_text().splitlines(), 1)
    return [line for number, line in numbered if line.strip() and number not in lines]


@pytest.fixture(scope="module")
def train(tiny_data_dir):
    """train(folder, processes=1, **options): fairseq-train with the example's router -> its merged checkpoint."""

    def run(folder, processes=1, **options):
        words = train_words(tiny_data_dir, folder, disable_validation=True, **{**OWN, **options})
        ended = program_ranks("fairseq-train", words, processes)
        assert all(rank.status == 0 for rank in ended), describe(ended)
        return load_merged(folder / "checkpoint_last.pt")

    return run


@pytest.fixture(scope="module")
def trained(train, tmp_path_factory):
    """The folder of a training in two processes, and its checkpoint."""
    folder = tmp_path_factory.mktemp("headwise")
    return folder, train(folder, processes=2, max_update=3)


def test_the_router_is_written_in_forty_lines():
    assert len(code_lines(FOLDER / "router.py")) + len(code_lines(FOLDER / "__init__.py")) <= LINES_OF_CODE


def test_two_processes_learn_what_one_does(train, trained, tmp_path):
    one, two = train(tmp_path, max_update=3, update_freq=2)["model"], trained[1]["model"]
    assert {name for name in two if name.startswith(ROUTER)} == {ROUTER + "embedding", ROUTER + "log_temperature"}
    for name, weights in one.items():
        torch.testing.assert_close(two[name], weights, rtol=1e-3, atol=1e-3)


def test_every_parameter_of_the_router_gets_a_gradient_in_float32():
    import_user_module(Namespace(user_dir=str(FOLDER)))
    layer = MoELayer(MoEConfig(d_model=24, num_experts=4, ffn_dim=8, heads=2, top_k=2, router="headwise")).bfloat16()
    y, l_aux, _, _ = layer(torch.randn(2, 5, 24, dtype=torch.bfloat16))
    (y.float().square().sum() + l_aux).backward()
    for name, parameter in layer.router.named_parameters():
        assert parameter.dtype == torch.float32 and parameter.grad.abs().min() > 0, name


def test_training_goes_on_in_another_number_of_processes(train, trained):
    folder, before = trained
    after = train(folder, max_update=4, lr=1e-30)  # too small to change anything
    assert after["optimizer_history"][-1]["num_updates"] == 4
    for name in ("embedding", "log_temperature"):
        torch.testing.assert_close(after["model"][ROUTER + name], before["model"][ROUTER + name])


def ask(program, *words, **options):
    return run_program(program, [*words, *words_of(options)])


def test_evaluation_and_analysis_know_the_router_by_user_dir(trained, tiny_data_dir, tmp_path):
    path = trained[0] / "checkpoint_last.pt"
    told = ask("fairseq-eval-lm", tiny_data_dir, user_dir=FOLDER, task="gpt", path=path, cpu=True, num_workers=0)
    assert told.returncode == 0 and "Perplexity: " in told.stdout, told.stdout[-3000:]
    analyze = ("fairseq_mhmoe.cli.analyze", "activation", path, tiny_data_dir, "--max-tokens", 200)
    assert ask(*analyze, user_dir=FOLDER, output=tmp_path).returncode == 0
    [model] = json.loads((tmp_path / "activation.json").read_text())["models"]
    assert model["experts"] == 4


def test_without_user_dir_the_message_tells_what_to_do(trained, tiny_data_dir, tmp_path):
    analyze = ("fairseq_mhmoe.cli.analyze", "activation", trained[0] / "checkpoint_last.pt", tiny_data_dir)
    told = ask(*analyze, output=tmp_path).stdout
    assert "--moe-router headwise: expected one of softmax, xmoe, torchscale-cosine; a router of your own" in told
    assert "Traceback" not in told


def test_export_refuses_it(trained, tmp_path):
    told = ask("fairseq_mhmoe.cli.export", trained[0] / "checkpoint_last.pt", tmp_path / "hf").stdout
    assert "has a router of your own, headwise" in told and "Traceback" not in told
    assert not (tmp_path / "hf").exists()


def test_cost_counts_the_head_of_a_sub_token_only(capsys):
    words = words_of({"user_dir": FOLDER, **TINY_MODEL, "vocab_size": 100, "tokens_per_sample": 32, "json": True})
    words += words_of({"mhmoe_heads_number": 2})
    found = {}
    for router in ("headwise", "softmax"):
        assert cost.main([*words, "--moe-router", router]) == 0
        found[router] = json.loads(capsys.readouterr().out)
    own, softmax = found["headwise"], found["softmax"]
    width, heads, experts = 12, 2, 4
    assert own["params_total"] - softmax["params_total"] == (heads - 1) * width * experts + heads
    assert own["flops_per_token"] == softmax["flops_per_token"]


def test_hydra_trains_it(tiny_data_dir, tmp_path):
    words = ["--config-dir", "configs", "--config-name", "english_mhmoe_tiny", f"common.user_dir={FOLDER}"]
    words += ["+model.moe_router=headwise", "+model.moe_router_args='{\"share_temperature\": true}'"]
    words += [f"task.data={tiny_data_dir}", f"checkpoint.save_dir={tmp_path}", "common.cpu=true"]
    words += ["optimization.max_update=1", "dataset.batch_size=2", "dataset.disable_validation=true"]
    words += ["model.decoder_embed_dim=24", "model.decoder_attention_heads=2", "task.tokens_per_sample=16"]
    told = run_program("fairseq-hydra-train", [*words, f"hydra.run.dir={tmp_path}"])
    assert told.returncode == 0, told.stdout[-3000:]
    model = load_merged(tmp_path / "checkpoint_last.pt")["model"]
    assert model[ROUTER + "log_temperature"].shape == (1,)

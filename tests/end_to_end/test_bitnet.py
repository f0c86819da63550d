"""BitNet models through the stock programs (what their options change is in tests/models)."""

import math

import pytest
import torch

BITNET = dict(input_bits=8, weight_bits=1, input_quant_method="absmax_per_token", weight_quant_method="absmean")
SETTINGS = {
    "fp32": {},
    "memory-efficient fp16": dict(memory_efficient_fp16=True, fp16_init_scale=4),
    "recomputed": dict(checkpoint_activations=True, moe_recompute=True),
}


@pytest.fixture(scope="module")
def runs(train, tmp_path_factory):
    """runs(name, **options) -> (folder, losses of the updates) of a short training, done once."""
    done = {}

    def run(name, **options):
        if name not in done:
            folder = tmp_path_factory.mktemp("run")
            result = train(folder, **options)
            done[name] = folder, [float(line["nll_loss"]) for line in result.json_lines("train_inner")]
        return done[name]

    return run


@pytest.mark.parametrize("name", SETTINGS)
def test_training_in_half_precision_or_with_recomputation_is_alike(runs, name):
    expected = runs("fp32", **BITNET)[1]
    losses = runs(name, **BITNET, **SETTINGS[name])[1]
    assert len(losses) == 4 and losses == pytest.approx(expected, rel=0.03)


def test_a_checkpoint_holds_full_precision_weights_and_is_evaluated_as_it_was_trained(runs, run_program, tiny_data_dir):
    folder, _ = runs("fp32", **BITNET)
    weights = torch.load(folder / "checkpoint_last.pt", weights_only=True)["model"]
    for name in ("layers.0.ffn.fc1.weight", "layers.1.moe_layer.experts.w_in", "layers.1.moe_layer.head.0.weight"):
        assert weights[f"decoder.{name}"].unique().numel() > 100
    options = dict(task="gpt", path=folder / "checkpoint_last.pt", gen_subset="valid", tokens_per_sample=32)
    output = run_program("fairseq-eval-lm", tiny_data_dir, batch_size=8, **options).output
    perplexity = float(output.split("Perplexity: ")[1].split()[0])
    assert 1 < perplexity < math.inf

"""Training, validation, checkpoints, logs and perplexity of every kind of model, through the stock programs."""

import json
import math
import re

import pytest
import torch
from fairseq import checkpoint_utils
from fairseq.data.data_utils import collate_tokens
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

import fairseq_mhmoe  # noqa: F401  (so that checkpoints can be loaded here)

EOS = 2
KINDS = ["dense", "smoe", "xmoe", "mhmoe"]


@pytest.fixture(scope="module")
def runs(train, tmp_path_factory):
    """runs(kind) -> (folder, training result) of a short training of that kind, done once."""
    done = {}

    def run(kind):
        if kind not in done:
            folder = tmp_path_factory.mktemp(kind)
            done[kind] = folder, train(
                folder,
                arch=f"{kind}_lm_tiny",
                task="language_modeling" if kind == "xmoe" else "gpt",
                max_update=6,
                tensorboard_logdir=folder / "tensorboard",
                moe_log_expert_load=kind == "mhmoe",
                max_target_positions=512,
            )
        return done[kind]

    return run


def evaluate(run_program, data, folder, check=True, **options):
    defaults = dict(task="gpt", path=folder / "checkpoint_best.pt", gen_subset="test", batch_size=8)
    return run_program("fairseq-eval-lm", data, check=check, **{**defaults, "tokens_per_sample": 32, **options})


def printed_loss(result):
    """(loss in bits, perplexity) as fairseq-eval-lm prints them."""
    return tuple(map(float, re.search(r"Loss \(base 2\): ([\d.]+), Perplexity: ([\d.]+)", result.output).groups()))


def load_model(folder):
    models, _, task = checkpoint_utils.load_model_ensemble_and_task([str(folder / "checkpoint_best.pt")])
    return models[0].eval(), task


def loss_by_hand(folder, sequences):
    """Mean bits per target of [source, target] pairs, from the model's logits."""
    model, task = load_model(folder)
    pad = task.source_dictionary.pad()
    source = collate_tokens([source for source, _ in sequences], pad)
    target = collate_tokens([target for _, target in sequences], pad)
    with torch.no_grad():
        log_probs = model(source)[0].log_softmax(-1)
    real = target != pad
    return -log_probs.gather(2, target.unsqueeze(2)).squeeze(2)[real].mean().item() / math.log(2)


def stream_of_test_tokens(folder):
    """The test split as one stream of tokens."""
    _, task = load_model(folder)
    task.load_dataset("test")
    return torch.cat([item["target"] for item in task.dataset("test")])


@pytest.mark.parametrize("kind", KINDS)
def test_training_lowers_the_loss_and_writes_checkpoints(runs, kind):
    folder, result = runs(kind)
    losses = [float(line["nll_loss"]) for line in result.json_lines("train_inner")]
    assert len(losses) == 6
    assert losses[-1] < losses[0]
    assert {"checkpoint_best.pt", "checkpoint_last.pt"} <= {path.name for path in folder.iterdir()}


@pytest.mark.parametrize("kind", KINDS)
def test_validation_loss_has_no_extra_losses(runs, kind):
    (line,) = runs(kind)[1].json_lines("valid")
    assert line["valid_loss"] == line["valid_nll_loss"]


@pytest.mark.parametrize("kind", KINDS)
def test_eval_lm_prints_the_perplexity_of_the_logits(runs, run_program, tiny_data_dir, kind):
    folder, _ = runs(kind)
    loss, perplexity = printed_loss(evaluate(run_program, tiny_data_dir, folder))
    targets = stream_of_test_tokens(folder)
    sources = torch.cat([torch.tensor([EOS]), targets[:-1]])
    by_hand = loss_by_hand(folder, list(zip(sources.split(32), targets.split(32), strict=True)))
    assert loss == pytest.approx(by_hand, abs=2e-4)
    assert perplexity == pytest.approx(2**by_hand, rel=2e-3)


def test_eval_lm_by_document_and_with_context(runs, run_program, tiny_data_dir):
    folder, _ = runs("mhmoe")
    blocks = printed_loss(evaluate(run_program, tiny_data_dir, folder))
    by_document = printed_loss(
        evaluate(run_program, tiny_data_dir, folder, tokens_per_sample=512, sample_break_mode="eos")
    )
    with_context = printed_loss(evaluate(run_program, tiny_data_dir, folder, context_window=8))
    assert len({blocks, by_document, with_context}) == 3


@pytest.mark.parametrize("kind", KINDS)
def test_the_json_log_has_the_routing_of_every_layer(runs, kind):
    line = runs(kind)[1].json_lines("train")[0]
    names = ("gate_loss", "dropped", "entropy", "load_max", "active")
    expected = {f"train_moe_{name}" for name in names} | {f"train_moe_l1_{name}" for name in names}
    if kind == "dense":
        assert not any(key.startswith("train_moe") for key in line)
    else:
        assert expected <= set(line)
        assert float(line["train_moe_dropped"]) == 0
        assert 0 < float(line["train_moe_entropy"]) <= math.log(4) + 1e-3


def test_shares_of_single_experts_sum_to_one(runs):
    line = runs("mhmoe")[1].json_lines("train")[0]
    assert sum(float(line[f"train_moe_l1_e{expert}_load"]) for expert in range(4)) == pytest.approx(1, abs=1e-3)


def test_tensorboard_has_the_routing(runs):
    folder, _ = runs("mhmoe")
    events = EventAccumulator(str(folder / "tensorboard" / "train_inner")).Reload()
    assert {"loss", "nll_loss", "moe_load_max", "moe_l1_dropped", "moe_l1_e3_load"} <= set(events.Tags()["scalars"])
    assert len(events.Scalars("moe_l1_active")) == 6


def test_the_language_model_continues_every_document(runs, run_program, tiny_data_dir):
    folder, _ = runs("mhmoe")
    result = run_program(
        "fairseq-generate", tiny_data_dir, task="language_modeling", path=folder / "checkpoint_best.pt",
        gen_subset="test", sample_break_mode="eos", tokens_per_sample=512, prefix_size=4, max_len_b=8, beam=2,
        batch_size=4,
    )  # fmt: skip
    lines = [line.split("\t") for line in result.output.splitlines()]
    targets = {line[0][2:]: line[1] for line in lines if line[0].startswith("T-")}
    hypotheses = {line[0][2:]: line[2] for line in lines if line[0].startswith("H-")}
    documents = json.loads((tiny_data_dir / "manifest.json").read_text())["splits"]["test"]["documents"]
    assert len(hypotheses) == documents
    assert all(hypotheses[number].split()[:4] == targets[number].split()[:4] for number in targets)


def test_text_goes_in_and_out_of_the_language_model(runs, run_program, tiny_data_dir):
    folder, _ = runs("mhmoe")
    result = run_program(
        "fairseq-interactive", tiny_data_dir, stdin="History of the city\n", task="gpt", beam=2, max_len_b=30,
        path=folder / "checkpoint_best.pt",
    )  # fmt: skip
    (detokenised,) = [line.split("\t")[2] for line in result.output.splitlines() if line.startswith("D-0")]
    assert detokenised.startswith("History of the city")


def test_validate_agrees_with_training(runs, run_program, tiny_data_dir):
    folder, trained = runs("smoe")
    result = run_program(
        "fairseq-validate", tiny_data_dir, task="gpt", path=folder / "checkpoint_best.pt", valid_subset="valid",
        batch_size=4, tokens_per_sample=32, log_format="json", required_batch_size_multiple=1,
    )  # fmt: skip
    (line,) = result.json_lines("valid")
    assert float(line["valid_loss"]) == pytest.approx(float(trained.json_lines("valid")[0]["valid_loss"]), abs=2e-3)

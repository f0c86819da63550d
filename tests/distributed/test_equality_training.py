"""fairseq-train in R processes logs and learns what it does in one with R times the --update-freq: float32, gloo."""

import json
from dataclasses import dataclass, field
from typing import Dict, Tuple

import pytest
import torch
from fairseq.logging import metrics

from fairseq_mhmoe.checkpoint import load_merged

from .launcher import describe

MIB = 2**20


@dataclass
class Case:
    """Options beside the launcher's; `splits` are (processes, --update-freq), the first of them the yardstick."""

    options: Dict
    splits: Tuple[Tuple[int, int], ...] = ((1, 2), (2, 1))
    updates: int = 6
    tolerance: float = 1e-4
    per_split: Tuple[Dict, ...] = field(default=({},) * 3)  # options of each split


SHORT = dict(train_subset="valid", disable_validation=True)  # 6167 tokens in 23 documents
FOUR = ((1, 4), (2, 2), (4, 1))
CASES = {
    "N >= R": Case({}, FOUR, 20),
    "N < R": Case(dict(moe_expert_count=2, moe_top_k=1), FOUR),
    "replicas asked for": Case({}, ((1, 4), (4, 1)), 6, per_split=({}, dict(moe_expert_parallel_size=2))),
    "N and R coprime": Case(dict(moe_expert_count=3), ((1, 2), (2, 1))),
    # 11 batches an epoch: in its third and last update a rank of two has one batch, and lacks one
    "uneven last batch": Case(dict(tokens_per_sample=64, batch_size=9, **SHORT), FOUR, 4),
    "more ranks than batches": Case(dict(tokens_per_sample=512, batch_size=7, **SHORT), ((1, 4), (4, 1)), 3),
    "padding": Case(dict(sample_break_mode="eos", tokens_per_sample=512, batch_size=3, **SHORT)),
    "padded to one length": Case(
        dict(sample_break_mode="eos", tokens_per_sample=512, batch_size=3, pad_to_max_len=True, **SHORT)
    ),
    "clipping": Case(dict(clip_norm=0.1, momentum=0.9)),
    "adam": Case(dict(optimizer="adam", lr=0.003, clip_norm=1.0), FOUR),
    "activation checkpointing": Case(dict(checkpoint_activations=True)),
    "chunked cross entropy": Case(dict(chunked_cross_entropy=True, cross_entropy_chunk=50)),
    "average of weights": Case(dict(store_ema=True, ema_decay=0.5, ema_fp32=True)),
    "capacity": Case(dict(moe_capacity_factor=1.0)),
    "capacity, by capacity": Case(dict(moe_capacity_factor=1.0, moe_exchange="capacity")),
    "xmoe router, z-loss": Case(dict(moe_router="xmoe", moe_z_loss_wt=0.01)),
    # an epoch is one batch of 13 samples, or 7 + 6, or 4 + 4 + 4 + 1
    "scope global": Case(
        dict(tokens_per_sample=512, moe_balance_scope="global", moe_gate_loss_wt=0.5, **SHORT),
        ((1, 1), (2, 1), (4, 1)),
        3,
        per_split=(dict(batch_size=13), dict(batch_size=7), dict(batch_size=4)),
    ),
    "bfloat16": Case(dict(bf16=True), tolerance=0.02),
    "float16": Case(dict(fp16=True, fp16_init_scale=4), tolerance=0.01),
    "memory-efficient float16": Case(
        dict(memory_efficient_fp16=True, fp16_init_scale=4, optimizer="adam", lr=0.003), tolerance=0.01
    ),
}
QUICK = ("N >= R", "uneven last batch", "padding", "clipping", "activation checkpointing", "scope global")
ALL = [name if name in QUICK else pytest.param(name, marks=pytest.mark.slow) for name in CASES]


def log_all_digits():
    """Losses and norms in the log with all their digits instead of three."""
    log_scalar = metrics.log_scalar

    def log(*args, round=None, **kwargs):
        log_scalar(*args, **kwargs)

    metrics.log_scalar = log


@pytest.fixture(scope="module")
def trained(train_ranks, tmp_path_factory):
    """trained(name) -> one (log lines, last checkpoint as of one process) for each split of that case."""
    done = {}

    def run(name):
        if name not in done:
            case = CASES[name]
            done[name] = [
                train(case, processes, update_freq, more)
                for (processes, update_freq), more in zip(case.splits, case.per_split)
            ]
        return done[name]

    def train(case, processes, update_freq, more, updates=None):
        folder = tmp_path_factory.mktemp("run")
        options = {"disable_validation": True, **case.options, **more}
        updates = updates or case.updates
        ended = train_ranks(
            folder, processes, before=log_all_digits, update_freq=update_freq, max_update=updates, **options
        )
        lines = [
            json.loads(line[line.index("{"):])
            for line in ended[0].output.splitlines()
            if "| train_inner | {" in line
        ]  # fmt: skip
        assert [int(line["num_updates"]) for line in lines] == list(range(1, updates + 1)), describe(ended)
        return lines, load_merged(folder / "checkpoint_last.pt")

    run.train = train
    return run


def column(lines, name):
    return [float(line[name]) for line in lines]


@pytest.mark.parametrize("name", ALL)
def test_losses_and_gradient_norms_are_equal_in_every_update(trained, name):
    (one, _), *others = trained(name)
    for lines, _ in others:
        for figure in ("loss", "nll_loss", "gnorm", "moe_gate_loss"):
            expected = pytest.approx(column(one, figure), rel=CASES[name].tolerance, abs=CASES[name].tolerance)
            assert column(lines, figure) == expected, figure


@pytest.mark.parametrize("name", ALL)
def test_weights_are_equal_at_the_end(trained, name):
    (_, one), *others = trained(name)
    tolerance = 10 * CASES[name].tolerance
    for _, state in others:
        assert state["model"].keys() == one["model"].keys()
        for parameter, weights in one["model"].items():
            torch.testing.assert_close(state["model"][parameter], weights, rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("name", ["N >= R", pytest.param("N < R", marks=pytest.mark.slow)])
def test_gradients_of_the_first_update_are_equal(trained, name):
    # SGD with a rate of 1: the gradient is what the weights lose
    case = CASES[name]
    before = trained.train(case, *case.splits[0], dict(lr=1e-30), updates=1)[1]["model"]
    gradients = []
    for split in case.splits:
        after = trained.train(case, *split, dict(lr=1), updates=1)[1]["model"]
        gradients.append({name: before[name] - after[name] for name in before if before[name].is_floating_point()})
    moved = [name for name, gradient in gradients[0].items() if gradient.abs().max() > 1e-4]
    assert any(".experts." in name for name in moved) and any(".router." in name for name in moved)
    for other in gradients[1:]:
        torch.testing.assert_close(other, gradients[0], rtol=0, atol=1e-5)


@pytest.mark.parametrize("criterion", ["cross_entropy", "moe_cross_entropy"])
def test_a_rank_without_a_batch_has_no_sentence(trained, criterion):
    # the losses are sums over 64 tokens: a small rate
    options = dict(criterion=criterion, sentence_avg=True, lr=0.005)
    case = Case({**CASES["uneven last batch"].options, **options}, updates=6)
    (one, _), (two, _) = (trained.train(case, *split, {}) for split in case.splits)
    for figure in ("loss", "gnorm"):
        assert column(two, figure) == pytest.approx(column(one, figure), rel=1e-5)


@pytest.mark.slow
def test_averages_of_weights_are_equal(trained):
    (_, one), (_, two) = trained("average of weights")
    averaged, model = one["extra_state"]["ema"], one["model"]
    assert two["extra_state"]["ema"].keys() == averaged.keys()
    for section in ("ema", "ema_fp32_params"):
        torch.testing.assert_close(two["extra_state"][section], one["extra_state"][section], rtol=1e-4, atol=1e-5)
    assert any((averaged[name] - model[name]).abs().max() > 1e-4 for name in averaged if ".experts." in name)


@pytest.mark.parametrize("name, times", [("N >= R", 4), ("clipping", 4), ("activation checkpointing", 6)])
def test_the_exchanged_mebibytes_are_those_of_the_formula(trained, name, times):
    case = CASES[name]
    (one, _), *others = trained(name)
    assert "moe_exchange_mb" not in one[0]
    batches = case.splits[0][0] * case.splits[0][1]
    tokens = batches * 4 * 32  # batches of 4 blocks of 32 tokens
    expected = times * tokens * 2 * 24 * 4 / MIB  # one MoE layer, H * K sub-tokens of width 24 / H, K = 2, 4 bytes
    for lines, _ in others:
        assert column(lines, "moe_exchange_mb") == pytest.approx([expected] * case.updates, rel=1e-4)
        remote = column(lines, "moe_remote_mb")
        assert all(0 < part < expected for part in remote)


@pytest.mark.slow
def test_capacity_drops_and_both_exchanges_give_the_same(trained):
    counts, slots = trained("capacity")[1][0], trained("capacity, by capacity")[1][0]
    assert min(column(counts, "moe_dropped")) > 0
    for figure in ("loss", "gnorm", "moe_dropped"):
        assert column(slots, figure) == pytest.approx(column(counts, figure), rel=1e-5)
    assert min(column(slots, "moe_exchange_mb")) > max(column(counts, "moe_exchange_mb"))


def test_the_capacity_of_ranks_drops_and_is_logged(trained):
    case = Case(dict(moe_rank_capacity_factor=0.6), updates=3)
    (lines, _), (unbounded, _) = trained.train(case, 2, 1, {}), trained.train(Case({}, updates=3), 2, 1, {})
    for bounded, free in zip(lines, unbounded):
        assert 0.35 < float(bounded["moe_dropped"]) < 0.65 and float(free["moe_dropped"]) == 0
        assert float(bounded["moe_exchange_mb"]) == pytest.approx(
            (1 - float(bounded["moe_dropped"])) * float(free["moe_exchange_mb"]), rel=1e-3
        )

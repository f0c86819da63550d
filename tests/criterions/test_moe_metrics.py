"""Ratios made of sums. Two MoE layers (1 and 3) of 4 experts, K = 1."""

import math
import re

import pytest
import torch
from fairseq.logging import metrics

from fairseq_mhmoe.criterions.moe_cross_entropy import MoECrossEntropy

LN2 = math.log(2)


def output(load, dropped=0.0, entropy=0.0, tokens=8, nll=8 * LN2, loss=16 * LN2, **more):
    """Logging output of one batch in which both layers saw the same."""
    stats = torch.tensor([*load, sum(load), dropped, entropy], dtype=torch.float32)
    return {
        "loss": torch.tensor(loss),
        "nll_loss": torch.tensor(nll),
        "ntokens": tokens,
        "nsentences": 1,
        "sample_size": tokens,
        "moe_gate_loss": torch.tensor(2.0 * tokens),
        "moe_z_loss": torch.tensor(4.0 * tokens),
        "moe_l1_gate_loss": torch.tensor(1.0 * tokens),
        "moe_l1_stats": stats,
        "moe_l3_gate_loss": torch.tensor(1.0 * tokens),
        "moe_l3_stats": stats,
        **more,
    }


@pytest.fixture(autouse=True)
def fresh_meters():
    metrics.reset()
    yield
    metrics.reset()


def smoothed(*steps):
    """What the log shows after these training steps, each a list of logging outputs."""
    with metrics.aggregate("train") as aggregate:
        for logging_outputs in steps:
            MoECrossEntropy.reduce_metrics(logging_outputs)
        return {key: float(value) for key, value in aggregate.get_smoothed_values().items()}


def test_losses_are_in_bits_per_token():
    values = smoothed([output([2, 2, 2, 2])])
    assert values["nll_loss"] == pytest.approx(1.0, abs=1e-3)
    assert values["loss"] == pytest.approx(2.0, abs=1e-3)
    assert values["ppl"] == 2.0


def test_extra_losses_are_logged_as_they_enter_the_loss():
    values = smoothed([output([2, 2, 2, 2]), output([8, 0, 0, 0])])
    assert values["moe_gate_loss"] == 2.0
    assert values["moe_z_loss"] == 4.0
    assert values["moe_l1_gate_loss"] == 1.0


def test_routing_of_one_batch():
    values = smoothed([output([4, 2, 1, 1], dropped=2, entropy=8 * 0.5)])
    assert values["moe_dropped"] == 0.25
    assert values["moe_entropy"] == 0.5
    assert values["moe_load_max"] == 2.0
    assert values["moe_active"] == 0.5
    assert values["moe_l3_load_max"] == 2.0
    assert values["moe_l1_dead_share"] == 0
    assert values["moe_load_variation"] == pytest.approx(math.sqrt(1.5) / 2, abs=1e-4)
    assert values["moe_load_entropy"] == pytest.approx(1.75 / 2, abs=1e-4)


def test_experts_without_a_choice_are_a_share():
    values = smoothed([output([4, 4, 0, 0])])
    assert (values["moe_dead_share"], values["moe_load_entropy"], values["moe_load_variation"]) == (0.5, 0.5, 1.0)


def test_an_even_load():
    values = smoothed([output([2, 2, 2, 2])])
    assert (values["moe_load_max"], values["moe_active"], values["moe_dropped"]) == (1.0, 1.0, 0.0)


def test_several_batches_count_as_one_large_one():
    first, second = output([8, 0, 0, 0], dropped=4), output([0, 4, 2, 2])
    together = smoothed([first, second])
    metrics.reset()
    one_after_the_other = smoothed([first], [second])
    assert together == one_after_the_other
    assert together["moe_load_max"] == 2.0
    assert together["moe_dropped"] == 0.25


def test_summing_over_ranks_first_changes_nothing():
    first, second = output([8, 0, 0, 0]), output([0, 4, 2, 2])
    summed = {key: first[key] + second[key] for key in first}
    together = smoothed([first, second])
    metrics.reset()
    assert smoothed([summed]) == together


def test_shares_of_single_experts_are_logged_on_request_only():
    assert not any(re.match(r"moe_l\d+_e\d+_load", key) for key in smoothed([output([4, 2, 1, 1])]))
    metrics.reset()
    steps = [output([4, 2, 1, 1], moe_log_expert_load=1)], [output([0, 2, 2, 4], moe_log_expert_load=1)]
    values = smoothed(*steps)
    assert [values[f"moe_l1_e{expert}_load"] for expert in range(4)] == [0.25, 0.25, 0.1875, 0.3125]


def test_meters_that_were_just_reset_can_be_read():
    with metrics.aggregate("train") as aggregate:
        MoECrossEntropy.reduce_metrics([output([2, 2, 2, 2])])
        aggregate.reset()
        values = aggregate.get_smoothed_values()
    assert values["moe_load_max"] == 0


def test_meters_survive_a_checkpoint(tmp_path):
    smoothed([output([4, 2, 1, 1])])
    torch.save(metrics.state_dict(), tmp_path / "metrics.pt")
    metrics.reset()
    metrics.load_state_dict(torch.load(tmp_path / "metrics.pt", weights_only=True))
    assert smoothed([output([0, 2, 3, 3])])["moe_load_max"] == 1.0


def test_a_batch_without_any_choice_divides_by_nothing():
    values = smoothed([output([0, 0, 0, 0])])
    assert values["moe_dropped"] == values["moe_entropy"] == 0


def test_a_dense_model_logs_losses_only():
    dense = {key: value for key, value in output([0, 0, 0, 0]).items() if not key.startswith("moe")}
    assert set(smoothed([dense])) == {"loss", "nll_loss", "ppl"}

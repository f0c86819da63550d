"""Balance loss and z-loss by hand."""

import math

import pytest
import torch

from fairseq_mhmoe.moe.losses import load_balancing_loss, router_z_loss


def test_balance_loss_is_one_when_uniform():
    gates = torch.full((4, 4), 0.25)
    assert float(load_balancing_loss(gates, torch.arange(4))) == pytest.approx(1)


def test_balance_loss_is_n_when_all_go_to_one_expert():
    gates = torch.zeros(4, 4)
    gates[:, 1] = 1
    assert float(load_balancing_loss(gates, torch.ones(4, dtype=torch.int64))) == pytest.approx(4)


def test_balance_loss_by_hand():
    gates = torch.tensor([[0.75, 0.25], [0.5, 0.5]])
    # f = (1, 0), P = (0.625, 0.375)
    assert float(load_balancing_loss(gates, torch.tensor([0, 0]))) == pytest.approx(2 * 0.625)


@pytest.mark.parametrize("count_pads, expected", [(False, 2 * 0.75), (True, 2 * 0.5 * 0.625)])
def test_pads_are_left_out_of_balance_or_counted_as_torchscale_does(count_pads, expected):
    gates = torch.tensor([[0.75, 0.25], [0.5, 0.5]])
    valid = torch.tensor([True, False])
    assert float(load_balancing_loss(gates, torch.tensor([0, 0]), valid, count_pads)) == pytest.approx(expected)


def test_balance_gradient_flows_through_the_mean_gate_only():
    gates = torch.tensor([[0.75, 0.25], [0.5, 0.5]], requires_grad=True)
    load_balancing_loss(gates, torch.tensor([0, 0])).backward()
    assert gates.grad.tolist() == [[1, 0], [1, 0]]  # N * f / S


def test_z_loss_by_hand():
    log_sums = torch.tensor([[0.0, 0.0], [math.log(3), 0.0]]).logsumexp(1)
    expected = (math.log(2) ** 2 + math.log(4) ** 2) / 2
    assert float(router_z_loss(log_sums)) == pytest.approx(expected)
    assert float(router_z_loss(log_sums, torch.tensor([True, False]))) == pytest.approx(math.log(2) ** 2)


@pytest.mark.parametrize("valid", [None, torch.zeros(0, dtype=torch.bool)])
def test_no_tokens_cost_nothing(valid):
    none = torch.zeros(0, 4)
    assert float(load_balancing_loss(none, torch.zeros(0, dtype=torch.int64), valid)) == 0
    assert float(router_z_loss(none[:, 0], valid)) == 0

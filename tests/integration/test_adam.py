"""Adam in one pass is fairseq's Adam."""

import copy

import pytest
import torch
from fairseq.optim import adam

from fairseq_mhmoe.integration.adam import step_in_one_pass

STOCK = adam.Adam.step.__wrapped__


def stock_step(optimizer):
    step = STOCK
    while hasattr(step, "__wrapped__"):  # torch's profiling wraps as well
        step = step.__wrapped__
    return step(optimizer)


def pair(dtype=torch.float32, **settings):
    """Two optimizers over equal parameters, one of which will miss gradients in some steps."""
    torch.manual_seed(0)
    ours = [torch.nn.Parameter(torch.randn(shape).to(dtype)) for shape in ((4, 5), (7,), (3, 2, 9))]
    theirs = copy.deepcopy(ours)
    return (ours, adam.Adam(ours, **settings)), (theirs, adam.Adam(theirs, **settings))


def take_steps(ours, theirs, steps=9):
    for step in range(steps):
        for index, (a, b) in enumerate(zip(ours[0], theirs[0])):
            missing = index == 1 and step % 3 == 1
            a.grad = None if missing else torch.randn_like(a) * 10 ** (index - 2)
            b.grad = None if missing else a.grad.clone()
        step_in_one_pass(STOCK, ours[1])
        stock_step(theirs[1])


@pytest.mark.parametrize("settings", [{}, dict(weight_decay=0.1), dict(amsgrad=True), dict(eps=1e-3, betas=(0.5, 0.7))])
def test_parameters_and_state_are_those_of_fairseq(settings):
    ours, theirs = pair(lr=0.05, **settings)
    take_steps(ours, theirs)
    for a, b in zip(ours[0], theirs[0]):
        torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-6)
        state, expected = ours[1].state[a], theirs[1].state[b]
        assert state.keys() == expected.keys() and state["step"] == expected["step"]
        for name in state.keys() - {"step"}:
            torch.testing.assert_close(state[name], expected[name], rtol=1e-5, atol=1e-7)


def test_a_stock_checkpoint_goes_on():
    ours, theirs = pair(lr=0.05)
    for _ in range(4):
        for parameter in theirs[0]:
            parameter.grad = torch.randn_like(parameter)
        stock_step(theirs[1])
    for a, b in zip(ours[0], theirs[0]):
        a.data.copy_(b.data)
    ours[1].load_state_dict(copy.deepcopy(theirs[1].state_dict()))
    take_steps(ours, theirs)
    for a, b in zip(ours[0], theirs[0]):
        torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-6)


def test_half_precision_is_left_to_fairseq():
    ours, theirs = pair(torch.bfloat16, lr=0.05)
    asked = []
    for parameter in ours[0]:
        parameter.grad = torch.ones_like(parameter)
    step_in_one_pass(lambda *a: asked.append(a), ours[1])
    assert len(asked) == 1


def test_fairseq_trains_with_it(monkeypatch):
    optimizer = adam.Adam([torch.nn.Parameter(torch.ones(3))], lr=0.1)
    optimizer.param_groups[0]["params"][0].grad = torch.ones(3)
    called, original = [], torch._fused_adamw_
    monkeypatch.setattr(torch, "_fused_adamw_", lambda *a, **k: called.append(1) or original(*a, **k))
    optimizer.step()
    assert called == [1]

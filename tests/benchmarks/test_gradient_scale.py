"""The sizes of numbers and gradients inside MoE layers: of a model whose figures are known."""

import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from torch import nn

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "benchmarks"))

import gradient_scale  # noqa: E402


class Layer(nn.Module):
    """Doubles its input in its router; has no head, merge or experts with weights."""

    def __init__(self):
        super().__init__()
        self.head = self.merge = self.experts = nn.Module()
        self.router = nn.Linear(2, 2, bias=False)
        nn.init.eye_(self.router.weight)
        self.router.weight.data *= 2

    def forward(self, x):
        return (self.router(x),)


def loaded_with(layer, batches):
    def criterion(model, batch):
        return model(batch)[0].sum(), 2.0, {}

    task = SimpleNamespace(build_criterion=lambda cfg: criterion)
    return SimpleNamespace(task=task, cfg=SimpleNamespace(criterion=None), moe_layers=lambda: [(1, layer)], model=layer)


def test_figures_by_hand(monkeypatch):
    layer, batch = Layer(), torch.tensor([[3.0, 3.0]])
    monkeypatch.setattr(gradient_scale, "batches_of", lambda loaded, count: [batch] * count)
    [found] = gradient_scale.measure(loaded_with(layer, batch), count=4)
    assert found["block"] == 1
    assert found["input"] == pytest.approx(3)
    assert found["output"] == pytest.approx(6)
    # d(sum of outputs) / d(weight) = input = 3 everywhere, over a sample size of 2; the weight's own size is sqrt 2
    assert found["router_gradient"] == pytest.approx(1.5)
    assert found["router_relative"] == pytest.approx(1.5 / 2**0.5)
    assert not any(name.startswith(("head", "experts", "merge")) for name in found)


def test_hooks_are_gone_afterwards(monkeypatch):
    layer = Layer()
    monkeypatch.setattr(gradient_scale, "batches_of", lambda loaded, count: [torch.ones(1, 2)])
    gradient_scale.measure(loaded_with(layer, None), count=1)
    assert not layer._forward_hooks

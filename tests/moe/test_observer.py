"""The observer of a layer: it is told what was selected, and changes nothing."""

import pytest
import torch

from fairseq_mhmoe.moe import MoEConfig, MoELayer


@pytest.mark.parametrize("training", [True, False])
def test_an_observer_changes_neither_outputs_nor_gradients(training):
    torch.manual_seed(0)
    config = MoEConfig(d_model=8, num_experts=4, ffn_dim=8, heads=2, top_k=2, capacity_factor=1.0)
    layer = MoELayer(config).train(training)
    x, pads = torch.randn(3, 5, 8), torch.zeros(3, 5, dtype=torch.bool)
    pads[1, 3:] = True

    def results():
        layer.zero_grad()
        outputs = layer(x, pads)
        (outputs[0].square().sum() + outputs[1]).backward()
        return [*outputs, *(parameter.grad.clone() for parameter in layer.parameters())]

    expected, told = results(), []
    layer.observer = lambda selection, valid: told.append((selection, valid))
    assert all(map(torch.equal, results(), expected))

    [(selection, valid)] = told
    assert valid.tolist() == (~pads).reshape(-1, 1).expand(-1, 2).reshape(-1).tolist()
    load = expected[3][:4].tolist()
    assert load == [int((selection.wanted == expert).sum()) for expert in range(4)]
    layer.observer = None
    results()
    assert len(told) == 1

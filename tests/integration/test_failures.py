"""What a failure is called; processes that fail are in tests/distributed/test_failures.py."""

import pytest
import torch
import torch.distributed as dist
from fairseq import utils

from fairseq_mhmoe.integration import failures
from fairseq_mhmoe.moe import MoEConfig, MoELayer

GLOO = "[/pytorch/third_party/gloo/gloo/transport/tcp/pair.cc:525] Connection closed by peer [127.0.0.1]:10563"
LATE = "[/pytorch/third_party/gloo/gloo/transport/tcp/unbound_buffer.cc:81] Timed out waiting 4000ms for recv operation"


class Block(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.moe_layer = MoELayer(MoEConfig(d_model=8, num_experts=2, ffn_dim=8, top_k=1))

    def forward(self, x):
        return self.moe_layer(x)


def model_of_two_blocks():
    model = torch.nn.Module()
    model.decoder = torch.nn.Module()
    model.decoder.layers = torch.nn.ModuleList([Block(), Block()])
    return failures.build_model(lambda: model)


def test_an_exception_remembers_the_innermost_layer():
    model = model_of_two_blocks()
    with pytest.raises(RuntimeError) as caught:
        model.decoder.layers[1](torch.zeros(2, 3, 7))  # 8 wide was agreed
    assert caught.value.layer == "decoder.layers.1.moe_layer"
    assert failures.describe(caught.value).startswith("decoder.layers.1.moe_layer: RuntimeError: ")
    with pytest.raises(Exception) as caught:
        model.decoder.layers[0]()
    assert caught.value.layer == "decoder.layers.0"


def test_layers_compute_as_before():
    model = model_of_two_blocks()
    x = torch.randn(2, 3, 8)
    torch.testing.assert_close(model.decoder.layers[0](x)[0], model.decoder.layers[0].moe_layer(x)[0])


def chained(text):
    try:
        try:
            raise RuntimeError(GLOO)
        except RuntimeError as cause:
            raise RuntimeError(text) from cause
    except RuntimeError as error:
        return error


@pytest.mark.parametrize(
    "error, broken",
    [
        (RuntimeError(GLOO), True),
        (dist.DistBackendError("NCCL error"), True),
        (chained("rank 0: MoE layer x: exchange with the other ranks failed"), True),
        (chained("anything else"), True),
        (RuntimeError("CUDA out of memory"), False),
        (RuntimeError("DataLoader timed out after 5 seconds"), False),
        (ValueError(GLOO), False),
    ],
)
def test_broken_connections_are_told_from_own_failures(error, broken):
    assert failures.is_broken_collective(error) == broken


def test_a_lost_contact_names_layer_and_cause():
    error = chained("exchange failed")
    error.layer = "decoder.layers.1.moe_layer"
    text = failures.explain_broken(error, 600)
    assert text.startswith("lost contact to the other ranks in layer decoder.layers.1.moe_layer: ")
    assert text.endswith("(Connection closed by peer [127.0.0.1]:10563)")


class Waiting:
    def item(self):
        raise RuntimeError(LATE)


def test_a_time_out_names_the_function_where_there_is_no_layer():
    with pytest.raises(RuntimeError) as caught:
        utils.item(Waiting())
    text = failures.explain_broken(caught.value, 4)
    assert text.startswith("waited longer than --moe-timeout 4 seconds for the other ranks in item (utils.py): ")

import pytest
import torch
import torch.nn.functional as F

from fairseq_mhmoe.models.feed_forward import FeedForward


@pytest.mark.parametrize("name, function", [("relu", F.relu), ("gelu", F.gelu)])
def test_two_matrices(name, function):
    ffn, x = FeedForward(8, 12, name), torch.randn(2, 3, 8)
    torch.testing.assert_close(ffn(x), ffn.fc2(function(ffn.fc1(x))))


def test_silu_is_gated_by_fc3():
    ffn, x = FeedForward(8, 12, "silu", bias=False), torch.randn(2, 3, 8)
    torch.testing.assert_close(ffn(x), ffn.fc2(ffn.fc1(x) * F.silu(ffn.fc3(x))))
    assert [name for name, _ in ffn.named_parameters()] == ["fc1.weight", "fc2.weight", "fc3.weight"]


@pytest.mark.parametrize("rms_norm, kind", [(False, torch.nn.LayerNorm), (True, torch.nn.RMSNorm)])
def test_subln_normalises_before_the_last_matrix(rms_norm, kind):
    ffn, x = FeedForward(8, 12, "gelu", subln=True, rms_norm=rms_norm), torch.randn(2, 8)
    assert type(ffn.ffn_layernorm) is kind and ffn.ffn_layernorm.eps == 1e-5
    torch.testing.assert_close(ffn(x), ffn.fc2(ffn.ffn_layernorm(F.gelu(ffn.fc1(x)))))


def test_dropout_only_in_training():
    ffn, x = FeedForward(8, 64, "gelu", dropout=0.5), torch.randn(2, 8)
    assert not torch.equal(ffn(x), ffn(x))
    ffn.eval()
    assert torch.equal(ffn(x), ffn(x))

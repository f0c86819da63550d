"""The dense feed-forward network of a block (T any leading shape, D model width, F inner width)."""

import torch.nn.functional as F
from torch import Tensor, nn

from fairseq_mhmoe.models.attention import make_norm
from fairseq_mhmoe.moe.bitlinear import UNQUANTIZED, Quantization

ACTIVATIONS = {"relu": F.relu, "gelu": F.gelu, "silu": F.silu}


class FeedForward(nn.Module):
    """fc2(act(fc1 x)), or with silu the gated fc2(fc1 x * silu(fc3 x)) (SwiGLU); parameters named as in torchscale.

    Args:
        width: D.
        inner: F.
        activation: relu, gelu (exact) or silu.
        dropout: after the activation, in training.
        bias: of the linear layers.
        subln: norm over F before fc2 (SubLN).
        rms_norm: kind of that norm.
        quantization: of the linear layers.
    """

    def __init__(
        self,
        width: int,
        inner: int,
        activation: str,
        dropout: float = 0.0,
        bias: bool = True,
        subln: bool = False,
        rms_norm: bool = False,
        quantization: Quantization = UNQUANTIZED,
    ):
        super().__init__()
        self.activation = ACTIVATIONS[activation]
        self.quantization = quantization
        self.fc1 = quantization.linear(width, inner, bias=bias)
        self.fc2 = quantization.linear(inner, width, bias=bias)
        self.fc3 = quantization.linear(width, inner, bias=bias) if activation == "silu" else None
        self.activation_dropout = nn.Dropout(dropout)
        self.ffn_layernorm = make_norm(inner, rms_norm) if subln else None

    def forward(self, x: Tensor) -> Tensor:
        """[..., D] -> [..., D]."""
        x = self.quantization.enter(x)
        hidden = self.fc1(x)
        hidden = self.activation(hidden) if self.fc3 is None else hidden * self.activation(self.fc3(x))
        hidden = self.activation_dropout(hidden)
        if self.ffn_layernorm is not None:
            hidden = self.ffn_layernorm(hidden)
        return self.fc2(self.quantization.enter(hidden))

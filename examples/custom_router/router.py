"""Head-wise cosine router: every head of MH-MoE has its own expert embeddings and its own temperature.

MH-MoE routes the sub-tokens of all heads by one set of expert embeddings, though each head sees other features.
"""

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fairseq_mhmoe.moe import MoEConfig, Router, register_router


@register_router("headwise")
class HeadwiseRouter(Router):
    """logits = cosine(x, e_h) / temperature_h for sub-tokens x of head h (S sub-tokens, H heads, d wide, N experts).

    Args:
        config: sizes of the layer; --moe-router-temperature is where each head's temperature starts.
        share_temperature: one temperature for all heads; set with --moe-router-args '{"share_temperature": true}'.
    """

    def __init__(self, config: MoEConfig, share_temperature: bool = False) -> None:
        super().__init__()
        self.start = math.log(config.router_temperature)
        self.embedding = nn.Parameter(torch.empty(config.heads, config.num_experts, config.d_sub))
        self.log_temperature = nn.Parameter(torch.empty(1 if share_temperature else config.heads))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        nn.init.normal_(self.embedding)
        nn.init.constant_(self.log_temperature, self.start)

    def logits(self, x: Tensor) -> Tensor:
        heads, experts, d = self.embedding.shape
        by_head = F.normalize(x.to(self.embedding.dtype).view(-1, heads, d), dim=2).transpose(0, 1)  # [H, S / H, d]
        cosine = by_head @ F.normalize(self.embedding, dim=2).transpose(1, 2)  # [H, S / H, N]
        logits = cosine / self.log_temperature.exp().view(-1, 1, 1)
        return logits.transpose(0, 1).reshape(-1, experts)

    def macs(self) -> int:
        return self.embedding[0].numel()  # a sub-token meets the embeddings of its own head only

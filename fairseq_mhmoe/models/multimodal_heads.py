"""What stands on the multimodal encoder: codes of patches, words, classes of an image and its text.

Shapes: M positions, D width, B rows, C classes.
"""

from typing import Any, Dict

import torch
from torch import Tensor, nn

INITIAL_STD = 0.02
KINDS = ("codes", "text", "classes")


class Classes(nn.Module):
    """Classes of examples, from the features of their images' CLS tokens; as BEiT-3 for VQA and NLVR2.

    Args:
        width: D.
        classes: C.
        inputs: rows that make one example, one after the other.
    """

    def __init__(self, width: int, classes: int, inputs: int = 1):
        super().__init__()
        hidden = 2 * width
        self.inputs = inputs
        self.pooler = nn.Sequential(nn.LayerNorm(width), nn.Linear(width, width), nn.Tanh())
        self.classifier = nn.Sequential(
            nn.Linear(inputs * width, hidden), nn.LayerNorm(hidden), nn.GELU(), nn.Linear(hidden, classes)
        )

    def forward(self, features: Tensor) -> Tensor:
        """[B, D] -> [B / inputs, C].

        Raises:
            ValueError: B is no multiple of the inputs.
        """
        if len(features) % self.inputs:
            raise ValueError(f"{len(features)} rows: expected a multiple of the head's {self.inputs} inputs")
        return self.classifier(self.pooler(features).reshape(-1, self.inputs * features.shape[-1]))


def build_heads(width: int, symbols: int, wanted: Dict[str, Dict[str, Any]]) -> nn.ModuleDict:
    """Heads by their names.

    Args:
        width: D.
        symbols: of the dictionary.
        wanted: name -> {"kind": "codes" | "text" | "classes", "classes": C, "inputs": rows of an example}.
    Raises:
        ValueError: another kind, or a kind under a name that the model does not look for it.
    """
    heads = nn.ModuleDict()
    for name, head in wanted.items():
        kind = head.get("kind")
        if kind not in KINDS or (name in ("image", "text")) != (kind != "classes"):
            raise ValueError(
                f"head {name!r} of kind {kind!r}: expected image (codes), text (text), or another name (classes)"
            )
        if kind == "classes":
            heads[name] = Classes(width, head["classes"], head.get("inputs", 1))
        else:
            heads[name] = nn.Linear(width, head["classes"] if kind == "codes" else symbols)
        heads[name].apply(initialize)
    return heads


@torch.no_grad()
def initialize(module: nn.Module) -> None:
    """Small weights and no biases, as BEiT's heads."""
    if isinstance(module, nn.Linear):
        nn.init.trunc_normal_(module.weight, std=INITIAL_STD)
        nn.init.zeros_(module.bias)

"""What stands on the multimodal encoder: codes of patches, words, classes of images and their text.

Shapes: M positions, D width, B rows, C classes.
"""

from typing import Any, Dict, Optional

import torch
from torch import Tensor, nn

INITIAL_STD = 0.02
JOINT_SCALE = 0.001  # BEiT-3 makes the layers of that head this much smaller
KINDS = ("codes", "text", "classes")


class Classes(nn.Module):
    """Classes of rows, from the features of their images' CLS tokens; as BEiT-3 for VQA.

    Args:
        width: D.
        classes: C.
    """

    def __init__(self, width: int, classes: int):
        super().__init__()
        self.pooler = nn.Sequential(nn.LayerNorm(width), nn.Linear(width, width), nn.Tanh())
        self.classifier = classifier(width, 2 * width, classes)
        self.apply(initialize)

    def forward(self, image: Tensor, text: Optional[Tensor]) -> Tensor:
        """Features of CLS and of the first symbol, which is not looked at, [B, D] each -> [B, C]."""
        return self.classifier(self.pooler(image))


class JointClasses(nn.Module):
    """Classes of examples of several rows, from CLS and the first symbol of the text of each; as BEiT-3 for NLVR2.

    Args:
        width: D.
        classes: C.
        inputs: rows that make one example, one after the other.
    """

    def __init__(self, width: int, classes: int, inputs: int):
        super().__init__()
        self.inputs = inputs
        joint = 2 * inputs * width
        self.norm = nn.LayerNorm(joint)
        self.classifier = classifier(joint, 2 * width, classes)
        self.apply(initialize)
        with torch.no_grad():
            for linear in (self.classifier[0], self.classifier[-1]):
                linear.weight.mul_(JOINT_SCALE)

    def forward(self, image: Tensor, text: Optional[Tensor]) -> Tensor:
        """Features of CLS and of the first symbol, [B, D] each -> [B / inputs, C].

        Raises:
            ValueError: there is no text, or B is no multiple of the inputs.
        """
        if text is None:
            raise ValueError("images without a text: expected both")
        if len(image) % self.inputs:
            raise ValueError(f"{len(image)} rows: expected a multiple of the head's {self.inputs} inputs")
        return self.classifier(self.norm(torch.cat((image, text), dim=-1).reshape(len(image) // self.inputs, -1)))


def classifier(width: int, hidden: int, classes: int) -> nn.Sequential:
    """Two layers with a norm and a GELU between them."""
    return nn.Sequential(nn.Linear(width, hidden), nn.LayerNorm(hidden), nn.GELU(), nn.Linear(hidden, classes))


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
            inputs = head.get("inputs", 1)
            of_one = inputs == 1
            heads[name] = Classes(width, head["classes"]) if of_one else JointClasses(width, head["classes"], inputs)
        else:
            heads[name] = nn.Linear(width, head["classes"] if kind == "codes" else symbols).apply(initialize)
    return heads


@torch.no_grad()
def initialize(module: nn.Module) -> None:
    """Small weights and no biases, as BEiT's heads."""
    if isinstance(module, nn.Linear):
        nn.init.trunc_normal_(module.weight, std=INITIAL_STD)
        nn.init.zeros_(module.bias)

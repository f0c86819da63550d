"""Peak rates of GPUs in matrix products, by the vendors' data sheets, without sparsity: what `mfu` divides by.

Rates are in TFLOP/s of one device. `half` is bf16, and fp16 with sums in float32; where a data sheet gives a rate with
sparsity only, half of it stands here. V100 has no bf16: it computes such products in float32, so none is given.
"""

from typing import NamedTuple, Optional

import torch


class Peaks(NamedTuple):
    """Peak rates of one kind of device; None: not known, or not there."""

    fp16: Optional[float]
    bf16: Optional[float]
    tf32: Optional[float]
    fp32: float  # without tensor cores


# A part of a device, or a slower one of the same name.
LESS = {"MIG", "Laptop", "D"}
# Words that a device's name must have, in the driver's spelling; the first row that fits counts.
PEAKS = (
    (("GH200",), Peaks(989, 989, 494, 67)),  # NVIDIA GH200 data sheet
    (("H200", "NVL"), Peaks(835, 835, 417, 60)),  # NVIDIA H200 data sheet
    (("H200",), Peaks(989, 989, 494, 67)),
    (("H100", "NVL"), Peaks(835, 835, 417, 60)),  # NVIDIA H100 data sheet
    (("H100", "PCIe"), Peaks(756, 756, 378, 51)),
    (("H100",), Peaks(989, 989, 494, 67)),
    (("H800", "PCIe"), Peaks(756, 756, 378, 51)),  # as the H100
    (("H800",), Peaks(989, 989, 494, 67)),
    (("H20",), Peaks(148, 148, 74, 44)),  # NVIDIA H20 data sheet
    (("B200",), Peaks(2250, 2250, 1125, 75)),  # NVIDIA HGX B200 data sheet, an eighth of the board
    (("A100",), Peaks(312, 312, 156, 19.5)),  # NVIDIA A100 data sheet, SXM and PCIe
    (("A800",), Peaks(312, 312, 156, 19.5)),  # as the A100
    (("A40",), Peaks(149.7, 149.7, 74.8, 37.4)),  # NVIDIA A40 data sheet
    (("A30",), Peaks(165, 165, 82, 10.3)),  # NVIDIA A30 data sheet
    (("A10",), Peaks(125, 125, 62.5, 31.2)),  # NVIDIA A10 data sheet
    (("L40S",), Peaks(362, 362, 183, 91.6)),  # NVIDIA L40S data sheet
    (("L40",), Peaks(181, 181, 90.5, 90.5)),  # NVIDIA L40 data sheet
    (("L4",), Peaks(121, 121, 60, 30.3)),  # NVIDIA L4 data sheet
    (("RTX", "4090"), Peaks(165.2, 165.2, 82.6, 82.6)),  # NVIDIA Ada architecture paper
    (("RTX", "3090"), Peaks(71, 71, 35.6, 35.6)),  # NVIDIA Ampere GA102 architecture paper
    (("V100-SXM2",), Peaks(125, None, None, 15.7)),  # NVIDIA V100 data sheet
    (("V100-PCIE",), Peaks(112, None, None, 14)),
)


def peak_tflops(device_name: str, precision: str) -> Optional[float]:
    """Peak TFLOP/s of a device in "fp16", "bf16", "tf32" or "fp32"; None: not known.

    Args:
        device_name: as torch.cuda.get_device_name says it, "NVIDIA H100 80GB HBM3".
    """
    words = device_name.split()
    if LESS & set(words):
        return None
    for wanted, peaks in PEAKS:
        if all(any(_is(word, each) for word in words) for each in wanted):
            return getattr(peaks, precision)
    return None


def precision_of(common) -> str:
    """What a training computes its matrix products in, by fairseq's options: a field of Peaks."""
    if common.bf16 or getattr(common, "memory_efficient_bf16", False):
        return "bf16"
    if common.fp16 or common.amp or getattr(common, "memory_efficient_fp16", False):
        return "fp16"
    return "tf32" if torch.backends.cuda.matmul.allow_tf32 else "fp32"


def _is(word: str, wanted: str) -> bool:
    """Whether a word of a name is the wanted one, or begins with it and a dash (A100-SXM4, V100-SXM2-32GB)."""
    return word == wanted or word.startswith(f"{wanted}-")

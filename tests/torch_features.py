"""What the older versions of torch in docs/versions.md do not have: tests of it are skipped there."""

import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode

from fairseq_mhmoe.moe.backends import torch_grouped_mm

needs_grouped_mm = pytest.mark.skipif(torch_grouped_mm is None, reason="this torch has no grouped_mm")


def _moves_modules_to_fake_gpus() -> bool:
    module = torch.nn.Linear(1, 1)
    try:
        with FakeTensorMode(allow_non_fake_inputs=True):
            module.to("cuda")
    except RuntimeError:  # it asks the driver
        return False
    return True


needs_fake_gpu = pytest.mark.skipif(not _moves_modules_to_fake_gpus(), reason="this torch asks for a real GPU")
GROUPED_MM = pytest.param("grouped_mm", marks=needs_grouped_mm)


def available(*backends: str) -> list[str]:
    """Those of these back ends that this torch has."""
    return [name for name in backends if name != "grouped_mm" or torch_grouped_mm is not None]

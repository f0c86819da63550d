"""What the older versions of torch in docs/versions.md do not have: tests of it are skipped there."""

import pytest

from fairseq_mhmoe.moe.backends import torch_grouped_mm

needs_grouped_mm = pytest.mark.skipif(torch_grouped_mm is None, reason="this torch has no grouped_mm")
GROUPED_MM = pytest.param("grouped_mm", marks=needs_grouped_mm)


def available(*backends: str) -> list[str]:
    """Those of these back ends that this torch has."""
    return [name for name in backends if name != "grouped_mm" or torch_grouped_mm is not None]

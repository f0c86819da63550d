"""Automatic mixed precision on devices that know it and on those that do not."""

import torch

from fairseq_mhmoe.moe.precision import autocast_dtype, without_autocast


def test_autocast_type_inside_and_outside():
    assert autocast_dtype("cpu") is None
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert autocast_dtype("cpu") == torch.bfloat16
        with without_autocast("cpu"):
            assert autocast_dtype("cpu") is None
            assert (torch.ones(2, 2) @ torch.ones(2, 2)).dtype == torch.float32


def test_a_device_without_autocast_is_no_error():
    assert autocast_dtype("meta") is None
    with without_autocast("meta"):
        assert torch.ones(2, device="meta").dtype == torch.float32

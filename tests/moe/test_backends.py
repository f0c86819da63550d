"""The choice of a back end: what each can't do, and that `auto` says once what it takes."""

import logging

import pytest
import torch

from fairseq_mhmoe.moe import backends
from fairseq_mhmoe.moe.backends import choose_backend
from tests.torch_features import needs_grouped_mm


@needs_grouped_mm
def test_automatic_choice_avoids_what_grouped_mm_can_not_do():
    meta = torch.device("meta")  # the one device of these tests on which grouped_mm is preferred
    assert choose_backend("auto", torch.zeros(4, 8, device=meta), [8, 16]) == "grouped_mm"
    assert choose_backend("auto", torch.zeros(4, 8, device=meta, dtype=torch.float64), [8, 16]) == "loop"
    assert choose_backend("auto", torch.zeros(4, 6, device=meta), [6, 16]) == "loop"
    assert choose_backend("auto", torch.zeros(0, 8, device=meta), [8, 16]) == "loop"
    assert choose_backend("auto", torch.zeros(4, 8), [8, 16]) == "loop"


@pytest.mark.parametrize(
    "capability, dtype, expected",
    [
        ((7, 0), torch.float16, "loop"),
        ((8, 0), torch.bfloat16, "loop"),
        pytest.param((9, 0), torch.bfloat16, "grouped_mm", marks=needs_grouped_mm),
        ((9, 0), torch.float16, "loop"),
        ((10, 0), torch.bfloat16, "loop"),
        ((12, 0), torch.bfloat16, "loop"),
    ],
)
def test_automatic_choice_on_gpus(capability, dtype, expected, monkeypatch):
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda index: capability)
    backends._grouped_mm_is_fast.cache_clear()
    rows = torch.zeros(4, 8, device="meta", dtype=dtype)

    class OnGpu:  # stands for a tensor on a device that is not here
        shape, dtype, device = rows.shape, rows.dtype, torch.device("cuda", 0)

    try:
        assert choose_backend("auto", OnGpu, [8, 16]) == expected
    finally:
        backends._grouped_mm_is_fast.cache_clear()


@pytest.mark.parametrize("x, widths", [(torch.zeros(4, 6), [6]), (torch.zeros(4, 8, dtype=torch.float64), [8])])
def test_asking_for_grouped_mm_in_vain_says_why(x, widths):
    with pytest.raises(ValueError, match="grouped_mm.*'loop', 'bmm' or 'auto'"):
        choose_backend("grouped_mm", x, widths)


def test_an_older_torch_has_no_grouped_mm(monkeypatch):
    monkeypatch.setattr(backends, "torch_grouped_mm", None)
    assert choose_backend("auto", torch.zeros(4, 8, device="meta"), [8]) == "loop"
    with pytest.raises(ValueError, match="this torch has no grouped_mm"):
        choose_backend("grouped_mm", torch.zeros(4, 8), [8])


@needs_grouped_mm
def test_the_choice_is_logged_once(caplog):
    backends._log_choice.cache_clear()
    with caplog.at_level(logging.INFO, logger=backends.__name__):
        for _ in range(3):
            choose_backend("auto", torch.zeros(4, 8), [8, 16])
    assert [r.getMessage() for r in caplog.records] == [
        "expert matrix products: back end loop for torch.float32 on cpu"
    ]

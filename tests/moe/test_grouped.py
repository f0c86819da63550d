"""Grouped matrix products: the back ends agree, and rows behind the last group stay out of everything."""

import pytest
import torch

from fairseq_mhmoe.moe.grouped import choose_backend, expand, grouped_linear, make_groups


def run(backend, counts, dtype=torch.float32, tail=0, d=8, width=16):
    torch.manual_seed(1)
    counts = torch.tensor(counts)
    rows = int(counts.sum()) + tail
    x = torch.randn(rows, d, dtype=dtype, requires_grad=True)
    weight = torch.randn(len(counts), width, d, dtype=dtype, requires_grad=True)
    groups = make_groups(counts, rows, tail == 0, backend)
    y = grouped_linear(x, weight, groups)
    (y * torch.randn(y.shape, dtype=dtype)).sum().backward()
    return y, x, weight, groups


@pytest.mark.parametrize(
    "counts, tail", [([3, 1, 4], 0), ([3, 1, 4], 3), ([0, 5, 0], 0), ([0, 5, 0], 3), ([0, 0, 0], 3), ([7, 0, 0], 0)]
)
@pytest.mark.parametrize("dtype, tolerance", [(torch.float32, 1e-6), (torch.bfloat16, 2e-2)])
def test_back_ends_agree(counts, tail, dtype, tolerance):
    loop = run("loop", counts, dtype, tail)
    grouped = run("grouped_mm", counts, dtype, tail)
    for ours, theirs in zip((grouped[0], grouped[1].grad, grouped[2].grad), (loop[0], loop[1].grad, loop[2].grad)):
        torch.testing.assert_close(ours, theirs, rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("backend", ["loop", "grouped_mm"])
def test_rows_behind_the_groups_are_zero(backend):
    y, x, _, _ = run(backend, [2, 3], tail=4)
    assert (y[5:] == 0).all() and (x.grad[5:] == 0).all()
    assert (y[:5] != 0).all()


def test_equals_one_linear_a_group():
    y, x, weight, _ = run("loop", [2, 0, 3])
    torch.testing.assert_close(y, torch.cat([x[:2] @ weight[0].t(), x[2:] @ weight[2].t()]))


def test_loop_gradients_are_those_of_finite_differences():
    groups = make_groups(torch.tensor([2, 0, 1]), 4, False, "loop")
    x = torch.randn(4, 3, dtype=torch.float64, requires_grad=True)
    weight = torch.randn(3, 2, 3, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda x, w: grouped_linear(x, w, groups), (x, weight))


def test_each_row_knows_its_group():
    groups = make_groups(torch.tensor([2, 0, 1]), 5, False, "loop")
    assert groups.row_group().tolist() == [0, 0, 2, 2, 2]
    table = torch.arange(6.0).view(3, 2)
    assert expand(table, groups.row_group()).tolist() == [[0, 1], [0, 1], [4, 5], [4, 5], [4, 5]]


def test_automatic_choice_avoids_what_grouped_mm_can_not_do():
    assert choose_backend("auto", torch.zeros(4, 8), [8, 16]) == "grouped_mm"
    assert choose_backend("auto", torch.zeros(4, 8, dtype=torch.float64), [8, 16]) == "loop"
    assert choose_backend("auto", torch.zeros(4, 6), [6, 16]) == "loop"
    assert choose_backend("auto", torch.zeros(4, 8, dtype=torch.float16), [8, 16]) == "loop"
    assert choose_backend("auto", torch.zeros(0, 8), [8, 16]) == "loop"


@pytest.mark.parametrize("x, widths", [(torch.zeros(4, 6), [6]), (torch.zeros(4, 8, dtype=torch.float64), [8])])
def test_asking_for_grouped_mm_in_vain_says_why(x, widths):
    with pytest.raises(ValueError, match="grouped_mm.*'loop' or 'auto'"):
        choose_backend("grouped_mm", x, widths)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_grouped_mm_does_not_wait_for_the_device():
    from fairseq_mhmoe.moe import MoEConfig, MoELayer

    layer = MoELayer(MoEConfig(64, 8, 64, top_k=2, heads=2, activation="swiglu", bias=False, backend="grouped_mm"))
    layer.cuda().bfloat16()
    x = torch.randn(2, 64, 64, device="cuda", dtype=torch.bfloat16)
    layer(x)[0].sum().backward()
    torch.cuda.set_sync_debug_mode("error")
    try:
        y, l_aux, _, _ = layer(x)
        (y.sum() + l_aux).backward()
    finally:
        torch.cuda.set_sync_debug_mode("default")
    assert y.isfinite().all()

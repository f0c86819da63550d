"""Grouped matrix products: the back ends agree, and rows behind the last group stay out of everything."""

import pytest
import torch

from fairseq_mhmoe.moe import grouped
from fairseq_mhmoe.moe.expert_ffn import lay_out, make_slots
from fairseq_mhmoe.moe.grouped import BatchedProducts, GroupedMMProducts, LoopProducts
from tests.torch_features import GROUPED_MM, needs_grouped_mm

IN, OUT = 8, 16
COUNTS = [([3, 1, 4], 0), ([3, 1, 4], 3), ([0, 5, 0], 0), ([0, 5, 0], 3), ([0, 0, 0], 3), ([7, 0, 0], 0)]


def products_of(backend, counts, rows):
    complete = sum(counts) == rows
    if backend == "loop":
        return LoopProducts(torch.tensor(counts), rows, complete, counts)
    return GroupedMMProducts(torch.tensor(counts), rows, complete)


def everything(products, dtype, counts, rows):
    """linear, input_grad, weight_grad, group_sum of the same random tensors."""
    torch.manual_seed(1)
    x, grad = torch.randn(rows, IN, dtype=dtype), torch.randn(rows, OUT, dtype=dtype)
    weight, bias = torch.randn(len(counts), OUT, IN, dtype=dtype), torch.randn(len(counts), OUT, dtype=dtype)
    return {
        "linear": products.linear(x, weight, None),
        "biased": products.linear(x, weight, bias),
        "input_grad": products.input_grad(grad, weight),
        "weight_grad": products.weight_grad(grad, x),
        "group_sum": products.group_sum(grad.clone()),
    }, (x, grad, weight, bias)


@pytest.mark.parametrize("counts, tail", COUNTS)
@pytest.mark.parametrize("backend", ["loop", GROUPED_MM])
def test_equal_one_linear_layer_a_group(backend, counts, tail):
    rows = sum(counts) + tail
    ours, (x, grad, weight, bias) = everything(products_of(backend, counts, rows), torch.float32, counts, rows)
    per_group = list(zip(x.split([*counts, tail]), grad.split([*counts, tail]), weight, bias))
    zero_in, zero_out = x.new_zeros(tail, IN), x.new_zeros(tail, OUT)
    theirs = {
        "linear": torch.cat([a @ w.t() for a, _, w, _ in per_group] + [zero_out]),
        "biased": torch.cat([a @ w.t() + b for a, _, w, b in per_group] + [zero_out]),
        "input_grad": torch.cat([g @ w for _, g, w, _ in per_group] + [zero_in]),
        "weight_grad": torch.stack([g.t() @ a for a, g, _, _ in per_group]),
        "group_sum": torch.stack([g.sum(0) for _, g, _, _ in per_group]),
    }
    for name, expected in theirs.items():
        torch.testing.assert_close(ours[name], expected, rtol=1e-6, atol=1e-6, msg=name)


@needs_grouped_mm
@pytest.mark.parametrize("counts, tail", COUNTS)
def test_half_precision_agrees_too(counts, tail):
    rows = sum(counts) + tail
    loop, _ = everything(products_of("loop", counts, rows), torch.bfloat16, counts, rows)
    by_torch, _ = everything(products_of("grouped_mm", counts, rows), torch.bfloat16, counts, rows)
    for name, expected in loop.items():
        torch.testing.assert_close(by_torch[name], expected, rtol=2e-2, atol=2e-2, msg=name)


def test_batched_products_of_equal_groups_equal_the_loop():
    counts = [4, 4, 4]
    loop, _ = everything(products_of("loop", counts, 12), torch.float32, counts, 12)
    batched, _ = everything(BatchedProducts(torch.tensor(counts), 12, True), torch.float32, counts, 12)
    for name, expected in loop.items():
        torch.testing.assert_close(batched[name], expected, rtol=1e-6, atol=1e-6, msg=name)


@pytest.mark.parametrize("backend", ["loop", GROUPED_MM])
def test_each_row_knows_its_group(backend):
    assert products_of(backend, [2, 0, 1], 5).row_group().tolist() == [0, 0, 2, 2, 2]


def test_each_slot_knows_its_group():
    assert BatchedProducts(torch.tensor([2, 1]), 6, True).row_group().tolist() == [0, 0, 0, 1, 1, 1]


def test_slots_hold_every_row_once():
    slots = make_slots(torch.tensor([2, 0, 1]), rows=5, width=3)
    assert slots.row.tolist() == [0, 1, -1, -1, -1, -1, 2, -1, -1]
    assert slots.of_row.tolist() == [0, 1, 6, -1, -1]


def test_equal_groups_need_no_slots_and_a_known_bound_no_copy_to_the_host():
    counts = torch.tensor([2, 2])
    assert lay_out("bmm", counts, 4, True)[1] is None
    on_meta = counts.to("meta")  # reading it would raise
    products, slots = lay_out("bmm", on_meta, 4, False, most=3)
    assert products.rows == 6 and slots.row.shape == (6,)
    products, _ = lay_out("bmm", on_meta, 4, False, most=100)
    assert products.rows == 8  # no expert has more than all rows


def test_gradients_that_torch_leaves_unwritten_are_zeroed(monkeypatch):
    products = GroupedMMProducts(torch.tensor([2, 0, 3]), 5, True)
    garbage = torch.full((3, OUT, IN), 7.0)
    monkeypatch.setattr(grouped, "torch_grouped_mm", lambda *a, **k: garbage.clone())
    monkeypatch.setattr(grouped, "leaves_empty_groups_unwritten", lambda *device: True)
    result = products.weight_grad(torch.randn(5, OUT), torch.randn(5, IN))
    assert (result[1] == 0).all() and (result[[0, 2]] == 7).all()

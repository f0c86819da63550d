"""Losses and figures of vqa and nlvr2, against plain formulas."""

from types import SimpleNamespace

import pytest
import torch
import torch.nn.functional as F
from fairseq.logging import metrics

from fairseq_mhmoe.criterions.finetuning import NLVR2Loss, VQALoss
from fairseq_mhmoe.integration.empty_batches import blank_batch, is_examples

PAD = 1


def options(**changes):
    defaults = dict(moe_gate_loss_wt=0.5, moe_gate_loss_combine_method="sum", moe_z_loss_wt=0.0)
    defaults |= dict(moe_log_expert_load=False, moe_load_map_interval=0, moe_watch_window=0)
    return SimpleNamespace(**{**defaults, **changes})


def batch(targets, inputs=1):
    rows = len(targets) * inputs
    pair = {"images": torch.ones(rows, 3, 8, 8, dtype=torch.uint8), "tokens": torch.full((rows, 4), 5)}
    return {
        "id": torch.arange(len(targets)),
        "nsentences": len(targets),
        "ntokens": len(targets),
        "net_input": {"pair": pair, "head": "answers"},
        "targets": targets,
    }


def model_of(logits, gate_loss=None):
    """A model that says this, and reports one MoE layer."""

    def forward(pair, head):
        assert head == "answers"
        extra = {} if gate_loss is None else {"l_aux": [gate_loss], "z_loss": [gate_loss * 0], "moe_layers": [1]}
        return logits, {**extra, "moe_stats": [torch.ones(5)]}

    return forward


def logged(criterion, outputs):
    with metrics.aggregate(new_root=True) as values:
        criterion.reduce_metrics(outputs)
    return values.get_smoothed_values()


def test_vqa_is_binary_cross_entropy_of_every_answer():
    torch.manual_seed(0)
    logits = torch.randn(3, 5, requires_grad=True)
    targets = torch.tensor([[1, 0.3, 0, 0, 0], [0, 0, 0.6, 0, 0], [0, 0, 0, 0, 0]], dtype=torch.float64)
    criterion = VQALoss(options(), None)
    loss, size, output = criterion(model_of(logits), batch(targets))
    p = torch.sigmoid(logits.double())
    expected = -(targets * p.log() + (1 - targets) * (1 - p).log()).sum()
    torch.testing.assert_close(loss.double(), expected)
    loss.backward()
    torch.testing.assert_close(logits.grad.double(), p.detach() - targets)
    score = sum(float(targets[row, int(logits[row].argmax())]) for row in range(3))
    found = logged(criterion, [output, output])
    assert size == 3 and found["vqa_score"] == pytest.approx(100 * score / 3, abs=0.01)
    assert found["loss"] == pytest.approx(float(expected) / 3, abs=1e-4)


def test_nlvr2_is_cross_entropy_and_accuracy():
    logits = torch.tensor([[2.0, 0], [0, 1], [3, 0], [0, 0.5]])
    targets = torch.tensor([0, 1, 1, -100])
    loss, size, output = NLVR2Loss(options(), None)(model_of(logits), batch(targets, inputs=2))
    expected = F.cross_entropy(logits[:3], targets[:3], reduction="sum")
    torch.testing.assert_close(loss, expected)
    assert size == 4 and logged(NLVR2Loss, [output])["accuracy"] == 50


def test_the_balance_loss_is_added_in_training_only():
    logits, targets = torch.zeros(2, 2), torch.tensor([0, 1])
    criterion = NLVR2Loss(options(), None)
    gate_loss = torch.tensor(1.25, requires_grad=True)
    training, _, output = criterion(model_of(logits, gate_loss), batch(targets, 2))
    assert float(training - output["task_loss"]) == pytest.approx(0.5 * 1.25 * 2)
    training.backward()
    assert float(gate_loss.grad) == pytest.approx(0.5 * 2)
    criterion.eval()
    evaluation, _, output = criterion(model_of(logits, gate_loss), batch(targets, 2))
    assert float(evaluation) == float(output["task_loss"])
    assert logged(NLVR2Loss, [output])["moe_gate_loss"] == pytest.approx(1.25)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_logits_are_summed_in_float32(dtype):
    logits = torch.zeros(4, 3000, dtype=dtype)
    loss, _, output = VQALoss(options(), None)(model_of(logits), batch(torch.zeros(4, 3000, dtype=torch.float64)))
    assert loss.dtype == torch.float32 and float(loss) == pytest.approx(4 * 3000 * 0.693147, rel=1e-5)


@pytest.mark.parametrize(("kind", "inputs"), [(VQALoss, 1), (NLVR2Loss, 2)])
def test_a_blank_batch_counts_for_nothing(kind, inputs):
    targets = torch.ones(3, 2, dtype=torch.float64) if inputs == 1 else torch.tensor([0, 1, 1])
    sample = batch(targets, inputs)
    assert is_examples(sample)
    blank = blank_batch(sample, PAD)
    pair = blank["net_input"]["pair"]
    assert pair["images"].shape[0] == pair["tokens"].shape[0] == inputs and pair["blank"]
    assert (pair["tokens"] == PAD).all() and (pair["images"] == 0).all() and blank["nsentences"] == 0
    assert (sample["net_input"]["pair"]["tokens"] == 5).all()
    logits = torch.ones(1, 2, requires_grad=True)
    loss, size, output = kind(options(), None)(model_of(logits, torch.tensor(1.0)), blank)
    loss.backward()
    assert (float(loss), size, float(output["score"]), float(logits.grad.abs().sum())) == (0, 0, 0, 0)
    assert logged(kind, [output]) == {}

"""The loss of captions: BEiT-3's smoothing, the worst left out, the masked positions alone."""

import math
from types import SimpleNamespace

import pytest
import torch

from fairseq_mhmoe.criterions.captioning import Captioning, CaptioningConfig, smoothed_cross_entropy


def criterion(**options):
    cfg = CaptioningConfig(moe_load_map_interval=0, moe_watch_window=0)
    for name, value in options.items():
        setattr(cfg, name, value)
    return Captioning(cfg, SimpleNamespace(source_dictionary=None))


def sample(positions, size=5):
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(positions, size, generator=generator, requires_grad=True)
    targets = torch.randint(size, (positions,), generator=generator)
    batch = {"net_input": {"pair": {}}, "targets": {"pair": {"text": targets}}, "nsentences": 2}
    return (lambda pair: ({"pair": {"text": logits}}, {})), batch, logits, targets


def test_smoothing_is_that_of_a_mixture_of_targets():
    _, _, logits, targets = sample(6)
    of_each, nll, correct = smoothed_cross_entropy(logits, targets, 0.1)
    wanted = torch.full((6, 5), 0.1 / 4)
    wanted[torch.arange(6), targets] = 0.9
    torch.testing.assert_close(of_each, torch.nn.functional.cross_entropy(logits, wanted, reduction="none"))
    torch.testing.assert_close(nll, torch.nn.functional.cross_entropy(logits, targets, reduction="sum").detach())
    assert float(correct) == sum(int(row.argmax()) == target for row, target in zip(logits, targets, strict=True))


def test_training_is_smoothed_and_evaluation_is_not():
    model, batch, logits, targets = sample(6)
    of_captions = criterion(label_smoothing=0.1)
    loss, size, logged = of_captions.train()(model, batch)
    assert size == logged["ntokens"] == 6
    torch.testing.assert_close(loss, smoothed_cross_entropy(logits, targets, 0.1)[0].sum())
    loss, _, logged = of_captions.eval()(model, batch)
    torch.testing.assert_close(loss.detach(), logged["nll_loss"])


def test_the_worst_are_left_out_of_training_after_some_updates():
    model, batch, logits, targets = sample(10)
    of_captions = criterion(label_smoothing=0.0, drop_worst_ratio=0.2, drop_worst_after=5)
    losses = torch.nn.functional.cross_entropy(logits, targets, reduction="none").sort().values
    for update, kept in ((5, 10), (6, 8)):
        of_captions.update = update
        loss, size, logged = of_captions.train()(model, batch)
        assert size == kept and logged["ntokens"] == 10
        torch.testing.assert_close(loss, losses[:kept].sum())
        torch.testing.assert_close(logged["nll_loss"], losses.sum().detach())
    assert of_captions.eval()(model, batch)[1] == 10


def test_a_batch_without_positions_has_a_loss_of_0_and_a_graph():
    model, batch, logits, _ = sample(0)
    loss, size, _ = criterion(drop_worst_ratio=0.2)(model, batch)
    loss.backward()
    assert size == 0 and float(loss) == 0 and logits.grad is not None


def test_half_precision_is_added_up_in_single():
    logits = torch.randn(4, 300, dtype=torch.bfloat16)
    of_each, nll, _ = smoothed_cross_entropy(logits, torch.tensor([1, 2, 3, 4]), 0.1)
    assert of_each.dtype == nll.dtype == torch.float32
    torch.testing.assert_close(of_each, smoothed_cross_entropy(logits.float(), torch.tensor([1, 2, 3, 4]), 0.1)[0])


@pytest.mark.parametrize(
    "options, words",
    [
        ({"label_smoothing": 1.0}, "--label-smoothing 1.0"),
        ({"label_smoothing": math.nan}, "--label-smoothing nan"),
        ({"drop_worst_ratio": 1.0}, "--drop-worst-ratio 1.0"),
        ({"drop_worst_after": 3}, "--drop-worst-after 3: .* with --drop-worst-ratio"),
    ],
)
def test_options_that_can_not_be(options, words):
    with pytest.raises(ValueError, match=words):
        criterion(**options)

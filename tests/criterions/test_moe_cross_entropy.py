"""The loss and its logging outputs, with a model whose output is written down here."""

import logging
import math
import types

import pytest
import torch
import torch.nn.functional as F
from fairseq.models import BaseFairseqModel

from fairseq_mhmoe.criterions.moe_cross_entropy import MoECrossEntropy

PAD = 1
VOCABULARY = 5
TARGET = torch.tensor([[2, 3, 4], [4, 2, PAD]])
TOKENS = 5
OPTIONS = dict(
    moe_gate_loss_wt=0.0,
    moe_gate_loss_combine_method="sum",
    moe_z_loss_wt=0.0,
    moe_log_expert_load=False,
    moe_load_map_interval=500,
    moe_watch_window=100,
    chunked_cross_entropy=False,
    cross_entropy_chunk=256,
    sentence_avg=False,
)


class FixedModel(BaseFairseqModel):
    """Gives the same logits always, and two MoE layers (1 and 3) of 4 experts unless it is dense."""

    def __init__(self, dense=False):
        super().__init__()
        torch.manual_seed(0)
        self.logits = torch.nn.Parameter(torch.randn(*TARGET.shape, VOCABULARY))
        self.aux = torch.nn.Parameter(torch.tensor([1.5, 1.25]))
        self.dense = dense

    def forward(self, src_tokens, **unused):
        if self.dense:
            return self.logits, {"attn": [None]}
        stats = torch.tensor([4.0, 2.0, 1.0, 1.0, 8.0, 2.0, 6.0])
        extra = {
            "l_aux": list(self.aux),
            "z_loss": [self.aux[0] * 2, self.aux[1] * 2],
            "moe_stats": [stats, 2 * stats],
            "moe_layers": [1, 3],
        }
        return self.logits, extra

    def get_normalized_probs(self, net_output, log_probs, sample=None):
        assert log_probs
        return F.log_softmax(net_output[0], dim=-1)

    def get_targets(self, sample, net_output):
        return sample["target"]


@pytest.fixture
def sample():
    return {"net_input": {"src_tokens": TARGET}, "target": TARGET, "ntokens": TOKENS}


def criterion(training=True, **options):
    task = types.SimpleNamespace(target_dictionary=types.SimpleNamespace(pad=lambda: PAD), source_names=["en", "de"])
    return MoECrossEntropy(types.SimpleNamespace(**{**OPTIONS, **options}), task).train(training)


def nll_by_hand(model):
    log_probs = model.logits.log_softmax(-1)
    return -sum(log_probs[b, t, TARGET[b, t]] for b in range(2) for t in range(3) if TARGET[b, t] != PAD)


@pytest.mark.parametrize(
    ("options", "extra"),
    [
        ({}, 0.0),
        ({"moe_gate_loss_wt": 0.1}, 0.1 * TOKENS * 2.75),
        ({"moe_gate_loss_wt": 0.1, "moe_gate_loss_combine_method": "average"}, 0.1 * TOKENS * 1.375),
        ({"moe_z_loss_wt": 0.01}, 0.01 * TOKENS * 5.5),
        ({"moe_z_loss_wt": 0.01, "moe_gate_loss_combine_method": "average"}, 0.01 * TOKENS * 2.75),
        ({"moe_gate_loss_wt": 0.1, "moe_z_loss_wt": 0.01, "sentence_avg": True}, 2 * (0.275 + 0.055)),
    ],
)
def test_loss_is_nll_plus_weighted_extra_losses(sample, options, extra):
    model = FixedModel()
    loss, sample_size, _ = criterion(**options)(model, sample)
    assert loss.item() == pytest.approx((nll_by_hand(model) + extra).item(), rel=1e-6)
    assert sample_size == (2 if options.get("sentence_avg") else TOKENS)


def test_evaluation_is_plain_nll(sample):
    model = FixedModel()
    loss, _, output = criterion(training=False, moe_gate_loss_wt=0.1, moe_z_loss_wt=0.1)(model, sample)
    assert loss.item() == pytest.approx(nll_by_hand(model).item(), rel=1e-6)
    assert output["loss"] == output["nll_loss"]
    assert "moe_l1_stats" in output


def test_unreduced_is_nll_per_position(sample):
    loss, _, _ = criterion(moe_gate_loss_wt=0.1)(FixedModel(), sample, reduce=False)
    assert loss.shape == (6,)
    assert loss[-1] == 0


def test_extra_losses_have_gradients(sample):
    model = FixedModel()
    criterion(moe_gate_loss_wt=0.1, moe_z_loss_wt=0.01)(model, sample)[0].backward()
    assert model.aux.grad.tolist() == pytest.approx([TOKENS * (0.1 + 0.02)] * 2)


def test_a_weight_of_zero_keeps_an_infinite_loss_out(sample):
    model = FixedModel()
    model.aux.data.fill_(math.inf)
    assert criterion()(model, sample)[0].isfinite()


def test_logging_outputs_are_sums_without_gradient(sample):
    _, _, output = criterion(moe_gate_loss_wt=0.1)(FixedModel(), sample)
    assert output["moe_gate_loss"] == pytest.approx(2.75 * TOKENS)
    assert output["moe_z_loss"] == pytest.approx(5.5 * TOKENS)
    assert output["moe_l3_gate_loss"] == pytest.approx(1.25 * TOKENS)
    assert output["ntokens"] == TOKENS
    assert not any(torch.is_tensor(value) and value.requires_grad for value in output.values())
    assert MoECrossEntropy.logging_outputs_can_be_summed()


@pytest.mark.parametrize("reduce", [True, False])
def test_sources_change_neither_loss_nor_gradients(sample, reduce):
    results = []
    for more in ({}, {"source": torch.tensor([1, 0]), "nbytes": torch.tensor([6.0, 4.0])}):
        model = FixedModel()
        loss, _, output = criterion(moe_gate_loss_wt=0.1)(model, {**sample, **more}, reduce)
        loss.sum().backward()
        results.append((loss, model.logits.grad, model.aux.grad if reduce else None, output))
    (loss, *gradients, without), (found, *found_gradients, output) = results
    assert torch.equal(loss, found)
    assert all(a is b is None or torch.equal(a, b) for a, b in zip(gradients, found_gradients))
    sums = output.pop("source_sums:en,de")
    assert output.keys() == without.keys() and not sums.requires_grad
    assert sums[0].sum() == pytest.approx(nll_by_hand(model).item(), rel=1e-6)
    assert sums[1:].tolist() == [[2, 3], [4, 6]]


def test_bytes_without_sources_are_logged_for_all(sample):
    _, _, output = criterion()(FixedModel(), {**sample, "nbytes": torch.tensor([6.0, 4.0])})
    assert output["source_sums:"][1:].tolist() == [[TOKENS], [10]]


@pytest.mark.parametrize("weight", [-0.01, math.nan, math.inf])
@pytest.mark.parametrize("option", ["moe_gate_loss_wt", "moe_z_loss_wt"])
def test_impossible_weights_are_refused(option, weight):
    with pytest.raises(ValueError, match=f"--{option.replace('_', '-')} {weight}: expected a number of 0 or more"):
        criterion(**{option: weight})


def test_an_unknown_way_to_combine_is_refused():
    with pytest.raises(ValueError, match="--moe-gate-loss-combine-method max: expected one of sum, average"):
        criterion(moe_gate_loss_combine_method="max")


def test_a_dense_model_warns_once_about_options_without_effect(sample, caplog):
    dense = criterion(
        moe_z_loss_wt=0.1, moe_log_expert_load=True, moe_gate_loss_wt=0.5, moe_gate_loss_combine_method="average",
        moe_load_map_interval=20, moe_watch_window=30,
    )  # fmt: skip
    with caplog.at_level(logging.WARNING):
        for _ in range(2):
            dense(FixedModel(dense=True), sample)
    assert [record.getMessage() for record in caplog.records] == [
        "no effect on a model without MoE layers: "
        "--moe-gate-loss-wt, --moe-gate-loss-combine-method, --moe-z-loss-wt, --moe-log-expert-load, "
        "--moe-load-map-interval, --moe-watch-window"
    ]


@pytest.mark.parametrize("option", ["moe_load_map_interval", "moe_watch_window"])
def test_a_negative_number_of_updates_is_refused(option):
    with pytest.raises(ValueError, match=f"--{option.replace('_', '-')} -1: expected a number of updates, 0 for never"):
        criterion(**{option: -1})


def test_a_dense_model_with_defaults_is_quiet(sample, caplog):
    model = FixedModel(dense=True)
    loss, _, output = criterion(moe_gate_loss_wt=0.01)(model, sample)
    assert loss.item() == pytest.approx(nll_by_hand(model).item(), rel=1e-6)
    assert not caplog.records
    assert not any(key.startswith("moe") for key in output)

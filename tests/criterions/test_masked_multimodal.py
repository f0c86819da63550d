"""The loss of masked positions in three streams, with a model whose output is written down here."""

import math
from types import SimpleNamespace

import pytest
import torch
from fairseq.logging import metrics
from fairseq.models import BaseFairseqModel
from hypothesis import given
from hypothesis import strategies as st

from fairseq_mhmoe.criterions.masked_multimodal import MaskedMultimodal
from fairseq_mhmoe.criterions.stream_metrics import KEY, masked_cross_entropy

CODES, WORDS = 6, 5
TARGETS = {
    "image": {"image": [1, 5, 2]},
    "text": {"text": [4, 0]},
    "pair": {"image": [3], "text": [2, 2, 1, 0]},
}
COUNTS = {"image": 3, "text": 2, "pair": 5}
OPTIONS = dict(
    moe_gate_loss_wt=0.0,
    moe_gate_loss_combine_method="sum",
    moe_z_loss_wt=0.0,
    moe_log_expert_load=False,
    moe_load_map_interval=500,
    moe_watch_window=100,
    image_loss_weight=1.0,
    text_loss_weight=1.0,
    pair_loss_weight=1.0,
)
STATS = torch.tensor([4.0, 2.0, 1.0, 1.0, 8.0, 2.0, 6.0])


class FixedModel(BaseFairseqModel):
    """Gives the same logits always; with labels, MoE layers of 4 experts of these names."""

    def __init__(self, labels=(), dtype=torch.float32):
        super().__init__()
        generator = torch.Generator().manual_seed(0)
        self.logits = torch.nn.ParameterDict()
        for stream, parts in TARGETS.items():
            for modality, targets in parts.items():
                logits = torch.randn(len(targets), CODES if modality == "image" else WORDS, generator=generator)
                self.logits[f"{stream}_{modality}"] = torch.nn.Parameter(logits.to(dtype))
        self.aux = torch.nn.Parameter(torch.arange(1.0, 1 + len(labels)))
        self.labels = labels

    def forward(self, **streams):
        out = {
            stream: {modality: self.logits[f"{stream}_{modality}"] for modality in TARGETS[stream]}
            for stream, given in streams.items()
            if given is not None
        }
        extra = {"l_aux": list(self.aux), "z_loss": list(2 * self.aux), "moe_layers": list(self.labels)}
        return out, {**extra, "moe_stats": [STATS] * len(self.labels)}


def batch(*streams):
    """A batch of the task with these streams."""
    streams = streams or tuple(TARGETS)
    targets = {
        stream: {modality: torch.tensor(values) for modality, values in TARGETS[stream].items()} for stream in streams
    }
    return {
        "net_input": {stream: {} if stream in streams else None for stream in TARGETS},
        "targets": targets,
        "nsentences": len(streams),
        "ntokens": sum(COUNTS[stream] for stream in streams),
    }


def criterion(training=True, **options):
    task = SimpleNamespace(target_dictionary=None)
    return MaskedMultimodal(SimpleNamespace(**{**OPTIONS, **options}), task).train(training)


def nll_by_hand(model, stream):
    total = 0.0
    for modality, targets in TARGETS[stream].items():
        for row, target in zip(model.logits[f"{stream}_{modality}"].double(), targets, strict=True):
            total += float(row.logsumexp(0) - row[target])
    return total


@given(
    weights=st.fixed_dictionaries({stream: st.sampled_from([0.0, 0.5, 1.0, 3.0]) for stream in TARGETS}).filter(
        lambda weights: any(weights.values())
    ),
    streams=st.sets(st.sampled_from(sorted(TARGETS)), min_size=1),
    training=st.booleans(),
)
def test_loss_is_the_weighted_sum_of_the_streams(weights, streams, training):
    model = FixedModel()
    options = {f"{stream}_loss_weight": weight for stream, weight in weights.items()}
    loss, sample_size, output = criterion(training, **options)(model, batch(*sorted(streams)))
    counted = {stream for stream in streams if weights[stream]}
    used = {stream: weights[stream] if training else 1.0 for stream in counted}
    assert float(loss) == pytest.approx(sum(used[s] * nll_by_hand(model, s) for s in counted), rel=1e-5)
    assert sample_size == sum(used[stream] * COUNTS[stream] for stream in counted)
    assert output["ntokens"] == sum(COUNTS[stream] for stream in counted)
    assert float(output["nll_loss"]) == pytest.approx(sum(nll_by_hand(model, s) for s in counted), rel=1e-5)
    assert output[KEY][1].sum() == sum(COUNTS[stream] for stream in streams)


@pytest.mark.parametrize("stream", TARGETS)
def test_a_weight_of_zero_gives_no_gradient_but_keeps_the_graph(stream):
    model = FixedModel()
    criterion(**{f"{stream}_loss_weight": 0.0})(model, batch(stream))[0].backward()
    of_stream = [p.grad for name, p in model.logits.items() if name.startswith(stream)]
    assert all(grad is not None and not grad.any() for grad in of_stream)


def test_an_infinite_loss_of_weight_zero_is_left_out():
    model = FixedModel()
    model.logits["image_image"].data[:] = math.inf
    loss, _, _ = criterion(image_loss_weight=0.0)(model, batch())
    loss.backward()
    assert loss.isfinite() and model.logits["text_text"].grad.isfinite().all()


def test_two_batches_give_the_gradient_of_one():
    # as two processes: sums of losses over the sum of sample sizes
    whole, parts = FixedModel(), FixedModel()
    weighted = criterion(image_loss_weight=0.25, pair_loss_weight=2.0)
    loss, size, _ = weighted(whole, batch())
    (loss / size).backward()
    sizes = []
    for streams in (("image",), ("text", "pair")):
        loss, size, _ = weighted(parts, batch(*streams))
        loss.backward()
        sizes.append(size)
    for name, parameter in whole.logits.items():
        torch.testing.assert_close(parts.logits[name].grad / sum(sizes), parameter.grad)


def test_a_batch_of_no_position_is_zero_with_a_gradient():
    model = FixedModel(["1"])
    sample = batch("text")
    sample["targets"] = {}
    loss, sample_size, output = criterion(moe_gate_loss_wt=0.1)(model, sample)
    loss.backward()
    assert float(loss) == sample_size == output["ntokens"] == 0
    assert not model.logits["text_text"].grad.any()


def test_keys_and_shapes_do_not_depend_on_the_streams():
    # ranks add them up by name
    outputs = [criterion()(FixedModel(["1_image", "1_text"]), batch(stream))[2] for stream in TARGETS]
    for output in outputs[1:]:
        assert list(output) == list(outputs[0])
        for key, value in output.items():
            assert torch.as_tensor(value).shape == torch.as_tensor(outputs[0][key]).shape
    assert not any(torch.is_tensor(value) and value.requires_grad for value in outputs[0].values())
    assert MaskedMultimodal.logging_outputs_can_be_summed()


def test_extra_losses_are_for_training_only():
    model = FixedModel(["1", "3"])
    weights = dict(moe_gate_loss_wt=0.1, moe_z_loss_wt=0.01)
    nll = sum(nll_by_hand(model, stream) for stream in TARGETS)
    loss, size, _ = criterion(**weights)(model, batch())
    assert float(loss) == pytest.approx(nll + size * (0.1 * 3 + 0.01 * 6), rel=1e-5)
    assert float(criterion(training=False, **weights)(model, batch())[0]) == pytest.approx(nll, rel=1e-5)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_is_summed_in_float32(dtype):
    logits = torch.randn(4000, 50, generator=torch.Generator().manual_seed(1)).to(dtype)
    targets = torch.arange(4000) % 50
    nll, correct = masked_cross_entropy(logits, targets)
    expected, _ = masked_cross_entropy(logits.double(), targets)
    assert nll.dtype == torch.float32 and float(nll) == pytest.approx(float(expected), rel=1e-5)
    assert float(correct) == sum(logits.argmax(1) == targets)


@pytest.fixture(autouse=True)
def fresh_meters():
    metrics.reset()
    yield
    metrics.reset()


def logged(*steps):
    """What the log shows after these steps, each a list of logging outputs."""
    with metrics.aggregate("valid") as aggregate:
        for outputs in steps:
            MaskedMultimodal.reduce_metrics(outputs)
        return dict(aggregate.get_smoothed_values())


def test_the_perplexity_is_that_of_all_masked_positions():
    model = FixedModel()
    outputs = [criterion(training=False)(model, batch(*streams))[2] for streams in (("image",), ("text", "pair"))]
    nll = {stream: nll_by_hand(model, stream) for stream in TARGETS}
    values = logged(outputs)
    assert values["ppl"] == pytest.approx(math.exp(sum(nll.values()) / 10), abs=0.01)
    assert float(values["loss"]) == pytest.approx(sum(nll.values()) / 10 / math.log(2), abs=1e-3)
    assert values["stream_image_ppl"] == pytest.approx(math.exp(nll["image"] / 3), abs=0.01)
    assert values["stream_text_loss"] == pytest.approx(nll["text"] / 2 / math.log(2), abs=1e-3)
    of_pair = -model.logits["pair_text"].log_softmax(1)[range(4), TARGETS["pair"]["text"]].sum().item()
    assert values["stream_pair_text_ppl"] == pytest.approx(math.exp(of_pair / 4), abs=0.01)
    assert values["ppl_text"] == pytest.approx(math.exp((nll["text"] + of_pair) / 6), abs=0.01)
    assert values["ppl_image"] == pytest.approx(math.exp((nll["image"] + nll["pair"] - of_pair) / 4), abs=0.01)
    assert [values[f"stream_{part}_masked"] for part in ("image", "text", "pair_image", "pair_text")] == [3, 2, 1, 4]


def test_accuracy_counts_the_largest_logit():
    model = FixedModel()
    for name, logits in model.logits.items():
        stream, modality = name.split("_")
        logits.data.zero_()
        logits.data[range(len(logits)), TARGETS[stream][modality]] = 9.0
    model.logits["pair_text"].data[0] = torch.tensor([9.0, 0, 0, 0, 0])
    values = logged([criterion()(model, batch())[2]])
    assert values["stream_pair_text_accuracy"] == 0.75 and values["stream_image_accuracy"] == 1
    assert values["accuracy_text"] == pytest.approx(5 / 6, abs=1e-4) and values["accuracy_image"] == 1


def test_batches_and_ranks_add_up():
    model = FixedModel(["1"])
    first, second = (criterion()(model, batch(*streams))[2] for streams in (("image",), ("text", "pair")))
    together = logged([first, second])
    metrics.reset()
    assert logged([first], [second]) == together
    metrics.reset()
    assert logged([{key: first[key] + second[key] for key in first}]) == together
    assert together["moe_l1_dead_share"] == 0


def test_a_stream_that_is_not_there_has_no_figures():
    values = logged([criterion()(FixedModel(), batch("image"))[2]])
    assert values["stream_text_ppl"] is None and values["ppl_text"] is None
    assert values["stream_image_masked"] == 3


def test_sets_of_experts_are_logged_by_modality():
    values = logged([criterion()(FixedModel(["1_image", "1_text", "3"]), batch())[2]])
    assert values["moe_l1_image_load_max"] == values["moe_l1_text_load_max"] == values["moe_load_max"] == 2.0


@pytest.mark.parametrize("weight", [-1.0, math.nan, math.inf])
@pytest.mark.parametrize("option", ["image_loss_weight", "text_loss_weight", "pair_loss_weight"])
def test_impossible_weights_are_refused(option, weight):
    with pytest.raises(ValueError, match=f"--{option.replace('_', '-')} {weight}: expected a number of 0 or more"):
        criterion(**{option: weight})


def test_three_weights_of_zero_are_refused():
    with pytest.raises(ValueError, match="are all 0: nothing would be learnt"):
        criterion(image_loss_weight=0, text_loss_weight=0, pair_loss_weight=0)

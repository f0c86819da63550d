"""--chunked-cross-entropy in the criterion: a real model's loss and gradients are those without it."""

import dataclasses
import logging
from types import SimpleNamespace

import pytest
import torch
from fairseq.data import Dictionary
from fairseq.models.transformer_lm import TransformerLanguageModel, TransformerLanguageModelConfig

from fairseq_mhmoe.criterions import moe_cross_entropy
from fairseq_mhmoe.criterions.moe_cross_entropy import MoECrossEntropy
from fairseq_mhmoe.integration.empty_batches import blank_batch
from fairseq_mhmoe.models.decoder import MoEDecoder
from fairseq_mhmoe.models.language_model import MHMoELanguageModel
from fairseq_mhmoe.models.options import MHMoELanguageModelConfig

VOCABULARY = 50
OPTIONS = dict(
    moe_gate_loss_wt=0.01,
    moe_gate_loss_combine_method="sum",
    moe_z_loss_wt=0.0,
    moe_log_expert_load=False,
    moe_load_map_interval=500,
    moe_watch_window=100,
    chunked_cross_entropy=True,
    cross_entropy_chunk=3,
    sentence_avg=False,
)
SMALL = dict(
    decoder_embed_dim=16,
    decoder_ffn_embed_dim=16,
    decoder_layers=2,
    decoder_attention_heads=2,
    decoder_normalize_before=True,
    dropout=0.0,
    moe_freq=2,
    moe_expert_count=4,
    tokens_per_sample=16,
    max_target_positions=16,
)
KINDS = [{}, dict(share_decoder_input_output_embed=True), dict(checkpoint_activations=True)]


@pytest.fixture(scope="module")
def task():
    words = Dictionary()
    for i in range(VOCABULARY - len(words)):
        words.add_symbol(f"w{i}")
    return SimpleNamespace(source_dictionary=words, target_dictionary=words)


@pytest.fixture
def model(task):
    return build(task)


def build(task, **options):
    torch.manual_seed(0)
    return MHMoELanguageModel.build_model(MHMoELanguageModelConfig(**{**SMALL, **options}), task)


@pytest.fixture
def sample(task):
    """Three texts of 7, 5 and 1 tokens."""
    pad = task.target_dictionary.pad()
    tokens = torch.randint(4, VOCABULARY, (3, 8), generator=torch.Generator().manual_seed(0))
    source, target = tokens[:, :-1].clone(), tokens[:, 1:].clone()
    for row, length in enumerate((7, 5, 1)):
        source[row, length:] = target[row, length:] = pad
    return {"net_input": {"src_tokens": source}, "target": target, "ntokens": 13, "nsentences": 3}


def losses(task, model, sample, training=True, reduce=True, **options):
    """Loss, logging output and the gradients of a model's parameters."""
    model.zero_grad()
    criterion = MoECrossEntropy(SimpleNamespace(**{**OPTIONS, **options}), task).train(training)
    with torch.set_grad_enabled(training):
        loss, _, output = criterion(model.train(training), sample, reduce)
    if training:
        loss.sum().backward()
    return loss, output, {name: p.grad for name, p in model.named_parameters() if p.grad is not None}


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("reduce", [True, False])
@pytest.mark.parametrize("options", KINDS)
def test_losses_and_gradients_are_those_without_the_option(task, sample, options, reduce, training):
    model = build(task, **options)
    plain = losses(task, model, sample, training, reduce, chunked_cross_entropy=False, cross_entropy_chunk=256)
    chunked = losses(task, model, sample, training, reduce)
    torch.testing.assert_close(chunked, plain, rtol=1e-6, atol=1e-6)
    assert bool(plain[2]) == training


def test_a_batch_of_pads_alone_counts_for_nothing(task, model, sample):
    task = SimpleNamespace(**vars(task), source_names=["a", "b"])
    more = {"source": torch.tensor([1, 0, 1]), "nbytes": torch.tensor([70.0, 50.0, 10.0])}
    blank = blank_batch({**sample, **more}, task.target_dictionary.pad())
    loss, output, gradients = losses(task, model, blank)
    assert loss == 0 and output["nll_loss"] == 0
    assert output["source_sums:a,b"].tolist() == [[0, 0]] * 3
    assert not any(gradient.any() for gradient in gradients.values())


@pytest.mark.parametrize("training", [True, False])
def test_the_model_is_not_asked_for_logits(task, model, sample, monkeypatch, training):
    monkeypatch.delattr(MoEDecoder, "output_layer")
    losses(task, model, sample, training)
    with pytest.raises(NotImplementedError):
        losses(task, model, sample, training, chunked_cross_entropy=False)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("reduce", [True, False])
def test_sums_by_source_are_those_without_the_option(task, model, sample, dtype, training, reduce):
    task = SimpleNamespace(**vars(task), source_names=["a", "b"])
    sample = {**sample, "source": torch.tensor([1, 0, 1]), "nbytes": torch.tensor([70.0, 50.0, 10.0])}
    model = model.to(dtype)
    loss, output, gradients = losses(task, model, sample, training, reduce)
    plain, expected, _ = losses(task, model, sample, training, reduce, chunked_cross_entropy=False)
    torch.testing.assert_close(output["source_sums:a,b"], expected["source_sums:a,b"], rtol=1e-6, atol=0)
    torch.testing.assert_close(loss, plain, rtol=1e-6, atol=1e-6)
    assert output["source_sums:a,b"][1:].tolist() == [[5, 8], [50, 80]]
    without = losses(task, model, {k: v for k, v in sample.items() if k not in ("source", "nbytes")}, training, reduce)
    for name, gradient in gradients.items():
        torch.testing.assert_close(gradient, without[2][name], rtol=1e-5, atol=1e-7)


def test_the_chunk_is_that_of_the_option(task, model, sample, monkeypatch):
    seen, original = [], moe_cross_entropy.chunked_cross_entropy
    monkeypatch.setattr(
        moe_cross_entropy, "chunked_cross_entropy", lambda *args: seen.append(args[4]) or original(*args)
    )
    losses(task, model, sample, cross_entropy_chunk=7)
    assert seen == [7]


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_a_model_in_half_precision_has_the_loss_without_the_option(task, model, sample, dtype):
    model = model.to(dtype)
    chunked, _, gradients = losses(task, model, sample)
    plain, _, expected = losses(task, model, sample, chunked_cross_entropy=False)
    assert chunked.dtype == torch.float32
    torch.testing.assert_close(chunked, plain, rtol=1e-6, atol=0)
    for name, gradient in expected.items():
        assert (gradients[name] - gradient).norm() <= 2 * torch.finfo(dtype).eps * gradient.norm(), name


@pytest.mark.parametrize("chunk", [0, -4])
def test_impossible_chunks_are_refused(task, chunk):
    with pytest.raises(ValueError, match=f"--cross-entropy-chunk {chunk}: expected a number of tokens"):
        MoECrossEntropy(SimpleNamespace(**{**OPTIONS, "cross_entropy_chunk": chunk}), task)


@pytest.mark.parametrize("options, warned", [({}, False), (dict(chunked_cross_entropy=False), True)])
def test_a_chunk_without_the_option_warns(task, caplog, options, warned):
    with caplog.at_level(logging.WARNING):
        MoECrossEntropy(SimpleNamespace(**{**OPTIONS, **options}), task)
    assert ("--cross-entropy-chunk has no effect without --chunked-cross-entropy" in caplog.text) == warned


def test_the_defaults_are_quiet(task, caplog):
    fields = {f.name: f.default for f in dataclasses.fields(moe_cross_entropy.MoECrossEntropyConfig)}
    with caplog.at_level(logging.WARNING):
        MoECrossEntropy(SimpleNamespace(**{**{name: fields[name] for name in OPTIONS}, "sentence_avg": False}), task)
    assert not caplog.records


@pytest.mark.parametrize(
    "options, message",
    [
        ({}, "expected a model of fairseq_mhmoe, got TransformerLanguageModel.*leave the option out"),
        (dict(adaptive_softmax_cutoff="10,20"), "adaptive softmax; leave out one of the two"),
    ],
)
def test_other_models_are_refused(task, sample, options, message):
    cfg = TransformerLanguageModelConfig(
        decoder_embed_dim=16, decoder_output_dim=16, decoder_input_dim=16, decoder_ffn_embed_dim=16,
        decoder_layers=1, decoder_attention_heads=2, tokens_per_sample=16, max_target_positions=16, **options,
    )  # fmt: skip
    model = TransformerLanguageModel.build_model(cfg, task)
    with pytest.raises(ValueError, match=f"--chunked-cross-entropy: .*{message}"):
        losses(task, model, sample)

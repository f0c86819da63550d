"""The loss by chunks: that of all tokens at once, its gradients, and what is never made. S tokens, D width, V words."""

import pytest
import torch
import torch.nn.functional as F
from torch.profiler import ProfilerActivity, profile

from fairseq_mhmoe.criterions import chunked_cross_entropy as module
from fairseq_mhmoe.criterions.chunked_cross_entropy import chunked_cross_entropy, own_chunked_cross_entropy

PAD = 1
TOKENS, WIDTH, VOCABULARY = 10, 8, 40
WAYS = [
    pytest.param(
        chunked_cross_entropy,
        id="torch",
        marks=pytest.mark.skipif(module.LinearCrossEntropyOptions is None, reason="torch is too old for its own"),
    ),
    pytest.param(own_chunked_cross_entropy, id="own"),
]


def inputs(dtype=torch.float32, tokens=TOKENS, width=WIDTH, vocabulary=VOCABULARY):
    """Features, weight and targets, some of them pads."""
    generator = torch.Generator().manual_seed(0)
    features = torch.randn(tokens, width, generator=generator).to(dtype).requires_grad_()
    weight = torch.randn(vocabulary, width, generator=generator).to(dtype).requires_grad_()
    target = torch.randint(2, vocabulary, (tokens,), generator=generator)
    target[::4] = PAD
    return features, weight, target


def plain(features, weight, target, reduce=True):
    """What fairseq does: the softmax in float32, of all tokens; in float64 if the features are."""
    exact = torch.promote_types(features.dtype, torch.float32)
    log_probs = F.linear(features, weight).log_softmax(-1, dtype=exact)
    return F.nll_loss(log_probs, target, ignore_index=PAD, reduction="sum" if reduce else "none")


def gradients(loss, features, weight, scale=1.0):
    return torch.autograd.grad((loss * scale).sum(), (features, weight))


def error(found, expected):
    return ((found.double() - expected.double()).norm() / expected.double().norm()).item()


@pytest.mark.parametrize("reduce", [True, False])
@pytest.mark.parametrize("chunk", [1, 3, 5, TOKENS, 100])
@pytest.mark.parametrize("way", WAYS)
def test_losses_and_gradients_are_those_of_all_tokens_at_once(way, chunk, reduce):
    features, weight, target = inputs()
    scale = 2.5 if reduce else torch.arange(TOKENS) - 3.0
    found = way(features, weight, target, PAD, chunk, reduce)
    expected = plain(features, weight, target, reduce)
    assert found.dtype == expected.dtype and found.shape == expected.shape
    torch.testing.assert_close(found, expected, rtol=1e-6, atol=1e-6)
    for one, other in zip(gradients(found, features, weight, scale), gradients(expected, features, weight, scale)):
        assert error(one, other) < 1e-6


@pytest.mark.parametrize("reduce", [True, False])
def test_own_gradients_are_the_derivatives(reduce):
    features, weight, target = inputs(torch.float64, 5, 3, 7)
    assert torch.autograd.gradcheck(
        lambda x, w: own_chunked_cross_entropy(x, w, target, PAD, 2, reduce), (features, weight)
    )


@pytest.mark.parametrize("reduce", [True, False])
@pytest.mark.parametrize("way", WAYS)
def test_pads_alone_have_neither_loss_nor_gradient(way, reduce):
    features, weight, target = inputs()
    loss = way(features, weight, torch.full_like(target, PAD), PAD, 4, reduce)
    assert not loss.any()
    assert not any(gradient.any() for gradient in gradients(loss, features, weight))


def test_without_torchs_function_ours_is_used(monkeypatch):
    features, weight, target = inputs()
    expected = chunked_cross_entropy(features, weight, target, PAD, 4)
    monkeypatch.setattr(module, "LinearCrossEntropyOptions", None)
    monkeypatch.setattr(F, "linear_cross_entropy", None, raising=False)
    torch.testing.assert_close(chunked_cross_entropy(features, weight, target, PAD, 4), expected)


@pytest.mark.parametrize("reduce", [True, False])
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_is_as_exact_as_without_chunks(dtype, reduce):
    features, weight, target = inputs(dtype, tokens=512, vocabulary=100)
    exact = [tensor.detach().double().requires_grad_() for tensor in (features, weight)]
    truth = gradients(plain(*exact, target), *exact)
    by_chunks = chunked_cross_entropy(features, weight, target, PAD, 8, reduce)
    at_once = plain(features, weight, target, reduce)
    assert by_chunks.dtype == torch.float32
    torch.testing.assert_close(by_chunks, at_once, rtol=1e-6, atol=1e-6)
    pairs = gradients(by_chunks, features, weight), gradients(at_once, features, weight)
    for found, stock, true in zip(*pairs, truth):
        assert error(found, true) < 1.6 * error(stock, true)


def test_the_loss_scale_keeps_small_gradients_of_float16():
    # probabilities of 1e-8: float16 has them only when scaled
    features, weight, target = inputs(torch.float16, tokens=16, vocabulary=300)
    with torch.no_grad():
        features[:, 0] = 1.0
        weight.mul_(0.1)
        weight[:, 0], weight[2, 0] = -18.0, 0.0
        target[target != PAD] = 2
    found = gradients(chunked_cross_entropy(features, weight, target, PAD, 4), features, weight, 2.0**14)[1]
    expected = gradients(plain(features, weight, target), features, weight, 2.0**14)[1]
    assert expected[3:].count_nonzero() > 0.5 * expected[3:].numel()
    assert error(found[3:], expected[3:]) < 0.01


def test_autocast_computes_in_its_type():
    features, weight, target = inputs()
    with torch.autocast("cpu", torch.bfloat16):
        found, expected = chunked_cross_entropy(features, weight, target, PAD, 4), plain(features, weight, target)
    torch.testing.assert_close(found, expected, rtol=1e-6, atol=0)
    assert expected != plain(features, weight, target)
    for one, other in zip(gradients(found, features, weight), gradients(expected, features, weight)):
        assert one.dtype == torch.float32 and error(one, other) < 0.01


def largest_allocation(compute, *arguments, train):
    """Bytes of the largest tensor that any operator makes, for the loss and, if wanted, its gradients."""
    features, weight, *_ = arguments
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiled, torch.set_grad_enabled(train):
        loss = compute(*arguments)
        if train:
            gradients(loss, features, weight)
    return max(event.self_cpu_memory_usage for event in profiled.events())


@pytest.mark.parametrize("train", [True, False])
@pytest.mark.parametrize("reduce", [True, False])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("way", WAYS)
def test_no_tensor_of_tokens_times_vocabulary_is_made(way, dtype, reduce, train):
    tokens, vocabulary, chunk, width = 64, 500, 8, 16
    made = inputs(dtype, tokens, width, vocabulary)
    by_chunks = largest_allocation(way, *made, PAD, chunk, reduce, train=train)
    # the weight's gradient is larger than a chunk, and made in training only
    assert chunk * vocabulary * dtype.itemsize <= by_chunks <= (width if train else chunk) * vocabulary * 4
    assert largest_allocation(plain, *made, train=train) >= tokens * vocabulary * 4

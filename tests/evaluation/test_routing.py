"""What `route` says of a batch: held against the gates' own logits, with pads and dropping; its traces are removed."""

import pytest
import torch

from fairseq_mhmoe.evaluation.loading import load_checkpoint
from fairseq_mhmoe.evaluation.routing import observed, route

EOS, PAD = 2, 1


@pytest.fixture(scope="module")
def models(tiny_checkpoint):
    found = {}

    def load(kind):
        if kind not in found:
            found[kind] = load_checkpoint(tiny_checkpoint(kind), device="cpu")
        return found[kind]

    return load


def text(*lengths, seed=0):
    """Rows of random tokens behind eos, of these lengths, pads on the right."""
    generator = torch.Generator().manual_seed(seed)
    rows = torch.full((len(lengths), max(lengths)), PAD)
    for row, length in zip(rows, lengths):
        row[:length] = torch.randint(4, 320, (length,), generator=generator)
        row[0] = EOS
    return rows


def gate_logits(loaded, tokens):
    """Logits of each gate, as the router modules give them: [S, N] for each MoE layer."""
    seen = []
    hooks = [
        layer.router.register_forward_hook(lambda module, inputs, output: seen.append(output.detach()))
        for _, layer in loaded.moe_layers()
    ]
    with torch.no_grad():
        loaded.model(tokens)
    for hook in hooks:
        hook.remove()
    return seen


def test_choices_are_the_largest_logits_of_each_sub_token(models):
    loaded, tokens = models("mhmoe"), text(7, 7)
    layers, _ = route(loaded, tokens)
    assert [layer.block for layer in layers] == [0, 1]
    for layer, logits in zip(layers, gate_logits(loaded, tokens), strict=True):
        logits = logits.view(2, 7, 3, 6)
        for place in [(0, 0, 0), (0, 6, 2), (1, 3, 1)]:
            by_hand = sorted(range(6), key=lambda expert: -logits[place][expert])[:2]
            assert layer.wanted[place].tolist() == layer.experts[place].tolist() == by_hand
        torch.testing.assert_close(layer.probs, logits.softmax(-1))


def test_the_output_is_the_model_s(models):
    loaded, tokens = models("mhmoe"), text(5, 5)
    with torch.no_grad():
        logits, features = loaded.model(tokens)[0], loaded.model(tokens, features_only=True)[0]
    assert torch.equal(route(loaded, tokens)[1], features)
    assert torch.equal(route(loaded, tokens, features_only=False)[1], logits)
    assert route(models("dense"), tokens)[0] == []


def test_pads_go_nowhere_and_change_nothing(models):
    loaded, tokens = models("mhmoe"), text(7, 4)
    together, alone = route(loaded, tokens)[0], route(loaded, tokens[1:, :4])[0]
    for both, one in zip(together, alone, strict=True):
        assert torch.equal(both.wanted[1:, :4], one.wanted)
        torch.testing.assert_close(both.probs[1:, :4], one.probs)
        assert (both.wanted[1, 4:] == 6).all() and (both.experts[1, 4:] == 6).all()
        assert (both.wanted[0] < 6).all()


def test_padding_on_the_left_is_refused(models):
    tokens = text(4, 4)
    tokens[1, 0] = PAD
    with pytest.raises(ValueError, match="padding before its text; put pads on the right"):
        route(models("mhmoe"), tokens)


def test_too_long_a_text_is_refused(models):
    with pytest.raises(ValueError, match="33 tokens: this model takes at most 32"):
        route(models("mhmoe"), text(33))


def test_what_exceeds_the_capacity_is_wanted_but_dropped(models):
    # 30 tokens, 4 experts, top 1, factor 1: an expert takes ceil(30 / 4) = 8 of 30 choices.
    [layer], _ = route(models("smoe"), text(10, 10, 10))
    wanted = layer.wanted.flatten().bincount(minlength=5).tolist()
    kept = layer.experts.flatten().bincount(minlength=5).tolist()
    assert wanted[4] == 0 and sum(wanted) == 30
    assert kept[:4] == [min(count, 8) for count in wanted[:4]]
    assert kept[4] == sum(max(0, count - 8) for count in wanted[:4]) > 0
    dropped = layer.experts == 4
    assert torch.equal(layer.experts[~dropped], layer.wanted[~dropped])


def test_observers_are_removed_even_after_an_error(models):
    loaded = models("mhmoe")
    layers = [layer for _, layer in loaded.moe_layers()]
    route(loaded, text(4))
    assert [layer.observer for layer in layers] == [None, None]
    with pytest.raises(RuntimeError, match="in between"), observed(loaded) as found:
        assert all(layer.observer is not None for layer in layers)
        loaded.model(text(4))
        assert sorted(found) == [0, 1]
        raise RuntimeError("in between")
    assert [layer.observer for layer in layers] == [None, None]

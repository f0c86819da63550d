"""A tiny language model for lm-evaluation-harness, and what its answers must be, from its logits."""

import pytest
import torch
from lm_eval.api.instance import Instance

from fairseq_mhmoe.evaluation.loading import load_checkpoint

LONGEST = 32


@pytest.fixture(scope="session")
def checkpoint(tiny_checkpoint):
    """A MH-MoE model of 32 positions after a few updates."""
    return tiny_checkpoint("mhmoe")


@pytest.fixture(scope="session")
def loaded(checkpoint):
    """That model on the CPU, with noise on its weights: what it says depends on what it was told."""
    model = load_checkpoint(checkpoint, device="cpu")
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in model.model.parameters():
            parameter += 0.3 * torch.randn(parameter.shape, generator=generator)
    return model


class ByHand:
    """Answers from logits: one text at a time, without batches, padding or a cache, sums in float64."""

    def __init__(self, loaded, begin=()):
        self.loaded, self.begin = loaded, list(begin)
        self.eos = loaded.dictionary.eos()
        self.room = loaded.longest - len(self.begin)
        self.processor = loaded.text().processor

    def encode(self, text):
        return [self.loaded.dictionary.index(piece) for piece in self.processor.EncodeAsPieces(text)]

    @torch.no_grad()
    def logits(self, tokens):
        """[T, V] float64."""
        output, _ = self.loaded.model(torch.tensor([self.begin + tokens]))
        return output[0, len(self.begin) :].double()

    def score(self, shown, wanted):
        """Log-probability of the tokens `wanted`, each predicted by the position before it, at the end of `shown`."""
        logits = self.logits(shown)[-len(wanted) :]
        log_probs = logits.log_softmax(-1)
        total = sum(log_probs[i, token].item() for i, token in enumerate(wanted))
        return total, all(logits[i].argmax() == token for i, token in enumerate(wanted))

    def loglikelihood(self, context, continuation):
        """(log-probability, greedy) of a continuation."""
        text, start = [self.eos, *self.encode(context + continuation)], 1 + len(self.encode(context.rstrip()))
        total, greedy, first = 0.0, True, start
        while first < len(text):
            end = min(len(text), first + self.room)
            # a window ends before its last target; what is left of the model's room shows text before
            one = len(text) - start <= self.room
            begin = max(0, end - 1 - self.room) if one or first > start else first - 1
            part, is_greedy = self.score(text[begin : end - 1], text[first:end])
            total, greedy, first = total + part, greedy and is_greedy, end
        return total, greedy

    def go_on(self, context, new_tokens):
        """Greedy tokens behind a context, each from a forward pass over all that the model may see."""
        kept = max(self.room - new_tokens, self.room // 2)
        shown, new = [self.eos, *self.encode(context)][-kept:], []
        while len(new) < new_tokens:
            if len(shown) > self.room:
                shown = shown[-(self.room // 2) :]
            token = int(self.logits(shown)[-1].argmax())
            if token == self.eos:
                break
            shown.append(token)
            new.append(token)
        return new


@pytest.fixture(scope="session")
def by_hand(loaded):
    """The reference for `loaded`."""
    return ByHand(loaded)


@pytest.fixture(scope="session")
def ask():
    """ask(method, *arguments): instances as the harness makes them."""

    def instances(method, *arguments):
        return [Instance(method, {}, each, 0, ("task", number, 1)) for number, each in enumerate(arguments)]

    return instances

"""Generating captions with a tiny model: against all captions there are, with and without remembered images."""

import functools
import itertools
import math
from types import SimpleNamespace

import pytest
import torch

from fairseq_mhmoe.evaluation.caption_generation import NextWord, caption_symbols
from fairseq_mhmoe.evaluation.caption_search import Beam, beam_search

SIZE, MASK = 10, 9
KINDS = {
    "dense": "",
    "shared experts": "--moe-freq 2 --moe-expert-count 4 --moe-top-k 2 --mhmoe-heads-number 2",
    "separate experts": "--moe-freq 1 --moe-expert-count 2 --moe-top-k 1 --moe-modality separate",
}


class Words:
    """A dictionary of <s>, pad, </s>, unk, five words and <mask>."""

    bos, pad, eos, unk = (lambda self, number=number: number for number in range(4))

    def __len__(self):
        return SIZE

    def index(self, symbol):
        return MASK


@functools.cache
def make_model(kind="dense", size=16):
    """A random model of 5 words with sharp opinions; images of 4 patches."""
    from fairseq import options
    from fairseq.dataclass.utils import convert_namespace_to_omegaconf

    import fairseq_mhmoe  # noqa: F401
    from fairseq_mhmoe.models.multimodal import MHMoEMultimodalModel

    parser = options.get_training_parser("masked_multimodal")
    arch = "dense_multimodal_tiny" if kind == "dense" else "mhmoe_multimodal_tiny"
    words = f"DATA --task masked_multimodal --arch {arch} --encoder-embed-dim 16 --encoder-ffn-embed-dim 16".split()
    words += "--encoder-layers 2 --encoder-attention-heads 2".split()
    args = options.parse_args_and_arch(parser, [*words, *KINDS[kind].split()])
    torch.manual_seed(3)
    task = SimpleNamespace(
        image_size=size,
        patch_size=8,
        max_text_positions=12,
        source_dictionary=Words(),
        model_heads=lambda: {"text": {"kind": "text"}},
    )
    model = MHMoEMultimodalModel.build_model(convert_namespace_to_omegaconf(args).model, task).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter) * (0.3 if parameter.dim() > 1 else 0.1))
    return model


def make_images(count, size=16):
    return torch.randint(0, 256, (count, 3, size, size), dtype=torch.uint8, generator=torch.Generator().manual_seed(1))


def log_probability(model, image, tokens, places):
    """Sum of log p(tokens[place] | <s> tokens[:place]), each from a call of its own without batch or memory."""
    total = 0.0
    for place in places:
        text = torch.tensor([[0, *tokens[:place], MASK]])
        out, _ = model(pair={"images": image[None], "tokens": text, "causal": True})
        total += float(out["pair"]["text"][0, -1].log_softmax(-1)[tokens[place]])
    return total


@torch.no_grad()
def test_a_large_beam_finds_the_best_of_all_captions():
    model, images, words = make_model("shared experts"), make_images(2), range(4, 9)
    longest, penalty = 2, 0.6
    beam = Beam(sum(5**length for length in range(longest + 1)), longest, penalty)
    found = beam_search(NextWord(model, images, MASK), 2, beam, caption_symbols(Words()))
    for image, caption in zip(images, found, strict=True):
        everything = [
            (log_probability(model, image, [*tokens, 2], range(length + 1)) / (length + 2) ** penalty, list(tokens))
            for length in range(longest + 1)
            for tokens in itertools.product(words, repeat=length)
        ]
        assert caption.tokens == max(everything)[1]
        assert math.isclose(caption.score, max(everything)[0], rel_tol=1e-4)


@pytest.mark.parametrize("kind", KINDS)
def test_remembered_images_change_nothing(kind):
    model, images = make_model(kind), make_images(3)
    rows = torch.tensor([2, 0, 0, 1, 2])
    texts = torch.randint(4, 9, (5, 6), generator=torch.Generator().manual_seed(2))
    texts[:, 0] = 0
    plain, remembering = NextWord(model, images, MASK, remember=False), NextWord(model, images, MASK)
    for length in (1, 2, 6):
        expected = plain(rows, texts[:, :length])
        assert expected.std() > 0.3
        torch.testing.assert_close(remembering(rows, texts[:, :length]), expected, rtol=1e-4, atol=1e-5)
    expected = plain(rows, texts)
    torch.testing.assert_close(remembering(rows, texts), expected, rtol=1e-4, atol=1e-5)
    # the model is as it was
    torch.testing.assert_close(plain(rows, texts), expected, rtol=0, atol=0)


def test_the_image_and_earlier_words_matter():
    model, images = make_model(), make_images(2)
    of_next = NextWord(model, images, MASK)
    texts = torch.tensor([[0, 4, 5], [0, 4, 5], [0, 6, 5]])
    first, other_image, other_word = of_next(torch.tensor([0, 1, 0]), texts)
    assert (first - other_image).abs().max() > 1e-3
    assert (first - other_word).abs().max() > 1e-3


def test_batches_and_memory_give_the_same_captions():
    model, images = make_model("shared experts"), make_images(4)
    symbols, beam = caption_symbols(Words()), Beam(3, 6)
    together = beam_search(NextWord(model, images, MASK), 4, beam, symbols)
    for number in range(4):
        alone = NextWord(model, images[number : number + 1], MASK, remember=False)
        [caption] = beam_search(alone, 1, beam, symbols)
        assert caption.tokens == together[number].tokens
        assert math.isclose(caption.score, together[number].score, rel_tol=1e-4)


@torch.no_grad()
def test_greedy_takes_the_likeliest_word_at_each_step():
    model, images = make_model(), make_images(3)
    captions = beam_search(NextWord(model, images, MASK), 3, Beam(1, 5), caption_symbols(Words()))
    for image, caption in zip(images, captions, strict=True):
        tokens = []
        while len(tokens) < 5:
            text = torch.tensor([[0, *tokens, MASK]])
            logits = model(pair={"images": image[None], "tokens": text, "causal": True})[0]["pair"]["text"][0, -1]
            symbol = max((2, *range(4, 9)), key=lambda number: float(logits[number]))
            if symbol == 2:
                break
            tokens.append(symbol)
        assert caption.tokens == tokens

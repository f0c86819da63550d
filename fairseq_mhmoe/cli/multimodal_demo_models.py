"""The three models of the multimodal demonstration, and how they are pre-trained and fine-tuned.

They are equal in body, data and training FLOPs per token of an image-text pair: the dense model sets the FLOPs, the
width of the experts of X-MoE and MH-MoE is solved, and MH-MoE gets as many as make its parameters equal to X-MoE's.
"""

from dataclasses import dataclass
from typing import Any

from fairseq_mhmoe.cli.cost_models import words_model
from fairseq_mhmoe.cli.demo_models import DemoModel, solve_expert_count, solve_expert_width, with_experts, words_of
from fairseq_mhmoe.cli.reproduce_settings import SMALL_PICTURES
from fairseq_mhmoe.moe.multimodal_cost import MultimodalShape, cost_of

PICTURES = SMALL_PICTURES
PAIRS = 32  # in an update; PICTURES has the rows of the other streams
TEXT_LENGTH, QUESTION_LENGTH = 48, 24
QUESTIONS_PER_UPDATE = 32
NAMES = ("mhmoe", "xmoe", "dense")  # the slowest begins first

BODY = {
    "encoder-embed-dim": 128,
    "encoder-layers": 4,
    "encoder-attention-heads": 4,
    "encoder-ffn-embed-dim": 512,
}
ROUTING = {"moe-top-k": 2, "moe-normalize-gate-prob-before-dropping": True, "moe-freq": 2}
XMOE = ROUTING | {"moe-expert-count": 8, "moe-router": "xmoe"}
MHMOE = ROUTING | {"mhmoe-heads-number": 2, "moe-router": "softmax"}
OPTIMIZER = {
    "optimizer": "adam",
    "adam-betas": "(0.9, 0.98)",
    "adam-eps": 1e-6,
    "weight-decay": 0.05,
    "clip-norm": 1.0,
    "lr-scheduler": "cosine",
    "warmup-init-lr": 1e-7,
    "seed": 1,
}


@dataclass(frozen=True)
class Budget:
    """How long is trained."""

    updates: int = 2000  # of pre-training
    learning_rate: float = 2e-3
    finetuning_updates: int = 500
    finetuning_rate: float = 1e-3


def pretraining_words(budget: Budget) -> list[str]:
    """What all three models share: streams, masks, optimizer and schedule."""
    settings = {
        "task": "masked_multimodal",
        **_pictures(),
        "num-codes": PICTURES.codes,
        "tokens-per-sample": TEXT_LENGTH,
        "caption-length": PICTURES.caption_length,
        "batch-size": PAIRS,
        "image-batch-size": PICTURES.image_rows,
        "text-batch-size": PICTURES.text_rows,
        "batch-size-valid": 2 * PAIRS,
        "criterion": "masked_multimodal",
    }
    return words_of(settings | _schedule(budget.updates, budget.learning_rate))


def finetuning_words(budget: Budget, split: str) -> list[str]:
    """Fine-tuning for questions, from pre-training and from scratch alike; split: the questions to learn from."""
    settings = {
        "task": "vqa",
        **_pictures(),
        "max-text-length": QUESTION_LENGTH,
        "train-subset": split,
        "batch-size": QUESTIONS_PER_UPDATE,
        "criterion": "vqa",
    }
    return words_of(settings | _schedule(budget.finetuning_updates, budget.finetuning_rate))


def _pictures() -> dict[str, Any]:
    """Drawings are whole: a crop would cut off what the caption tells of."""
    return {"image-size": PICTURES.image_size, "patch-size": PICTURES.patch_size, "image-augmentation": "none"}


def _schedule(updates: int, rate: float) -> dict[str, Any]:
    return OPTIMIZER | {"lr": rate, "warmup-updates": max(1, updates // 12), "max-update": updates}


def demo_models(vocab_size: int) -> list[DemoModel]:
    """MH-MoE, X-MoE and dense for a dictionary of vocab_size symbols, <mask> among them."""
    dense = make_model("dense", {"arch": "dense_multimodal_tiny"}, vocab_size)
    target = dense.cost.flops_per_token
    settings = {"arch": "xmoe_multimodal_tiny"} | XMOE
    width = solve_expert_width(shape_of(settings, vocab_size), target)
    xmoe = make_model("xmoe", settings | {"moe-ffn-dim": width}, vocab_size)
    settings = {"arch": "mhmoe_multimodal_tiny"} | MHMOE
    shape = shape_of(settings, vocab_size)
    width = solve_expert_width(shape, target)
    count = solve_expert_count(with_experts(shape, ffn_dim=width), xmoe.cost.params_total)
    mhmoe = make_model("mhmoe", settings | {"moe-expert-count": count, "moe-ffn-dim": width}, vocab_size)
    return [mhmoe, xmoe, dense]


def make_model(name: str, settings: dict, vocab_size: int) -> DemoModel:
    """A model of the common body with these options on top, and what it costs."""
    return DemoModel(name, words_of(settings | BODY), cost_of(shape_of(settings, vocab_size)))


def shape_of(settings: dict, vocab_size: int) -> MultimodalShape:
    """The shape that fairseq-train would build from these options."""
    words = [*words_of(settings | BODY), *pretraining_words(Budget())]
    return words_model(without(words, "--task", "--criterion"), vocab_size).shape


def without(words: list[str], *options: str) -> list[str]:
    """The words without these options and their values."""
    left = list(words)
    for option in options:
        place = left.index(option)
        del left[place : place + 2]
    return left

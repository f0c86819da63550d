"""Sizing the models of a comparison: each at equal cost with another, by the rules of the papers.

v1 makes the parameters of the whole MoE layer equal: MH-MoE keeps the number of experts and gets their width. v2 makes
the FLOPs equal by the width, then the parameters by the number of experts.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from fairseq_mhmoe.cli.cost_models import words_model
from fairseq_mhmoe.cli.demo_models import Shape, words_of
from fairseq_mhmoe.cli.reproduce_comparisons import Spec
from fairseq_mhmoe.cli.reproduce_settings import Scale
from fairseq_mhmoe.cli.reproduce_subjects import subject_of
from fairseq_mhmoe.moe.cost import Cost
from fairseq_mhmoe.moe.multimodal_cost import cost_of
from fairseq_mhmoe.moe.parity import everything, layer_figures, match_flops, match_parameters

PRESETS = {"finegrained": "smoe"}  # families that begin with another one's architecture


@dataclass(frozen=True)
class Model:
    """A model that can be trained: its options, its cost, and how near that is to the one it is to equal."""

    spec: Spec
    words: list[str]
    shape: Shape
    cost: Cost
    deviation: dict[str, float]  # of params_total and flops_per_token from those of spec.equal_to, 0.01 is 1 % more

    @property
    def name(self) -> str:
        """Of its folders and in results."""
        return self.spec.name


def build(specs: Sequence[Spec], scale: Scale, vocab_size: int) -> Iterator[Model]:
    """Size the experts of each model at the cost of the one that it equals, which comes before it.

    Raises:
        ValueError: a model that can't be: names it and the reason.
    """
    made: dict[str, Model] = {}
    for spec in specs:
        try:
            made[spec.name] = _build(spec, made.get(spec.equal_to), scale, vocab_size)
        except ValueError as error:
            raise ValueError(f"{spec.title}: {error}") from None
        yield made[spec.name]


def _build(spec: Spec, base: Model | None, scale: Scale, vocab_size: int) -> Model:
    settings = spec.settings
    if base is not None:
        settings = settings | _matched(spec, base, _shape(spec, settings, scale, vocab_size))
    words = words_of(model_settings(spec, settings, scale))
    shape = _shape(spec, settings, scale, vocab_size)
    cost, deviation = cost_of(shape), {}
    if base is not None:
        deviation = {
            name: getattr(cost, name) / getattr(base.cost, name) - 1 for name in ("params_total", "flops_per_token")
        }
    return Model(spec, words, shape, cost, deviation)


def _matched(spec: Spec, base: Model, shape: Shape) -> dict[str, int]:
    target = layer_figures(base.shape, everything)
    if spec.parity == "params":
        return {"moe-ffn-dim": match_parameters(shape.moe, target, everything).width.nearest}
    match = match_flops(shape.moe, target, everything)
    # small models have few experts: to the nearest number, not to the nearest multiple of 8
    count = max(shape.moe.top_k, round(match.count.exact))
    return {"moe-ffn-dim": match.width.nearest, "moe-expert-count": count}


def model_settings(spec: Spec, settings: dict[str, Any], scale: Scale) -> dict[str, Any]:
    """The options of the architecture: the common body, the family's, the model's."""
    subject = subject_of(scale)
    body = {
        "arch": subject.ARCH.format(PRESETS.get(spec.family, spec.family)),
        f"{subject.SIDE}-embed-dim": scale.width,
        f"{subject.SIDE}-layers": scale.layers,
        f"{subject.SIDE}-attention-heads": scale.attention_heads,
        f"{subject.SIDE}-ffn-embed-dim": scale.ffn,
    }
    if scale.dropout:
        body["dropout"] = scale.dropout
    if spec.family != "dense":
        body["moe-freq"] = scale.moe_freq
        if settings["moe-top-k"] > 1:
            body["moe-normalize-gate-prob-before-dropping"] = True
    return body | settings | dict(scale.options.get(spec.family, {}))


def _shape(spec: Spec, settings: dict[str, Any], scale: Scale, vocab_size: int) -> Shape:
    words = words_of(model_settings(spec, settings, scale))
    return words_model([*words, *subject_of(scale).shape_words(scale)], vocab_size).shape

"""What the papers compare, and what they found: the models of each comparison, and the pairs that are judged."""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from fairseq_mhmoe.cli.reproduce_settings import Scale

PARITIES = ("params", "flops")
# Validation perplexities in the papers, by comparison and corpus (v2: RedPajama, no shared expert).
PAPERS = {
    ("table1", "english"): {
        "dense": 16.23, "xmoe-8": 14.82, "mhmoe-8": 12.72, "xmoe-32": 11.96, "mhmoe-32": 10.28,
    },
    ("table1", "multilingual"): {
        "dense": 8.56, "xmoe-8": 7.19, "mhmoe-8": 6.26, "xmoe-32": 6.02, "mhmoe-32": 5.09,
    },
    ("table1", "multimodal"): {
        "dense": 17.95, "xmoe-8": 16.34, "mhmoe-8": 14.73, "xmoe-32": 12.68, "mhmoe-32": 10.87,
    },
    ("v2", "english"): {
        "dense": 12.13, "smoe": 10.90, "finegrained": 10.74, "mhmoe-2heads": 10.70, "mhmoe-3heads": 10.51,
    },
    ("heads", "english"): {
        "xmoe-8": 14.82, "mhmoe-h2": 12.87, "mhmoe-h4": 12.72, "mhmoe-h6": 12.41, "mhmoe-h8": 12.95, "mhmoe-h12": 13.28,
    },
    ("components", "english"): {
        "dense": 16.23, "dense-linear": 16.40, "xmoe-8": 14.82, "xmoe-linear": 14.77, "mhmoe-split": 13.97,
        "mhmoe-8": 12.72,
    },
    ("depth", "english"): {
        "xmoe-8": 14.82, "mhmoe-n0": 13.97, "mhmoe-n1": 12.72, "mhmoe-n2": 12.66, "mhmoe-n3": 12.87,
    },
}  # fmt: skip


@dataclass(frozen=True)
class Spec:
    """A model as the comparison wants it, before its experts are sized."""

    name: str
    family: str
    title: str
    settings: dict[str, Any] = field(default_factory=dict)
    equal_to: str | None = None  # the model whose cost its experts get
    parity: str = "params"
    paper: float | None = None  # perplexity in the paper


@dataclass(frozen=True)
class Plan:
    """The models of a comparison, and the pairs (first, second) that are compared."""

    specs: list[Spec]
    pairs: list[tuple[str, str]]

    def kept(self, names: Sequence[str] | None) -> "Plan":
        """With the models of these names, or families, only.

        Raises:
            ValueError: one is neither.
        """
        if not names:
            return self
        known = [spec.name for spec in self.specs] + [spec.family for spec in self.specs]
        if unknown := [name for name in names if name not in known]:
            raise ValueError(f"--models {unknown[0]}: expected some of {', '.join(dict.fromkeys(known))}")
        specs = [spec for spec in self.specs if spec.name in names or spec.family in names]
        left = {spec.name for spec in specs}
        return Plan(specs, [pair for pair in self.pairs if left >= set(pair)])


def make_plan(comparison: str, scale: Scale, corpus: str, parity: str = "params") -> Plan:
    """What table1, v2, heads, components or depth compares at this scale."""
    plan = PLANS[comparison](scale, parity)
    papers = PAPERS.get((comparison, corpus), {})
    return Plan([replace(spec, paper=papers.get(spec.name)) for spec in plan.specs], plan.pairs)


def _table1(scale: Scale, parity: str) -> Plan:
    specs, pairs = [DENSE], []
    for count in scale.experts:
        xmoe, mhmoe = _xmoe(scale, count), _mhmoe(scale, count, parity)
        specs += [xmoe, mhmoe]
        pairs += [(mhmoe.name, xmoe.name), (xmoe.name, "dense"), (mhmoe.name, "dense")]
    return Plan(specs, pairs)


def _v2(scale: Scale, parity: str) -> Plan:
    count = scale.experts[0]
    if scale.ffn % 2:
        raise ValueError(f"ffn {scale.ffn}: fine-grained experts are half as wide; expected an even number")
    smoe = {"moe-expert-count": count, "moe-top-k": 1, "moe-ffn-dim": scale.ffn}
    fine = {"moe-expert-count": 2 * count, "moe-top-k": 2, "moe-ffn-dim": scale.ffn // 2}
    specs = [DENSE, Spec("smoe", "smoe", "SMoE", smoe), Spec("finegrained", "finegrained", "fine-grained SMoE", fine)]
    for heads in (2, 3):
        settings = {"moe-expert-count": count, "moe-top-k": heads, "mhmoe-heads-number": heads}
        specs.append(Spec(f"mhmoe-{heads}heads", "mhmoe", f"MH-MoE, {heads} heads", settings, "smoe", "flops"))
    pairs = [("smoe", "dense"), ("finegrained", "smoe"), ("mhmoe-2heads", "finegrained")]
    pairs += [("mhmoe-3heads", "mhmoe-2heads"), ("mhmoe-2heads", "smoe"), ("mhmoe-3heads", "smoe")]
    return Plan(specs, pairs)


def _heads(scale: Scale, parity: str) -> Plan:
    count = scale.experts[0]
    xmoe, specs = _xmoe(scale, count), []
    for heads in scale.ablation_heads:
        if scale.width % heads == 0:
            title = f"MH-MoE, {heads} head{'s' if heads > 1 else ''}"
            specs.append(_mhmoe(scale, count, parity, heads, f"mhmoe-h{heads}", title))
    names = [spec.name for spec in specs]
    return Plan([xmoe, *specs], [(name, xmoe.name) for name in names] + list(zip(names[:-1], names[1:])))


def _components(scale: Scale, parity: str) -> Plan:
    count = scale.experts[0]
    xmoe, both = _xmoe(scale, count), replace(_mhmoe(scale, count, parity), title="MH-MoE (both)")
    # One expert that every token passes with gate 1 is a dense network between a head and a merge layer.
    one = Spec("dense-linear", "smoe", "dense + linear layers", {"moe-expert-count": 1, "moe-top-k": 1}, "dense")
    linear = Spec("xmoe-linear", "xmoe", "X-MoE + linear layers", _routing(scale, count), xmoe.name, parity)
    split = replace(both, name="mhmoe-split", title="split and merge, no linear layers")
    specs = [DENSE, _linear_layers(one, 1), xmoe, _linear_layers(linear, 1), _linear_layers(split, 0), both]
    pairs = [(both.name, split.name), (both.name, linear.name), (both.name, xmoe.name), (split.name, xmoe.name)]
    return Plan(specs, [*pairs, (linear.name, xmoe.name), (xmoe.name, "dense"), (one.name, "dense")])


def _depth(scale: Scale, parity: str) -> Plan:
    count = scale.experts[0]
    xmoe, specs = _xmoe(scale, count), []
    for layers in range(4):
        spec = _mhmoe(scale, count, parity, name=f"mhmoe-n{layers}", title=f"MH-MoE, n = {layers}")
        specs.append(_linear_layers(spec, layers))
    names = [spec.name for spec in specs]
    return Plan([xmoe, *specs], [(name, xmoe.name) for name in names] + list(zip(names[:-1], names[1:])))


PLANS = {"table1": _table1, "v2": _v2, "heads": _heads, "components": _components, "depth": _depth}
DENSE = Spec("dense", "dense", "dense")


def _routing(scale: Scale, count: int) -> dict[str, Any]:
    return {"moe-expert-count": count, "moe-top-k": scale.top_k, "moe-router": "xmoe"}


def _xmoe(scale: Scale, count: int) -> Spec:
    settings = _routing(scale, count) | {"moe-ffn-dim": scale.ffn}
    return Spec(f"xmoe-{count}", "xmoe", f"X-MoE, {count} experts", settings)


def _mhmoe(scale: Scale, count: int, parity: str, heads: int = 0, name: str = "", title: str = "") -> Spec:
    """MH-MoE at the cost of X-MoE with `count` experts; one head is X-MoE with a head and a merge layer."""
    heads = heads or scale.heads
    settings = _routing(scale, count) | {"mhmoe-heads-number": heads}
    same = "" if parity == "params" else ", equal FLOPs"
    title = title or f"MH-MoE, {count} experts{same}"
    spec = Spec(name or f"mhmoe-{count}", "mhmoe", title, settings, f"xmoe-{count}", parity)
    return _linear_layers(spec, 1) if heads == 1 else spec


def _linear_layers(spec: Spec, layers: int) -> Spec:
    """With so many linear layers before the split and after the merge."""
    return replace(spec, settings=spec.settings | {"mhmoe-head-layers": layers, "mhmoe-merge-layers": layers})

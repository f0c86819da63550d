"""The tables of docs/performance.md, each made of what a benchmark wrote with --json; same figures, same text.

A table is a list of columns: a head, and what stands below it for one entry.
"""

from typing import Any, Callable, Dict, List, Optional, Tuple

from layer_cases import CONFIGS

OURS, BARE, DENSE, RECOMPUTE = "ours", "bare", "dense_floor", "ours_recompute"
BACKENDS = ("loop", "grouped_mm", "bmm")
FORWARD, BOTH = "forward", "forward+backward"
TEXT = {
    "layer",
    "type",
    "routing",
    "best peer",
    "program",
    "machine",
    "allocator",
    "torch",
    "commit",
    "model",
    "part",
    "activation",
}
TEXT |= {"GPU", "way", "auto", "best", "bound by", "what", "why"}
Columns = Dict[str, Callable[[Any], Any]]


class Case:
    """All rows of one layer, number type and size."""

    def __init__(self, rows: List[dict]) -> None:
        self.rows = {(row["variant"], row["pass"]): row for row in rows if row["routing"] == "balanced"}
        self.skewed = [row for row in rows if row["routing"] != "balanced" and row["variant"] == OURS]
        first = rows[0]
        self.config, self.dtype, self.tokens, self.experts = (
            first[key] for key in ("config", "dtype", "tokens", "num_experts")
        )
        self.swept = self.experts != CONFIGS[self.config].num_experts

    def get(self, variant: str, key: str, label: str = BOTH) -> Optional[float]:
        """A figure of a variant; None where it was not measured."""
        return self.rows.get((variant, label), {}).get(key)

    def ratio(self, variant: str, other: str, key: str = "ms") -> Optional[float]:
        """A variant's figure over another's."""
        above, below = self.get(variant, key), self.get(other, key)
        return None if above is None or not below else above / below

    @property
    def peers(self) -> List[str]:
        """Other code bases that were measured."""
        names = dict.fromkeys(name for name, _ in self.rows)
        return [name for name in names if name not in (BARE, DENSE) and not name.startswith(OURS)]

    @property
    def best_peer(self) -> Optional[str]:
        """The fastest of them."""
        return min(self.peers, key=lambda name: self.get(name, "ms"), default=None)

    def peer_name(self, name: Optional[str]) -> str:
        """With a star when it does less than we do: it drops choices."""
        return "-" if name is None else name + ("*" if "drops" in (self.get(name, "note") or "") else "")


CASE: Columns = {"layer": lambda c: c.config, "type": lambda c: c.dtype, "tokens": lambda c: c.tokens}


def cases(figures: dict) -> List[Case]:
    """The cases of moe_layer.json in the order measured, sorted by layer, type and size."""
    keys = ("config", "dtype", "tokens", "num_experts")
    groups: Dict[Tuple, List[dict]] = {}
    for row in figures["moe_layer"]["rows"]:
        groups.setdefault(tuple(row[key] for key in keys), []).append(row)
    order = list(CONFIGS)
    types = {"fp32": 0, "bf16": 1}
    made = [Case(rows) for rows in groups.values() if any(row["variant"] == OURS for row in rows)]
    return sorted(made, key=lambda c: (types.get(c.dtype, 2), order.index(c.config), c.experts, c.tokens))


def markdown(entries: list, columns: Columns) -> str:
    """A Markdown table: one line for each entry."""
    marks = ["---" if head in TEXT else "---:" for head in columns]
    lines = ["| " + " | ".join(columns) + " |", "|" + "|".join(marks) + "|"]
    for entry in entries:
        lines.append("| " + " | ".join(cell(value(entry)) for value in columns.values()) + " |")
    return "\n".join(lines)


def cell(value: Any) -> str:
    """Text as it is, ratios and times with three digits that mean something, "-" for None."""
    if value is None:
        return "-"
    if isinstance(value, float):
        return f"{value:.0f}" if abs(value) >= 100 else f"{value:.1f}" if abs(value) >= 10 else f"{value:.2f}"
    return str(value)


def layers(figures: dict) -> str:
    """The layers that are measured."""
    columns: Columns = {
        "layer": lambda item: item[0],
        "D": lambda item: item[1].d_model,
        "H": lambda item: item[1].heads,
        "N": lambda item: item[1].num_experts,
        "K": lambda item: item[1].top_k,
        "F": lambda item: item[1].ffn_dim,
        "activation": lambda item: item[1].activation,
    }
    return markdown(list(CONFIGS.items()), columns)


def machine(figures: dict) -> str:
    """What each program ran on."""
    columns: Columns = {
        "program": lambda name: f"{name}.py",
        "machine": lambda name: _where(figures[name]["machine"]),
        "threads": lambda name: figures[name]["machine"]["threads"],
        "allocator": lambda name: figures[name]["machine"]["allocator"],
        "torch": lambda name: figures[name]["torch"],
        "commit": lambda name: figures[name].get("commit"),
    }
    return markdown([name for name, content in figures.items() if "machine" in content], columns)


def _where(m: dict) -> str:
    return m["gpu"] or f"{m['cpu']}, {m['cores']} cores, bfloat16 instructions: {'yes' if m['cpu_bf16'] else 'no'}"


def layer(figures: dict) -> str:
    """Our layer beside its bare products, the dense floor and the best peer."""
    columns: Columns = {
        **CASE,
        "forward ms": lambda c: c.get(OURS, "ms", FORWARD),
        "forward x bare": lambda c: c.get(OURS, "ratio_limit", FORWARD),
        "forward x dense": lambda c: c.get(OURS, "ratio_dense", FORWARD),
        "both ms": lambda c: c.get(OURS, "ms"),
        "both x bare": lambda c: c.get(OURS, "ratio_limit"),
        "both x dense": lambda c: c.get(OURS, "ratio_dense"),
        "both x best peer": lambda c: c.ratio(OURS, c.best_peer) if c.best_peer else None,
        "best peer": lambda c: c.peer_name(c.best_peer),
    }
    return markdown([c for c in cases(figures) if not c.swept], columns)


def peers(figures: dict) -> str:
    """Time of every peer over ours, forward and backward."""
    found = [c for c in cases(figures) if c.peers and not c.swept]
    names = sorted({name for c in found for name in c.peers})
    starred = {name: next(c.peer_name(name) for c in found if name in c.peers) for name in names}
    columns: Columns = {starred[name]: lambda c, name=name: c.ratio(name, OURS) for name in names}
    return markdown(found, {**CASE, **columns})


def routing(figures: dict) -> str:
    """Skewed routing: time over that of balanced routing."""
    columns: Columns = {
        **{head: lambda pair, value=value: value(pair[0]) for head, value in CASE.items()},
        "routing": lambda pair: pair[1]["routing"],
        "busiest expert / mean": lambda pair: pair[1].get("load_max"),
        "x balanced": lambda pair: pair[1]["ratio_balanced"],
    }
    found = [(c, row) for c in cases(figures) for row in c.skewed if row["pass"] == BOTH]
    return markdown(found, columns)


def experts(figures: dict) -> str:
    """The ratio to the bare products for several numbers of experts, each with rows enough."""
    found = [c for c in cases(figures) if c.swept]
    fewest = {(c.config, c.dtype): c for c in reversed(found)}
    columns: Columns = {
        "layer": lambda c: c.config,
        "type": lambda c: c.dtype,
        "N": lambda c: c.experts,
        "tokens": lambda c: c.tokens,
        "both ms": lambda c: c.get(OURS, "ms"),
        "x bare": lambda c: c.get(OURS, "ratio_limit"),
        "that over the fewest": lambda c: (
            c.get(OURS, "ratio_limit") / fewest[c.config, c.dtype].get(OURS, "ratio_limit")
        ),
    }
    return markdown(found, columns)


def memory(figures: dict) -> str:
    """What a forward pass keeps, and what recomputing the pre-activation saves and costs."""
    columns: Columns = {
        **CASE,
        "ours MiB": lambda c: c.get(OURS, "saved_mib"),
        "dense MiB": lambda c: c.get(DENSE, "saved_mib"),
        "least of peers MiB": lambda c: min((c.get(name, "saved_mib") for name in c.peers), default=None),
        "recomputing MiB": lambda c: c.get(RECOMPUTE, "saved_mib"),
        "share kept": lambda c: c.ratio(RECOMPUTE, OURS, "saved_mib"),
        "its time": lambda c: c.ratio(RECOMPUTE, OURS),
    }
    return markdown([c for c in cases(figures) if c.get(RECOMPUTE, "ms") and not c.swept], columns)


def backends(figures: dict) -> str:
    """Each back end's time over the bare products."""
    columns: Columns = {
        f"{name} x bare": lambda c, name=name: c.get(f"ours_{name}", "ratio_limit") for name in BACKENDS
    }
    found = [c for c in cases(figures) if any(c.get(f"ours_{name}", "ms") for name in BACKENDS)]
    return markdown(found, {**CASE, "N": lambda c: c.experts, **columns})


def left_out(figures: dict) -> str:
    """What was asked for and not measured, by reason."""
    reasons: Dict[Tuple[str, str], int] = {}
    for name, content in figures.items():
        for entry in content.get("skipped", ()):
            key = f"{name}.py", entry["reason"]
            reasons[key] = reasons.get(key, 0) + len(entry.get("variants", (0,)))
    columns: Columns = {"program": lambda e: e[0][0], "why": lambda e: e[0][1], "variants": lambda e: e[1]}
    return markdown(list(reasons.items()), columns) if reasons else "Nothing."


def step(figures: dict) -> str:
    """Training steps of whole language models."""
    columns: Columns = {
        "model": lambda r: r["model"],
        "tokens/s": lambda r: r["tokens_per_s"],
        "ms/update": lambda r: r["ms"],
        "peak MiB": lambda r: r["peak_mib"],
        "M parameters": lambda r: r["params"] / 1e6,
        "MFLOPs/token": lambda r: r["flops_per_token"] / 1e6,
        "time / dense": lambda r: r["ratio_dense"],
        "speed / torchscale's X-MoE": lambda r: r["speedup_over_torchscale_xmoe"],
    }
    return markdown(figures["train_step"]["rows"], columns)


def profile(figures: dict) -> str:
    """Shares of the parts of a step, in percent."""
    rows = figures["profile_step"]["rows"]
    parts = dict.fromkeys(part for row in rows for part, ms in row["parts"].items() if ms > 0)
    shares: Columns = {
        row["model"]: lambda part, row=row: 100 * row["parts"].get(part, 0.0) / row["ms"] for row in rows
    }
    return markdown(list(parts), {"part": str, **{f"{name} %": value for name, value in shares.items()}})


def expected(figures: dict) -> str:
    """Time on paper of the back ends on GPUs, forward and backward."""
    rows = [row for row in figures["expected"]["rows"] if row["pass"] == BOTH]
    lines: Dict[Tuple, Dict[str, dict]] = {}
    for row in rows:
        lines.setdefault((row["device"], row["config"], row["tokens"]), {})[row["backend"]] = row
    columns: Columns = {
        "GPU": lambda line: _first(line)["device"],
        "type": lambda line: _first(line)["dtype"],
        "layer": lambda line: _first(line)["config"],
        "tokens": lambda line: _first(line)["tokens"],
        "products alone ms": lambda line: _first(line)["limit_ms"],
        **{f"{name} ms": lambda line, name=name: line[name]["ms"] for name in BACKENDS},
        "auto": lambda line: _marked(line, "auto")["backend"],
        "best": lambda line: _marked(line, "best")["backend"],
        "bound by": lambda line: bound_by(_marked(line, "best")),
    }
    return markdown(list(lines.values()), columns)


def _first(line: Dict[str, dict]) -> dict:
    return next(iter(line.values()))


def _marked(line: Dict[str, dict], mark: str) -> dict:
    return next(row for row in line.values() if row[mark])


def bound_by(row: dict) -> str:
    """What decides an expected time."""
    return "the GPU" if row["device_ms"] >= row["host_ms"] else "the host"


def devices(figures: dict) -> str:
    """The data sheets behind `expected`."""
    columns: Columns = {
        "GPU": lambda item: item[0],
        "type": lambda item: item[1]["dtype"],
        "TFLOP/s in it": lambda item: item[1]["half_tflops"],
        "TFLOP/s float32": lambda item: item[1]["float32_tflops"],
        "GB/s": lambda item: item[1]["bandwidth"],
        "multiprocessors": lambda item: item[1]["processors"],
        "what": lambda item: item[1]["source"],
    }
    return markdown(list(figures["expected"]["devices"].items()), columns)


def assumptions(figures: dict) -> str:
    """What `expected` takes for granted."""
    return markdown(list(figures["expected"]["assumptions"].items()), {"what": lambda i: i[0], "value": lambda i: i[1]})


def cross_entropy(figures: dict) -> str:
    """Output layer and loss, with and without chunks."""
    columns: Columns = {
        "V": lambda r: r["vocabulary"],
        "D": lambda r: r["width"],
        "tokens": lambda r: r["tokens"],
        "type": lambda r: r["dtype"],
        "way": lambda r: r["variant"],
        "chunk": lambda r: r["chunk"],
        "both ms": lambda r: r["ms"],
        "x plain": lambda r: r["ratio_plain"],
        "peak MiB": lambda r: r["peak_mib"],
        "times less": lambda r: r["memory_ratio"],
        "gradient error": lambda r: None if r["gradient_error"] is None else f"{r['gradient_error']:.0e}",
    }
    return markdown(figures["cross_entropy"]["rows"], columns)


def gather_sum(figures: dict) -> str:
    """Ways to add up the rows of each sub-token."""
    columns: Columns = {
        "layer": lambda r: r["config"],
        "type": lambda r: r["dtype"],
        "tokens": lambda r: r["tokens"],
        "way": lambda r: r["variant"],
        "ms": lambda r: r["ms"],
        "GB/s": lambda r: r["gb_per_s"],
    }
    return markdown(figures["gather_sum"]["rows"], columns)

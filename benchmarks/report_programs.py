"""The tables about the machines and about the figures of all programs but moe_layer.py; same figures, same text."""

from typing import Dict, Tuple

from layer_cases import CONFIGS
from report_markdown import Columns, markdown

BACKENDS = ("loop", "grouped_mm", "bmm")
BOTH = "forward+backward"


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
        "tokens/update": lambda r: r["tokens_per_update"],
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

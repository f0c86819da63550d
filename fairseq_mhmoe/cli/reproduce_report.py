"""What a comparison found: results.json, table.md and the text for the terminal."""

import statistics
import time
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

import torch

from fairseq_mhmoe.cli.reproduce_arguments import Request
from fairseq_mhmoe.cli.reproduce_comparisons import Plan
from fairseq_mhmoe.cli.reproduce_models import Model
from fairseq_mhmoe.cli.reproduce_statistics import (
    CONFIDENCE,
    RELATIONS,
    Mean,
    Verdict,
    judge,
    mean_of,
    order_sentence,
    paper_word,
)
from fairseq_mhmoe.cli.text_table import text_table

MEASUREMENTS = 9
# How many times longer than its matrix products alone a training of small models takes.
SLOWER_THAN_MATRICES = {"cpu": (1.5, 4), "cuda": (3, 10)}
AVERAGED = (
    "valid_ppl",
    "valid_nll",
    "valid_bits_per_byte",
    "test_ppl",
    "test_bits_per_byte",
    "activated_per_token",
    "activated_per_sub_token",
    "gate_entropy",
    "load_max",
    "tokens_per_s",
)


def summarize(plan: Plan, models: Sequence[Model], entries: Sequence[dict]) -> dict[str, Any]:
    """Means by model, verdicts by pair and the sentence on the paper's order, out of the entries of all runs."""
    papers = {spec.name: spec.paper for spec in plan.specs}
    nll = {model.name: {e["seed"]: e["valid_nll"] for e in entries if e["model"] == model.name} for model in models}
    verdicts = [judge(first, second, nll, paper_word(papers[first], papers[second])) for first, second in plan.pairs]
    titles = {spec.name: spec.title for spec in plan.specs}
    return {
        "models": [_model(model, [e for e in entries if e["model"] == model.name]) for model in models],
        "comparisons": [asdict(verdict) | {"perplexity_ratio": verdict.ratio} for verdict in verdicts],
        "verdict": order_sentence(verdicts, titles),
        "text": [sentence(verdict, titles) for verdict in verdicts],
    }


def _model(model: Model, entries: list[dict]) -> dict[str, Any]:
    moe, cost = model.shape.moe, model.cost
    return {
        "model": model.name,
        "title": model.spec.title,
        "experts": moe.num_experts if moe else None,
        "expert_width": moe.ffn_dim if moe else model.shape.ffn_dim,
        "heads": moe.heads if moe else None,
        "top_k": moe.top_k if moe else None,
        "params_total": cost.params_total,
        "params_activated": cost.params_activated,
        "flops_per_token": cost.flops_per_token,
        "training_flops": entries[0]["training_flops"],
        "equal_to": model.spec.equal_to,
        "parity": model.spec.parity if model.spec.equal_to else None,
        "deviation": model.deviation,
        "learning_rate": entries[0]["learning_rate"],
        "activation_threshold": (entries[0]["activated_experts"] or {}).get("threshold"),
        "paper_ppl": model.spec.paper,
        "seeds": [entry["seed"] for entry in entries],
        "over_seeds": {name: _mean([_figure(entry, name) for entry in entries]) for name in AVERAGED},
    }


def _figure(entry: dict, name: str) -> float | None:
    if name.startswith("activated_"):
        return (entry["activated_experts"] or {}).get(name.removeprefix("activated_"))
    return entry[name]


def _mean(values: list[float | None]) -> dict | None:
    return None if None in values else asdict(mean_of(values))


def sentence(verdict: Verdict, titles: dict[str, str]) -> str:
    """A verdict with its numbers, in one line."""
    first, second = titles[verdict.first], titles[verdict.second]
    percent = f"perplexity {100 * (verdict.ratio - 1):+.2f} %"
    if verdict.standard_error is None:
        numbers = f"{percent}; a single seed tells no spread"
    else:
        spread = f"{verdict.difference:+.4f} +- {verdict.standard_error:.4f} nats per token over {verdict.seeds} seeds"
        t = "no spread" if verdict.t is None else f"t = {verdict.t:.1f}, {verdict.needed:.1f} needed"
        numbers = f"{percent}; {spread}, {t}"
    paper = f"; paper: {verdict.paper}" if verdict.paper else ""
    return f"{first}: {RELATIONS[verdict.word]} {second} ({numbers}{paper})"


def plus_minus(found: dict | None, digits: int, scale: float = 1.0) -> str:
    """ "12.72 +- 0.05"; a dash for what there is not."""
    if found is None:
        return "-"
    mean = Mean(**found)
    error = "" if mean.standard_error is None else f" +- {scale * mean.standard_error:.{digits}f}"
    return f"{scale * mean.mean:.{digits}f}{error}"


COLUMNS = {
    "model": lambda m: m["title"],
    "experts x width": lambda m: f"{m['experts'] or 1} x {m['expert_width']}",
    "params": lambda m: f"{m['params_total'] / 1e6:.2f}M",
    "activated": lambda m: f"{m['params_activated'] / 1e6:.2f}M",
    "training FLOPs": lambda m: f"{m['training_flops']:.2e}",
    "valid ppl": lambda m: plus_minus(m["over_seeds"]["valid_ppl"], 2),
    "bits/byte": lambda m: plus_minus(m["over_seeds"]["valid_bits_per_byte"], 4),
    "test ppl": lambda m: plus_minus(m["over_seeds"]["test_ppl"], 2),
    "in use/token, %": lambda m: plus_minus(m["over_seeds"]["activated_per_token"], 0, 100),
    "/sub-token, %": lambda m: plus_minus(m["over_seeds"]["activated_per_sub_token"], 0, 100),
    "threshold": lambda m: "-" if m["activation_threshold"] is None else f"{m['activation_threshold']:.3f}",
    "gate entropy": lambda m: plus_minus(m["over_seeds"]["gate_entropy"], 2),
    "tokens/s": lambda m: plus_minus(m["over_seeds"]["tokens_per_s"], 0),
    "lr": lambda m: f"{m['learning_rate']:g}",
    "paper's ppl": lambda m: "-" if m["paper_ppl"] is None else f"{m['paper_ppl']:.2f}",
}


def table(models: Sequence[dict]) -> str:
    """One line for each model, means and standard errors over seeds."""
    return text_table(list(COLUMNS), [[cell(model) for cell in COLUMNS.values()] for model in models])


def legend(results: dict) -> str:
    """What the columns mean."""
    jobs = sorted({entry["runs_at_a_time"] for entry in results["runs"]})
    return f"""\
Mean and standard error over seeds {", ".join(map(str, results["seeds"]))}; all models saw the same \
{results["runs"][0]["training_tokens"]:,} tokens in the same order per seed. FLOPs: 3 x the forward pass. \
In use: share of experts that are selected more often than the threshold K / (2 N), half of an even load, on the \
validation text; per token MH-MoE has more selections, so compare the column per sub-token. Gate entropy: nats. \
Tokens/s: median of each run, {" or ".join(map(str, jobs))} at a time on {results["machine"]["device"]}. \
Verdicts: by loss, paired by seed, Student's t at {CONFIDENCE:.0%} and two sides. The paper's perplexities belong to \
its own sizes, texts and equal parameters (v2: equal FLOPs, too)."""


def text(results: dict) -> str:
    """The table, the verdicts and the sentence on the paper's order, as Markdown."""
    lines = [table(results["models"]), "", legend(results), "", *(f"- {line}" for line in results["text"]), ""]
    return "\n".join([*lines, f"**{results['verdict']}**"])


def estimate(request: Request, flops: int, runs: int) -> str:
    """What all runs will take, from the speed of matrix products on this machine."""
    scale, at_best = request.scale, flops / (matrix_speed(request.device) * request.jobs)
    low, high = SLOWER_THAN_MATRICES[request.device]
    lines = [
        f"{runs} runs of {scale.updates} updates x {scale.tokens_per_update:,} tokens: {flops:.2e} training FLOPs, "
        f"{request.jobs} at a time on {request.device}",
        f"matrix products alone: {hours(at_best)} here; expect {hours(low * at_best)} to {hours(high * at_best)}",
    ]
    return "\n".join(lines)


def hours(seconds: float) -> str:
    """5400 -> "1.5 hours", 90 -> "1.5 minutes"."""
    return f"{seconds / 3600:.1f} hours" if seconds >= 3600 else f"{seconds / 60:.1f} minutes"


def matrix_speed(device: str) -> float:
    """FLOPs per second of a matrix product: float32 in one thread of a CPU, bfloat16 on a GPU."""
    size, dtype = (512, torch.float32) if device == "cpu" else (4096, torch.bfloat16)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        matrix = torch.ones(size, size, dtype=dtype, device=device)
        times = []
        for _ in range(MEASUREMENTS):
            start = time.perf_counter()
            matrix @ matrix
            if device == "cuda":
                torch.cuda.synchronize()
            times.append(time.perf_counter() - start)
    finally:
        torch.set_num_threads(threads)
    return 2 * size**3 / statistics.median(times)


def plan_table(models: Sequence[Model], scale_of: dict[str, float]) -> str:
    """The models before they are trained: sizes, cost, and how near each is to the one that it equals."""
    header = ["model", "experts x width", "params", "MFLOPs/token", "training FLOPs", "equal to", "params", "FLOPs"]
    rows = []
    for model in models:
        moe, deviation = model.shape.moe, model.deviation
        rows.append(
            [
                model.name,
                f"{moe.num_experts} x {moe.ffn_dim}" if moe else f"1 x {model.shape.ffn_dim}",
                f"{model.cost.params_total / 1e6:.2f}M",
                f"{model.cost.flops_per_token / 1e6:.2f}",
                f"{scale_of[model.name]:.2e}",
                model.spec.equal_to or "-",
                *(f"{100 * deviation[n]:+.1f} %" if deviation else "-" for n in ("params_total", "flops_per_token")),
            ]
        )
    return text_table(header, rows)

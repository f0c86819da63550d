"""What the demonstration found: one row per model, as JSON and as a table."""

import subprocess
from pathlib import Path

from fairseq_mhmoe.cli.demo_models import DemoModel
from fairseq_mhmoe.cli.text_table import text_table


def make_row(model: DemoModel, training: dict, splits: dict) -> dict:
    """Cost, speed and scores of one model. bits_per_byte and activated_experts: test and validation text."""
    valid, test = splits["valid"], splits["test"]
    return {
        "model": model.name,
        "params_total": model.cost.params_total,
        "params_activated": model.cost.params_activated,
        "flops_per_token": model.cost.flops_per_token,
        "updates": training["updates"],
        "training_tokens": training["tokens"],
        "tokens_per_s": training["tokens_per_s"],
        "valid_ppl": valid["eval_lm_perplexity"],
        "valid_ppl_95": valid["perplexity_95"],
        "test_ppl": test["eval_lm_perplexity"],
        "test_ppl_95": test["perplexity_95"],
        "bits_per_byte": test["bits_per_byte"],
        "valid_bits_per_byte": valid["bits_per_byte"],
        "activated_experts": valid["activated_experts"],
        "training_command": training["command"],
    }


def current_commit(root: Path) -> str:
    """The commit of the checkout, with -dirty when tracked files differ from it; "unknown" outside git."""
    command = ["git", "-C", str(root), "describe", "--always", "--dirty", "--abbrev=40", "--exclude=*"]
    try:
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return "unknown"


def interval(bounds: list[float]) -> str:
    """[204.6, 246.7] -> "205-247"."""
    return f"{bounds[0]:.0f}-{bounds[1]:.0f}"


def activation(found: dict | None) -> list[str]:
    """Cells: share per token, share per sub-token, threshold."""
    if found is None:
        return ["-", "-", "-"]
    return [f"{found['per_token']:.0%}", f"{found['per_sub_token']:.0%}", f"{found['threshold']:.3f}"]


COLUMNS = {
    "model": lambda row: [row["model"]],
    "parameters": lambda row: [f"{row['params_total'] / 1e6:.2f}M"],
    "activated": lambda row: [f"{row['params_activated'] / 1e6:.2f}M"],
    "MFLOPs/token": lambda row: [f"{row['flops_per_token'] / 1e6:.2f}"],
    "updates": lambda row: [str(row["updates"])],
    "tokens/s": lambda row: ["-" if row["tokens_per_s"] is None else f"{row['tokens_per_s']:.0f}"],
    "valid ppl": lambda row: [f"{row['valid_ppl']:.1f}"],
    "95 %": lambda row: [interval(row["valid_ppl_95"])],
    "test ppl": lambda row: [f"{row['test_ppl']:.1f}"],
    "95 % ": lambda row: [interval(row["test_ppl_95"])],
    "bits/byte": lambda row: [f"{row['bits_per_byte']:.3f}"],
    "in use/token|/sub-token|threshold": lambda row: activation(row["activated_experts"]),
}


def table(rows: list[dict]) -> str:
    """One line for each model."""
    header = [title.strip() for titles in COLUMNS for title in titles.split("|")]
    body = [[cell for cells in COLUMNS.values() for cell in cells(row)] for row in rows]
    return text_table(header, body)


LEGEND = """\
95 %: bootstrap interval over documents. bits/byte: test text. in use: share of experts selected more often than the
threshold K / (2 N), half of an even load, on the validation text; counted per token, MH-MoE has more selections, so
compare the column per sub-token. MFLOPs/token: training (3 x forward). Perplexities: fairseq-eval-lm."""

"""Writes configs/v1/, configs/v2/ and configs/README.md: a training configuration for each model of MH-MoE.

The rows of the papers' tables are listed here; what runs share is in configs/shared/. Run it after changing either:

    .venv/bin/python scripts/write_paper_configs.py
"""

from dataclasses import dataclass, field
from pathlib import Path

import yaml

from fairseq_mhmoe.cli.cost_models import preset_model
from fairseq_mhmoe.models.architectures import ARCHITECTURES, V1_EXPERT_WIDTHS
from fairseq_mhmoe.models.multimodal_architectures import MULTIMODAL_ARCHITECTURES
from fairseq_mhmoe.moe.cost import Cost
from fairseq_mhmoe.moe.multimodal_cost import cost_of

FOLDER = Path(__file__).resolve().parents[1] / "configs"
PAPERS = {"v1": "MH-MoE v1 (arXiv 2404.15045)", "v2": "MH-MoE v2 (arXiv 2411.16205)"}
GPUS = 8


@dataclass(frozen=True)
class Run:
    """What configs/shared/<name>.yaml says about batch and vocabulary; a test compares."""

    batch_size: int
    update_freq: int
    tokens_per_sample: int
    vocab_size: int

    @property
    def sequences(self) -> int:
        """Of one update."""
        return GPUS * self.batch_size * self.update_freq


RUNS = {
    "v1_english": Run(4, 8, 4096, 100288),
    "v1_multilingual": Run(4, 8, 4096, 250002),
    "v1_multimodal": Run(64, 1, 512, 64010),
    "v2_english": Run(8, 4, 2048, 32000),
}


@dataclass(frozen=True)
class Row:
    """One model: its file, what it is, where the papers have it, and what its architecture does not say."""

    name: str  # "v1/english_dense"
    preset: str
    title: str
    rows: str
    perplexity: str = ""
    model: dict = field(default_factory=dict)
    notes: tuple[str, ...] = ()
    steps: int = 0  # 0: those of the shared file

    @property
    def run(self) -> str:
        """Name of the shared file."""
        paper, name = self.name.split("/")
        return f"{paper}_{name.split('_')[0]}"

    @property
    def cost(self) -> Cost:
        """Parameters and FLOPs at the run's vocabulary and length."""
        run = RUNS[self.run]
        return cost_of(preset_model(self.preset, run.vocab_size, run.tokens_per_sample, **self.model).shape)


LINEARS = dict(mhmoe_head_layers=1, mhmoe_merge_layers=1)
NOT_NORMALIZED = dict(moe_normalize_gate_prob_before_dropping=False)
FITTED = "d_ff {} is fitted to the expert parameters of table 11; the paper states no beta for {} experts"
SCALED = f"d_ff = 4 beta h d with the beta of h = 4, {V1_EXPERT_WIDTHS[8].d_ff} / 12288; the paper states none"


def v1_rows() -> list[Row]:
    """Tables 1, 5, 6, 7 and 11 and the scaling of experts."""
    xmoe = {8: "14.82", 32: "11.96"}
    mhmoe = {8: "12.72", 32: "10.28"}
    rows = [
        Row("v1/english_dense", "dense_lm_v1", "dense", "table 1 (English), 6, 11", "16.23"),
        Row(
            "v1/english_dense_linear", "xmoe_lm_v1", "dense with head and merge layers", "table 6", "16.40",
            dict(use_xmoe=False, moe_expert_count=1, moe_top_k=1) | NOT_NORMALIZED | LINEARS,
            ("one expert that every token passes with gate 1: a dense feed-forward network between the two layers",),
        ),
    ]  # fmt: skip
    for count in V1_EXPERT_WIDTHS:
        where = {8: "table 1 (English), 6, 11", 32: "table 1 (English), 11", 256: "table 11"}
        rows.append(Row(
            f"v1/english_xmoe_{count}experts", "xmoe_lm_v1", f"X-MoE, {count} experts",
            where.get(count, "scaling of experts"), xmoe.get(count, ""), _v1_experts(count),
        ))  # fmt: skip
    rows.append(Row(
        "v1/english_xmoe_8experts_linear", "xmoe_lm_v1", "X-MoE, 8 experts, with head and merge layers", "table 6",
        "14.77", LINEARS,
    ))  # fmt: skip
    for count in V1_EXPERT_WIDTHS:
        where = {8: "table 1 (English), 5 (h = 4), 6, 7 (n = 1), 11", 32: "table 1 (English), 11", 256: "table 11"}
        rows.append(Row(
            f"v1/english_mhmoe_{count}experts", "mhmoe_lm_v1", f"MH-MoE, {count} experts",
            where.get(count, "scaling of experts"), mhmoe.get(count, ""), _v1_experts(count, heads=4), _v1_note(count),
        ))  # fmt: skip
    for heads, perplexity in {2: "12.87", 6: "12.41", 8: "12.95", 12: "13.28"}.items():
        width = V1_EXPERT_WIDTHS[8].d_ff * heads // 4
        rows.append(Row(
            f"v1/english_mhmoe_8experts_{heads}heads", "mhmoe_lm_v1", f"MH-MoE, 8 experts, {heads} heads",
            f"table 5 (h = {heads})", perplexity, dict(mhmoe_heads_number=heads, moe_ffn_dim=width), (SCALED,),
        ))  # fmt: skip
    for depth, perplexity in {0: "13.97", 2: "12.66", 3: "12.87"}.items():
        where = "table 7 (n = 0), table 6 (split and merge alone)" if depth == 0 else f"table 7 (n = {depth})"
        rows.append(Row(
            f"v1/english_mhmoe_8experts_{depth}linear", "mhmoe_lm_v1",
            f"MH-MoE, 8 experts, head and merge MLPs of {depth} layers", where, perplexity,
            dict(mhmoe_head_layers=depth, mhmoe_merge_layers=depth), _v1_note(8),
        ))  # fmt: skip
    where = "table 1 (multilingual)"
    rows.append(Row("v1/multilingual_dense", "dense_lm_v1", "dense", where, "8.56"))
    for count, perplexity in {8: "7.19", 32: "6.02"}.items():
        name, title = f"v1/multilingual_xmoe_{count}experts", f"X-MoE, {count} experts"
        rows.append(Row(name, "xmoe_lm_v1", title, where, perplexity, _v1_experts(count)))
    for count, perplexity in {8: "6.26", 32: "5.09"}.items():
        name, title = f"v1/multilingual_mhmoe_{count}experts", f"MH-MoE, {count} experts"
        rows.append(Row(name, "mhmoe_lm_v1", title, where, perplexity, _v1_experts(count, 4), _v1_note(count)))
    return rows


def multimodal_rows() -> list[Row]:
    """Table 1 of v1, masked multimodal modelling."""
    where = "table 1 (multimodal)"
    rows = [Row("v1/multimodal_dense", "dense_multimodal_base", "BEiT-3 base, dense", where, "17.95")]
    for count, perplexity in {8: "16.34", 32: "12.68"}.items():
        name, title = f"v1/multimodal_xmoe_{count}experts", f"BEiT-3 base, X-MoE, {count} experts"
        rows.append(Row(name, "xmoe_multimodal_base", title, where, perplexity, _v1_experts(count)))
    for count, perplexity in {8: "14.73", 32: "10.87"}.items():
        name, title = f"v1/multimodal_mhmoe_{count}experts", f"BEiT-3 base, MH-MoE, {count} experts"
        experts, notes = _v1_experts(count, heads=4), _v1_note(count)
        rows.append(Row(name, "mhmoe_multimodal_base", title, where, perplexity, experts, notes))
    return rows


def _v1_experts(count: int, heads: int = 1) -> dict:
    if count == 8:
        return {}
    return dict(moe_expert_count=count) | (dict(moe_ffn_dim=V1_EXPERT_WIDTHS[count].d_ff) if heads > 1 else {})


def _v1_note(count: int) -> tuple[str, ...]:
    width = V1_EXPERT_WIDTHS[count]
    if width.stated:
        return (f"d_ff = 4 beta h d = {width.d_ff} with the paper's beta, {width.d_ff * 128 // 12288}/128",)
    if count == 16:
        return (f"d_ff {width.d_ff} gives the parameters of X-MoE (mhmoe-cost --match); the paper states no beta",)
    return (FITTED.format(width.d_ff, count),)


V2_MODELS = [  # file, preset, title; perplexity after 100,000 steps: without, with a shared expert, BitNet
    ("dense", "dense_lm_v2", "dense", "12.13 / 11.58 / 16.21", "", "30.04 / 24.75 / 33.55"),
    ("smoe", "smoe_lm_v2", "SMoE", "10.90 / 9.68 / 14.35", "10.66 / 9.44 / 14.30", "26.78 / 21.54 / 29.73"),
    ("finegrained", "finegrained_lm_v2", "fine-grained SMoE", "10.74 / 9.38 / 13.97", "10.41 / 9.15 / 13.78",
     "26.68 / 21.42 / 29.50"),
    ("mhmoe_2heads", "mhmoe_lm_v2", "MH-MoE, 2 heads", "10.70 / 9.26 / 13.80", "10.36 / 8.79 / 13.66",
     "26.59 / 21.11 / 29.27"),
    ("mhmoe_3heads", "mhmoe_lm_v2_3heads", "MH-MoE, 3 heads", "10.51 / 9.18 / 13.63", "10.28 / 8.72 / 13.49",
     "26.47 / 21.06 / 29.14"),
]  # fmt: skip
BITNET = dict(input_bits=8, weight_bits=1, input_quant_method="absmax_per_token", weight_quant_method="absmean")
V2_ABLATION = [
    ("mhmoe_2heads_0linear", "mhmoe_lm_v2", "MH-MoE, neither head nor merge layer", "table 4", "11.97", (0, 0)),
    ("mhmoe_2heads_head", "mhmoe_lm_v2", "MH-MoE, head layer alone", "table 4", "11.74", (1, 0)),
    ("mhmoe_2heads_merge", "mhmoe_lm_v2", "MH-MoE, merge layer alone", "table 4", "11.84", (0, 1)),
    ("smoe_linear", "smoe_lm_v2", "SMoE with head and merge layers", "table 5", "11.84", (1, 1)),
    ("finegrained_linear", "finegrained_lm_v2", "fine-grained SMoE with head and merge layers", "table 5", "11.67",
     (1, 1)),
]  # fmt: skip


def v2_rows() -> list[Row]:
    """Tables 1 (no shared expert), 2 (shared expert), 3 (BitNet), 4 and 5 (head and merge layers)."""
    rows, shared, bitnet = [], [], []
    for name, preset, title, plain, with_shared, ternary in V2_MODELS:
        more = {"mhmoe_2heads": ", 4 (both)", "smoe": ", 5 (without)", "finegrained": ", 5 (without)"}.get(name, "")
        at_50k = {"mhmoe_2heads": "11.60", "smoe": "11.87", "finegrained": "11.68"}.get(name)
        notes = (f"after 50,000 steps on RedPajama: {at_50k}",) if at_50k else ()
        rows.append(Row(f"v2/english_{name}", preset, title, f"table 1{more}", plain, {}, notes))
        if with_shared:
            changes = dict(moe_shared_expert_dim=2048)
            title_shared = f"{title}, shared expert"
            shared.append(Row(f"v2/english_{name}_shared", preset, title_shared, "table 2", with_shared, changes))
        bitnet.append(Row(f"v2/english_{name}_bitnet", preset, f"{title}, BitNet b1.58", "table 3", ternary, BITNET))
    ablation = []
    for name, preset, title, where, perplexity, (head, merge) in V2_ABLATION:
        changes = dict(mhmoe_head_layers=head, mhmoe_merge_layers=merge)
        notes = ("50,000 steps of the schedule of 100,000",)
        if where == "table 4":
            notes += ("that the paper's ablation has 2 heads is inferred from its perplexity",)
        ablation.append(Row(f"v2/english_{name}", preset, title, where, perplexity, changes, notes, steps=50000))
    return rows + shared + bitnet + ablation


def batch_text(run: Run, multimodal: bool) -> str:
    """What one update sees."""
    if multimodal:
        return f"{GPUS} GPUs x {run.batch_size} = {run.sequences} images, as many texts and as many pairs an update"
    return (
        f"{GPUS} GPUs x {run.batch_size} sequences x {run.update_freq} batches an update = {run.sequences} "
        f"sequences, x {run.tokens_per_sample:,} tokens = {run.sequences * run.tokens_per_sample:,}"
    )


def config_text(row: Row) -> str:
    """The content of a row's file."""
    paper, run, cost = row.name.split("/")[0], RUNS[row.run], row.cost
    presets = ARCHITECTURES | MULTIMODAL_ARCHITECTURES
    multimodal = row.preset in MULTIMODAL_ARCHITECTURES
    lines = [
        "# @package _global_",
        f"# {PAPERS[paper]}: {row.title}; {row.rows}",
        *([f"# perplexity in the paper: {row.perplexity}{' (RedPajama / Wiki / C4)' if '/' in row.perplexity else ''}"]
          if row.perplexity else []),
        *(f"# {note}" for note in row.notes),
        f"# batch: {batch_text(run, multimodal)}",
        f"# parameters: {cost.params_total:,} ({cost.params_non_expert:,} + {cost.params_expert:,} of experts), "
        f"{cost.params_activated:,} activated; vocabulary {run.vocab_size:,}",
        f"# training FLOPs per token{' of a pair' if multimodal else ''}: {cost.flops_per_token:,}",
        "# Written by scripts/write_paper_configs.py; ../README.md says how to start it.",
    ]  # fmt: skip
    defaults = [
        {"/shared": row.run}, {"/model": row.preset}, {"optional /launch": None},
        {"override /hydra/job_logging": "stdout"}, "_self_",
    ]  # fmt: skip
    # what the preset says already is left out
    changes = {key: value for key, value in row.model.items() if presets[row.preset].get(key) != value}
    parts = [{"defaults": defaults}]
    if changes:
        parts.append({"model": changes})
    if row.steps:
        parts.append({"optimization": {"max_update": row.steps}})
    parts.append({"checkpoint": {"save_dir": f"runs/{row.name}"}})
    body = "\n".join(yaml.safe_dump(part, sort_keys=False) for part in parts)
    return "\n".join(lines) + "\n" + body


README_TOP = """# Configurations

Start one from the repository's root; `task.data` is a folder that `data_prep` wrote:

```bash
torchrun --nproc-per-node 8 -m fairseq_mhmoe.cli.hydra_train --config-dir configs \\
  --config-name v1/english_mhmoe_8experts task.data=data/redpajama
mhmoe-cost configs/v1/english_mhmoe_8experts.yaml configs/v1/english_xmoe_8experts.yaml
```

Each file names its batch; with another number of GPUs change `dataset.batch_size` or `optimization.update_freq`.
`shared/` holds what runs share, `model/` the architectures, `launch/` ranks for the stock `fairseq-hydra-train`;
`english_*_tiny.yaml` are for a laptop.

Assumed, because the papers do not say: 100,288 rows of vocabulary for cl100k (v1, English), LLaMA's 32,000 for v2;
100,000 steps, clipping and bfloat16 in v1, and 4,096 tokens a sequence there (256 sequences, about 1M tokens a step);
for multimodal models that the batch of 512 is one of each stream (images, texts, pairs), BEiT-3's vocabulary of 64,010,
8,192 codes, texts of 512 and captions of 64 tokens, and stochastic depth of 0.1. Their `task.data` is a folder with
images, pairs and text (docs/multimodal.md), their GFLOPs are per token of a masked pair.
Tables of v2 are numbered in this order: without shared expert, with it, BitNet, head and merge layers in MH-MoE, and in
SMoE. Perplexities are the papers' (v2: RedPajama / Wiki / C4). Parameters in millions, GFLOPs per token of training. v1
compares at equal parameters, v2 at equal parameters and FLOPs.
"""


def readme_text(rows: list[Row]) -> str:
    """The table of all configurations."""
    lines = [README_TOP, "| file | model | rows | perplexity | total | experts | activated | GFLOPs |"]
    lines.append("|" + "---|" * 8)
    for row in rows:
        cost = row.cost
        counts = [f"{n / 1e6:,.1f}" for n in (cost.params_total, cost.params_expert, cost.params_activated)]
        counts.append(f"{cost.flops_per_token / 1e9:.2f}")
        cells = [f"`{row.name}.yaml`", row.title, row.rows, row.perplexity, *counts]
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n"


def paper_configs() -> dict[str, str]:
    """{path within configs/: content} of everything that this script writes."""
    rows = v1_rows() + multimodal_rows() + v2_rows()
    return {f"{row.name}.yaml": config_text(row) for row in rows} | {"README.md": readme_text(rows)}


def main():
    """Write all files and remove stale ones."""
    contents = paper_configs()
    for paper in PAPERS:
        (FOLDER / paper).mkdir(exist_ok=True)
        for stale in {f"{paper}/{path.name}" for path in (FOLDER / paper).glob("*.yaml")} - set(contents):
            (FOLDER / stale).unlink()
    for name, content in contents.items():
        (FOLDER / name).write_text(content)
    print(f"{len(contents) - 1} configurations in {FOLDER}")


if __name__ == "__main__":
    main()

"""One row per model: the keys that others rely on, and a table with the same numbers."""

from fairseq_mhmoe.cli.demo_models import DemoModel
from fairseq_mhmoe.cli.demo_report import current_commit, make_row, table
from fairseq_mhmoe.moe.cost import Cost

KEYS = {
    "model",
    "params_total",
    "params_activated",
    "flops_per_token",
    "updates",
    "tokens_per_s",
    "valid_ppl",
    "test_ppl",
    "bits_per_byte",
    "activated_experts",
}
ACTIVATED = {"threshold": 0.05, "per_token": 0.95, "per_sub_token": 0.8}


def row(name="mhmoe", activated=ACTIVATED):
    split = {"perplexity_95": [90.2, 110.7], "bits_per_byte": 2.5, "activated_experts": activated}
    return make_row(
        DemoModel(name, [], Cost(3_000_000, 2_000_000, 1_000_000, 2_500_000, 12_000_000)),
        {"updates": 700, "tokens": 716_800, "tokens_per_s": 4321.0, "command": "fairseq-train data"},
        {"valid": split | {"eval_lm_perplexity": 100.04}, "test": split | {"eval_lm_perplexity": 98.5}},
    )


def cells(text):
    """Of the first row of a table."""
    return [cell.strip() for cell in text.splitlines()[2].strip("|").split("|")]


def test_row_has_the_agreed_keys():
    assert KEYS <= row().keys()


def test_table_shows_the_numbers():
    assert cells(table([row()])) == (
        ["mhmoe", "3.00M", "2.50M", "12.00", "700", "4321", "100.0", "90-111", "98.5", "90-111", "2.500"]
        + ["95%", "80%", "0.050"]
    )


def test_dense_model_has_no_experts_in_use():
    assert cells(table([row("dense", None)]))[-3:] == ["-", "-", "-"]


def test_columns_line_up():
    assert len({len(line) for line in table([row("dense", None), row()]).splitlines()}) == 1


def test_commit_outside_git_is_unknown(tmp_path):
    assert current_commit(tmp_path) == "unknown"

"""mhmoe-cost: what it prints, for people and as JSON, and what it refuses."""

import json

import pytest

from fairseq_mhmoe.cli.cost import main
from fairseq_mhmoe.cli.cost_models import preset_model, words_model

NAMES = ["params_total", "params_non_expert", "params_expert", "params_activated", "flops_per_token"]
V2 = ["--arch", "mhmoe_lm_v2", "--vocab-size", "32000"]


@pytest.fixture
def ask(capsys):
    """ask(*words): the JSON that the command prints."""

    def run(*words):
        assert main([*map(str, words), "--json"]) == 0, capsys.readouterr().err
        return json.loads(capsys.readouterr().out)

    return run


def test_an_architecture_with_options_of_the_model(ask):
    cost = ask("--arch", "mhmoe_lm_v1", "--moe-expert-count", 32, "--moe-ffn-dim", 12096, "--vocab-size", 100288)
    assert list(cost) == NAMES
    assert round(cost["params_expert"] / 1e6, 2) == 898.82


def test_tokens_per_sample_decide_attention(ask):
    short, long = (ask(*V2, "--tokens-per-sample", length)["flops_per_token"] for length in (1024, 2048))
    assert long - short == 12 * 6 * 2 * 768 * 1024  # scores and sums of 12 layers, 3 passes, 2 FLOPs a multiply-add


def test_a_configuration_and_an_override_of_it(ask):
    tiny = "configs/english_mhmoe_tiny.yaml"
    cost = ask(tiny, "--vocab-size", 1000)
    assert list(cost) == NAMES
    wide = ask(tiny, "model.moe_ffn_dim=384", "--vocab-size", 1000)
    assert wide["params_expert"] == 2 * cost["params_expert"]


def test_several_configurations_are_told_apart_by_name(ask):
    paths = [f"configs/english_{name}_tiny.yaml" for name in ("mhmoe", "xmoe")]
    found = ask(*paths, "--vocab-size", 8000)
    assert list(found) == paths and all(list(cost) == NAMES for cost in found.values())


@pytest.mark.parametrize("arch, width, count, exact", [("v2", 768, 40, 41.33), ("v2_3heads", 512, 96, 93)])
def test_match_finds_the_second_papers_choices(ask, arch, width, count, exact):
    found = ask("--arch", f"mhmoe_lm_{arch}", "--vocab-size", 32000, "--match", "smoe_lm_v2")
    assert found["parity"] == "v2"
    equations = found["matrices"]
    assert equations["d_ff"]["exact"] == pytest.approx(width)
    assert equations["d_ff"]["nearest_multiple_of_8"] == width
    assert equations["experts"]["exact"] == pytest.approx(exact, abs=0.01)
    assert equations["experts"]["nearest_multiple_of_8"] == count
    assert abs(found["counted"]["d_ff"]["exact"] - width) < 12


def test_match_finds_beta_where_experts_are_as_many(ask):
    found = ask("--arch", "mhmoe_lm_v1", "--vocab-size", 100288, "--match", "xmoe_lm_v1")
    assert found["parity"] == "v1" and "experts" not in found["counted"]
    assert found["counted"]["beta"]["exact"] == pytest.approx(0.9636, abs=1e-4)
    assert found["model"]["flops_per_token"] > 1.5 * found["base"]["flops_per_token"]


def test_match_against_a_dense_model_solves_the_width_alone(ask):
    found = ask(*V2, "--match", "dense_lm_v2")
    assert list(found["matrices"]) == ["d_ff"] and found["matrices"]["d_ff"]["exact"] == pytest.approx(768)


def test_table_11_for_people(capsys):
    assert main(["--table", "11"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines[3:]] == ["dense"] + 3 * ["xmoe"] + 3 * ["mhmoe"]
    assert [("fitted" in line) for line in lines[3:]] == [False] * 4 + [True, False, True]


def test_a_preset_is_what_the_command_line_makes_of_it():
    changes = dict(moe_top_k=3, decoder_learned_pos=True, no_token_positional_embeddings=False)
    words = ["--arch", "mhmoe_lm_v1", "--moe-top-k", "3", "--decoder-learned-pos", "--tokens-per-sample", "64"]
    assert preset_model("mhmoe_lm_v1", 100, 64, **changes) == words_model(words, 100)


def test_table_11_agrees_with_the_paper(ask):
    for row in ask("--table", 11):
        cost, exact = row["cost"], row["model"] != "mhmoe"
        assert round(cost["params_non_expert"] / 1e6) == row["paper_non_expert"]
        assert cost["params_expert"] / 1e6 == pytest.approx(row["paper_expert"], rel=0 if exact else 0.002, abs=0.5)
        assert row["fitted"] == (row["model"] == "mhmoe" and row["experts"] != 32)


def test_text_for_people(capsys):
    assert main(["configs/english_mhmoe_tiny.yaml", "--vocab-size", "8000"]) == 0
    assert "at 8,000 / 256" in capsys.readouterr().out
    assert main([*V2, "--match", "smoe_lm_v2"]) == 0
    out = capsys.readouterr().out
    assert "41.3             40 -3.1 % parameters" in out and "as they are" in out


@pytest.mark.parametrize(
    "words, message",
    [
        ([], "nothing to count"),
        (["--arch", "mhmoe_lm_v2"], "--arch needs --vocab-size"),
        (["--arch", "bert", "--vocab-size", "9"], "--arch bert: expected one of dense_lm_tiny"),
        ([*V2, "--moe-expert-cuont", "9"], "unrecognized arguments: --moe-expert-cuont"),
        ([*V2, "--moe-top-k", "99"], "--moe-top-k 99: expected at most --moe-expert-count 40"),
        ([*V2, "--parity", "v1"], "--parity has no effect without --match"),
        (["--arch", "dense_lm_v2", "--vocab-size", "9", "--match", "smoe_lm_v2"], "this one is dense"),
        ([*V2, "--match", "smoe_lm_base", "--decoder-layers", "6"], "layers is 6 here and 12 in BASE"),
        ([*V2, "--match", "dense_lm_v2", "--parity", "v1"], "BASE is dense"),
        (["--arch", "mhmoe_lm_v2", "--vocab-size", "0"], "--vocab-size 0"),
        (["configs/english_mhmoe_tiny.yaml"], "does not say how large the vocabulary is"),
        (["configs/english_mhmoe_tiny.yaml", "model.moe_nix=1", "--vocab-size", "9"], "model.moe_nix"),
        (["configs/model/dense_lm_v1.yaml", "--vocab-size", "9"], "no model or no task"),
        (["README.md"], "README.md is no .yaml file"),
        (["--nix"], "--nix: not known"),
        (["--table", "12"], "invalid choice: 12"),
        (["--table", "11", "--vocab-size", "9"], "stands alone"),
    ],
)
def test_refusals_are_one_line(capsys, words, message):
    assert main(words) == 2
    error = capsys.readouterr().err
    assert error.startswith("mhmoe-cost: error: ") and error.count("\n") == 1
    assert message in error

"""The whole reproduction, shrunken, with the real programs in forks: what it writes, and that nothing is done twice."""

import io
import json
import logging
from contextlib import redirect_stdout
from pathlib import Path

import pytest

from fairseq_mhmoe.cli import reproduce_figures
from fairseq_mhmoe.cli.reproduce import main

from .forked_programs import ForkedProgram, forked_programs

TINY = (
    "width=16 layers=2 attention_heads=2 ffn=16 tokens_per_sample=64 samples_per_update=4 samples_per_batch=4".split()
)
UPDATES = 6
TOKENS = 256 * UPDATES
SIZE = ["--experts", 2, "--tokens", TOKENS, "--set", *TINY, "validations=2", "warmup_updates=2"]
CHOICE = ["--models", "xmoe", "mhmoe", "--seeds", 1, 2]
PNG = b"\x89PNG"
pytestmark = pytest.mark.timeout(600)  # a dozen programs, on a machine that others use


@pytest.fixture(scope="module")
def reproduce(tiny_data_dir, tmp_path_factory):
    """reproduce(folder, *options): the command with forked programs -> its results."""
    pipes = tmp_path_factory.mktemp("pipes")

    def run(folder, *options):
        words = ["english", "--data", tiny_data_dir, "--output", folder, "--device", "cpu", *options]
        with forked_programs(pipes):
            try:
                main(list(map(str, words)))
            finally:
                logging.disable(logging.NOTSET)
        return json.loads((folder / "results.json").read_text())

    return run


@pytest.fixture(scope="module")
def whole(reproduce, tmp_path_factory):
    """Folder, results and lines of two models and two seeds, two runs at a time."""
    folder, said = tmp_path_factory.mktemp("whole") / "out", io.StringIO()
    with redirect_stdout(said):
        results = reproduce(folder, *SIZE, *CHOICE, "--jobs", 2)
    return folder, results, said.getvalue()


@pytest.mark.slow
def test_an_entry_for_each_model_and_seed(whole):
    folder, results, said = whole
    runs = {(run["model"], run["seed"]): run for run in results["runs"]}
    assert list(runs) == [("xmoe-2", 1), ("mhmoe-2", 1), ("xmoe-2", 2), ("mhmoe-2", 2)]
    for (name, seed), run in runs.items():
        assert run["valid_ppl_95"][0] <= run["valid_ppl"] <= run["valid_ppl_95"][1]
        assert [point["update"] for point in run["validation"]] == [UPDATES // 2, UPDATES]
        assert run["validation"][-1]["nll"] == pytest.approx(run["valid_nll"], abs=1e-3)
        assert (run["updates"], run["training_tokens"]) == (UPDATES, TOKENS)
        assert run["training_flops"] == TOKENS * run["flops_per_token"]
        assert run["tokens_per_s"] > 0 and run["runs_at_a_time"] == 2
        assert 0 <= run["gate_entropy"] <= 0.694 and run["load_max"] >= 1
        assert set(run["activated_experts"]) == {"threshold", "per_token", "per_sub_token"}
        assert [path.name for path in (folder / f"{name}-seed{seed}").glob("*.pt")] == ["checkpoint_last.pt"]
        assert f"{name}-seed{seed}: update" in said


@pytest.mark.slow
def test_verdict_table_and_pictures(whole):
    folder, results, said = whole
    nll = {(run["model"], run["seed"]): run["valid_nll"] for run in results["runs"]}
    gaps = [nll["mhmoe-2", seed] - nll["xmoe-2", seed] for seed in (1, 2)]
    [verdict] = results["comparisons"]
    assert verdict["difference"] == pytest.approx(sum(gaps) / 2)
    assert verdict["standard_error"] == pytest.approx(abs(gaps[0] - gaps[1]) / 2)
    assert results["verdict"].startswith("The paper has no figures")  # of two experts
    assert (folder / "table.md").read_text() in said
    for name in ("activation", "curves"):
        assert results["figures"][name]["pictures"]
        for picture in results["figures"][name]["pictures"]:
            assert Path(picture).read_bytes().startswith(PNG)


@pytest.fixture
def no_pictures(monkeypatch):
    """Those of `whole` are enough."""
    monkeypatch.setattr(reproduce_figures, "draw", lambda runs, place: {})


@pytest.mark.slow
def test_a_second_call_trains_nothing_and_other_settings_are_refused(whole, reproduce, no_pictures, capsys):
    folder, results, _ = whole
    again = reproduce(folder, *SIZE, *CHOICE, "--jobs", 1)
    assert capsys.readouterr().out.count("done before") == 4
    assert ForkedProgram.started == []
    assert again["runs"] == results["runs"]
    with pytest.raises(SystemExit) as ended:
        reproduce(folder, *SIZE, *CHOICE, "--learning-rate", "1e-3")
    assert ended.value.code == 2 and "was begun with other settings" in capsys.readouterr().err


@pytest.mark.slow
def test_a_killed_run_goes_on_to_the_numbers_of_one_that_was_not(whole, reproduce, no_pictures, tmp_path, capsys):
    one = [*SIZE, "--models", "mhmoe", "--seeds", 1, "--jobs", 1]
    ForkedProgram.kill_at = f"(epoch 1 @ {UPDATES // 2} updates"
    with pytest.raises(SystemExit) as ended:
        reproduce(tmp_path, *one)
    assert "exit status -9 of: " in str(ended.value) and "train.log" in str(ended.value)
    assert not (tmp_path / "results.json").exists()
    [killed] = reproduce(tmp_path, *one)["runs"]
    assert "going on from its last checkpoint" in capsys.readouterr().out
    same = whole[1]["runs"][1]  # made beside another run
    for name in ("model", "seed", "valid_nll", "test_nll", "validation", "gate_entropy", "activated_experts"):
        assert killed[name] == same[name]


def test_folder_of_something_else_is_not_touched(reproduce, tmp_path):
    folder = tmp_path / "out/mhmoe-2-seed1"
    folder.mkdir(parents=True)
    (folder / "thesis.tex").write_text("years of work")
    with pytest.raises(SystemExit) as ended:
        reproduce(tmp_path / "out", *SIZE, "--models", "mhmoe", "--seeds", 1)
    assert "holds something else" in str(ended.value) and (folder / "thesis.tex").exists()


def test_data_that_are_not_there_are_named(tmp_path, capsys):
    with pytest.raises(SystemExit) as ended:
        main(["english", "--data", str(tmp_path), "--output", str(tmp_path / "out")])
    assert ended.value.code == 2
    assert f"error: --data {tmp_path}: no manifest.json" in capsys.readouterr().err

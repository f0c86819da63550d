"""mhmoe-analyze curves: what it writes, says and refuses."""

import json

import pytest

from fairseq_mhmoe.cli.analyze import main


def write_run(folder, final, updates=20, tail=""):
    """A log with a line of training and a validation every 5 updates; perplexity falls to `final`."""
    folder.mkdir(parents=True)
    lines = []
    for update in range(5, updates + 1, 5):
        lines.append(f"epoch 001: {update} / 99 loss=3, ppl={final + 2}, wpb=100, num_updates={update}, wall={update}")
        ppl = final + updates - update
        lines.append(f"epoch 001 | valid on 'valid' subset | loss 3 | ppl {ppl} | num_updates {update}")
    (folder / "train.log").write_text("".join(f"{line}\n" for line in lines) + tail)
    return str(folder)


@pytest.fixture
def runs(tmp_path):
    """Two seeds each of a dense model and of X-MoE with 8 and 32 experts."""
    finals = {"dense": (20, 22), "x8": (15, 19), "x32": (10, 11)}
    return [
        write_run(tmp_path / f"{name}-{seed}", final)
        for name, pair in finals.items()
        for seed, final in enumerate(pair)
    ]


SEEDS = ["--labels", *("dense", "dense", "8", "8", "32", "32"), "--kinds", "dense", "dense", *["xmoe"] * 4]
SEEDS += ["--experts", *("0", "0", "8", "8", "32", "32"), "--flops-per-token", "1000"]


def test_everything_is_written(runs, tmp_path, capsys):
    assert main(["curves", *runs, *SEEDS, "--train", "--output", str(tmp_path / "out")]) == 0
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["curves.json", "curves.png", "scaling.png"]
    content = json.loads((tmp_path / "out/curves.json").read_text())
    assert (content["figure"], content["subset"]) == ("ppl", "valid")
    first, dense = content["runs"][0], content["groups"][0]
    assert (first["name"], first["label"], first["kind"], first["experts"]) == ("dense-0", "dense", "dense", 0)
    assert first["valid"] == {
        "update": [5, 10, 15, 20],
        "tokens": [500, 1000, 1500, 2000],
        "flops": [500_000, 1_000_000, 1_500_000, 2_000_000],
        "time": [5, 10, 15, 20],
        "value": [35, 30, 25, 20],
        "standard_error": None,
    }
    assert first["broken_lines"] == [] and first["train"]["value"] == [22] * 4
    assert dense["runs"] == 2 and dense["valid"]["value"] == [36, 31, 26, 21]
    place = {"update": 20, "tokens": 2000, "flops": 2_000_000, "time": 20}
    assert dense["final"] == {**place, "value": 21, "standard_error": 1, "values": [20, 22]}
    assert [group["final"]["value"] for group in content["groups"]] == [21, 17, 10.5]
    said = capsys.readouterr().out
    assert "dense     2        0      20    2000  2e+06       20    21           1" in said
    assert "end at different updates" not in said


def test_without_labels_every_run_is_alone_and_unknown_models_have_no_flops(runs, tmp_path, capsys):
    assert main(["curves", *runs[:2], "--output", str(tmp_path / "out")]) == 0
    content = json.loads((tmp_path / "out/curves.json").read_text())
    assert [group["label"] for group in content["groups"]] == ["dense-0", "dense-1"]
    assert content["groups"][0]["valid"]["standard_error"] is None and "flops" not in content["groups"][0]["valid"]
    assert not (tmp_path / "out/scaling.png").exists()
    said = capsys.readouterr().out
    assert "flops: no panel, unknown of dense-0, dense-1" in said and "FLOPs per token are unknown" in said


def test_broken_lines_are_reported_with_their_place(tmp_path, capsys):
    path = write_run(tmp_path / "a", 10, tail='{"epoch": 1, "valid_loss": "3\n')
    assert main(["curves", path, "--output", str(tmp_path / "out")]) == 0
    assert f"{path}/train.log, line 9: left out: cut or changed" in capsys.readouterr().out
    [run] = json.loads((tmp_path / "out/curves.json").read_text())["runs"]
    assert run["broken_lines"] == [
        {"file": f"{path}/train.log", "line": 9, "reason": "cut or changed: no whole JSON object"}
    ]


def test_curves_that_end_apart_are_told(tmp_path, capsys):
    paths = [write_run(tmp_path / "a", 10), write_run(tmp_path / "b", 10, updates=15)]
    assert main(["curves", *paths, "--output", str(tmp_path / "out")]) == 0
    assert "The curves end at different updates" in capsys.readouterr().out


def test_one_kind_with_equal_experts_makes_no_scaling_plot(runs, tmp_path, capsys):
    words = ["--kinds", "xmoe", "--experts", "8", "8", "32", "--output", str(tmp_path / "out")]
    assert main(["curves", *runs[2:5], *words]) == 0
    assert "scaling.png is left out: x8-0 and x8-1 are both xmoe with 8 experts" in capsys.readouterr().out
    assert not (tmp_path / "out/scaling.png").exists()


def test_several_subsets_need_a_choice(tmp_path, capsys):
    path = write_run(tmp_path / "a", 10)
    log = tmp_path / "a/train.log"
    lines = log.read_text().replace("'valid'", "'wiki/valid'").splitlines(keepends=True)
    log.write_text("".join([*lines, lines[-1].replace("wiki", "web")]))
    assert main(["curves", path, "--output", str(tmp_path / "out")]) == 2
    assert "several validation subsets: wiki/valid, web/valid; choose one with --subset" in capsys.readouterr().err
    assert main(["curves", path, "--subset", "wiki/valid", "--output", str(tmp_path / "out")]) == 0
    assert json.loads((tmp_path / "out/curves.json").read_text())["subset"] == "wiki/valid"


def test_figures_of_training_alone_are_drawn(runs, tmp_path):
    words = ["--subset", "train_inner", "--figure", "loss", "--output", str(tmp_path / "out")]
    assert main(["curves", runs[0], *words]) == 0
    [found] = json.loads((tmp_path / "out/curves.json").read_text())["groups"]
    assert len(found["valid"]["update"]) > 1


@pytest.mark.parametrize(
    "words, message",
    [
        (["--labels", "a"], "--labels: 1 labels for 2 runs"),
        (["--figure", "bleu"], "valid has no figure bleu; it has loss, num_updates, ppl"),
        (["--subset", "test"], "no validation of test; it has valid"),
        (["--x", "flops"], "--x flops: not known of any run"),
        (["--x", "update", "update"], "a panel is named twice"),
        (["--flops-per-token", "0"], "--flops-per-token 0.0: expected a number above 0"),
        (["--flops-per-token", "1", "2", "3"], "--flops-per-token: 3 values for 2 runs"),
        (["--experts", "-1"], "--experts -1: expected 0"),
        (["--y-limits", "3", "2"], "--y-limits 3 2: expected LOW below HIGH"),
        (["--labels", "a", "a", "--experts", "8", "16"], "are different models (experts 8 and 16)"),
    ],
)
def test_what_makes_no_sense_is_refused(runs, tmp_path, capsys, words, message):
    assert main(["curves", *runs[:2], *words, "--output", str(tmp_path / "out")]) == 2
    assert message in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_a_logarithm_of_zero_is_refused(tmp_path, capsys):
    path = write_run(tmp_path / "a", 0)
    assert main(["curves", path, "--log-y", "--output", str(tmp_path / "out")]) == 2
    assert "--log-y: ppl goes down to 0" in capsys.readouterr().err


def test_training_alone_can_be_drawn(tmp_path):
    path = write_run(tmp_path / "a", 10)
    log = tmp_path / "a/train.log"
    log.write_text("".join(line for line in log.read_text().splitlines(True) if "valid on" not in line))
    assert main(["curves", path, "--output", str(tmp_path / "out")]) == 2
    assert main(["curves", path, "--train", "--output", str(tmp_path / "out")]) == 0
    [group] = json.loads((tmp_path / "out/curves.json").read_text())["groups"]
    assert group["valid"]["update"] == [] and group["train"]["update"] == [5, 10, 15, 20] and "final" not in group

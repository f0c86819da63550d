"""Runs and groups: tokens, FLOPs, wall clock, means over seeds, what is refused."""

import json
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fairseq_mhmoe.analysis.curves import count_tokens, find_log, group, half_unit, names_of, read_run
from fairseq_mhmoe.analysis.curves_model import ModelFacts, facts_of_checkpoint, facts_of_log
from fairseq_mhmoe.cli.cost_models import words_model
from fairseq_mhmoe.moe.cost import model_cost


def write_log(folder, values, wpb=100, every=5, seconds=10, name="train.log"):
    """A log that validates at each update of `values` (update -> perplexity), with a line every `every` updates."""
    folder.mkdir(parents=True, exist_ok=True)
    lines = []
    for update in range(1, max(values) + 1):
        if update % every == 0:
            lines.append(f"epoch 001: {update} / 999 ppl=9, wpb={wpb}, num_updates={update}, wall={update * seconds}")
        if update in values:
            lines.append(f"epoch 001 | valid on 'valid' subset | ppl {values[update]} | num_updates {update}")
    (folder / name).write_text("".join(f"{line}\n" for line in lines))
    return folder


def test_a_run_by_hand(tmp_path):
    run = read_run(write_log(tmp_path / "a", {8: 50, 20: 25}), flops_per_token=7, experts=8, kind="mhmoe")
    curve = run.curve("valid", "ppl")
    assert curve.updates.tolist() == [8, 20] and curve.values.tolist() == [50, 25] and curve.errors is None
    assert curve.over["tokens"].tolist() == [800, 2000]
    assert curve.over["flops"].tolist() == [5600, 14000]
    assert curve.over["time"].tolist() == [80, 200]
    assert run.subsets == ["valid"] and (run.sessions, run.updates_lost) == (1, 0)
    assert run.model == ModelFacts("mhmoe", 8, flops_per_token=7) and run.notes == []
    assert run.curve("train_inner", "ppl").updates.tolist() == [5, 10, 15, 20]


def test_what_is_not_known_is_said(tmp_path):
    run = read_run(write_log(tmp_path / "a", {5: 50}))
    assert "flops" not in run.curve("valid", "ppl").over and run.model.experts is None
    assert any("FLOPs per token are unknown: no checkpoint" in note for note in run.notes)
    (tmp_path / "b.log").write_text("epoch 001 | valid on 'valid' subset | ppl 5 | num_updates 5\n")
    run = read_run(tmp_path / "b.log")
    assert list(run.curve("valid", "ppl").over) == ["update"]
    assert any("tokens are unknown" in note for note in run.notes)
    write_log(tmp_path / "c", {130: 5}, every=10)
    text = (tmp_path / "c/train.log").read_text()
    (tmp_path / "c/train.log").write_text("".join(text.splitlines(keepends=True)[10:]))
    assert any("begins after update 100" in note for note in read_run(tmp_path / "c").notes)


def test_values_that_are_not_finite_are_left_out(tmp_path):
    curve = read_run(write_log(tmp_path, {5: "inf", 10: 30, 15: "nan"})).curve("valid", "ppl")
    assert curve.updates.tolist() == [10]


def test_an_unknown_figure_is_refused_with_those_that_are_known(tmp_path):
    run = read_run(write_log(tmp_path, {5: 50}))
    with pytest.raises(ValueError, match="valid has no figure bits_per_byte; it has num_updates, ppl"):
        run.curve("valid", "bits_per_byte")


def test_mean_and_standard_error_over_seeds(tmp_path):
    runs = [
        read_run(write_log(tmp_path / "a", {10: 10, 20: 4})),
        read_run(write_log(tmp_path / "b", {10: 14, 15: 9, 20: 6}, seconds=20)),
        read_run(write_log(tmp_path / "c", {10: 12, 20: 8, 30: 1}, seconds=30)),
    ]
    [three] = group(runs, ["mine"] * 3)
    curve = three.curve("valid", "ppl")
    assert curve.updates.tolist() == [10, 20]  # those that all have
    assert curve.values.tolist() == [12, 6]
    assert curve.errors == pytest.approx([2 / math.sqrt(3)] * 2)  # standard deviation 2, three runs
    assert curve.over["time"].tolist() == [200, 400] and curve.over["tokens"].tolist() == [1000, 2000]
    single = group(runs[1:2])[0].curve("valid", "ppl")
    assert single.errors is None and single.updates.tolist() == [10, 15, 20]


def test_an_axis_that_one_run_of_a_group_lacks_is_not_the_groups(tmp_path):
    runs = [
        read_run(write_log(tmp_path / name, {10: 10}), flops_per_token=flops) for name, flops in (("a", 5), ("b", None))
    ]
    assert "flops" not in group(runs, ["x", "x"])[0].curve("valid", "ppl").over
    assert "flops" in group(runs)[0].curve("valid", "ppl").over


def test_groups_keep_the_order_and_refuse_different_models(tmp_path):
    runs = [read_run(write_log(tmp_path / name, {5: 5}), experts=8) for name in "abc"]
    groups = group(runs, ["y", "x", "y"])
    assert [(found.label, found.runs) for found in groups] == [("y", [runs[0], runs[2]]), ("x", [runs[1]])]
    with pytest.raises(ValueError, match="--labels: 2 labels for 3 runs"):
        group(runs, ["x", "y"])
    runs.append(read_run(tmp_path / "a", experts=32))
    with pytest.raises(ValueError, match="label x: .* are different models .experts 8 and 32."):
        group(runs, ["x", "y", "y", "x"])


def test_names_are_as_short_as_they_can_be(tmp_path):
    for path in ("one/seed1", "one/seed2", "two/seed1"):
        write_log(tmp_path / path, {5: 5})
    write_log(tmp_path, {5: 5}, name="three.log")
    runs = [read_run(tmp_path / path) for path in ("one/seed1", "one/seed2/train.log", "three.log")]
    assert names_of(runs) == ["seed1", "seed2", "three"]
    runs.append(read_run(tmp_path / "two/seed1"))
    assert names_of(runs)[-1] == "two/seed1" and names_of(runs)[0] == "one/seed1"
    with pytest.raises(ValueError, match="named twice"):
        names_of([runs[0], runs[0]])


def test_the_log_of_a_folder(tmp_path):
    with pytest.raises(ValueError, match="no run .*missing; expected a folder"):
        find_log(tmp_path / "missing")
    with pytest.raises(ValueError, match="no log of a training"):
        find_log(tmp_path)
    (tmp_path / "evaluate.log").write_text("no figures\n")
    write_log(tmp_path, {5: 5}, name="one.log")
    assert find_log(tmp_path) == tmp_path / "one.log"
    write_log(tmp_path, {5: 5}, name="log")
    with pytest.raises(ValueError, match=r"several logs of trainings \(log, one.log\); name one"):
        find_log(tmp_path)
    write_log(tmp_path, {5: 5})
    assert find_log(tmp_path) == tmp_path / "train.log"
    assert find_log(tmp_path / "log") == tmp_path / "log"


@given(
    st.lists(st.integers(1, 30_000), min_size=1, max_size=60),
    st.integers(1, 7),
    st.booleans(),
    st.integers(0, 6),
)
def test_tokens_are_right_within_the_error_that_is_stated(batches, interval, counted, lost):
    # batches of any size, logged as fairseq does; some lines got lost
    lines, total, truth = {}, np.cumsum(batches), {}
    for update in range(interval, len(batches) + 1, interval):
        part = batches[update - interval : update]
        figures = {"wpb": float(f"{round(sum(part) / interval, 1):g}")}
        if counted:
            third = sum(part) // 3
            figures |= {
                f"src_{name}_tokens": float(f"{count:g}") for name, count in (("a", third), ("b", sum(part) - third))
            }
        lines[update], truth[update] = figures, total[update - 1]
    tokens, error = count_tokens(lines)
    assert list(tokens) == list(truth)
    for update, count in tokens.items():
        assert abs(count - truth[update]) <= error + 1e-6
    if counted and max(batches) * interval < 1e6:
        assert error == 0
    # with the first lines missing, the count of a line stands for less than the updates before it
    if len(lines) > lost > 0 and min(batches) == max(batches):
        last = max(lines)
        tokens, error = count_tokens(dict(list(lines.items())[lost:]))
        assert abs(tokens[last] - truth[last]) <= error + 1e-6


def test_a_mean_that_disagrees_with_the_counts_wins():
    # a session that began at update 150: its first line counts 50 updates, the mean stands for all 100
    lines = {100: {"wpb": 8, "src_a_tokens": 800}, 200: {"wpb": 8, "src_a_tokens": 400}}
    tokens, error = count_tokens(lines)
    assert tokens == {100: 800, 200: 1600} and error == pytest.approx(5)  # 100 updates, each rounded to a tenth


def test_the_last_digit_that_is_printed():
    assert [half_unit(number) for number in (0, 256, 524288, 1.04858e6)] == pytest.approx([0, 5e-4, 0.5, 5])


TINY = {"decoder-embed-dim": 16, "decoder-layers": 2, "decoder-attention-heads": 2, "decoder-ffn-embed-dim": 16}
SIZE = {**TINY, "moe-expert-count": 4, "moe-ffn-dim": 8, "tokens-per-sample": 32}


@pytest.fixture(scope="module")
def train(run_cli, tiny_data_dir):
    """train(folder, log format, updates, options...) -> what fairseq-train printed."""

    def run(folder, form, updates, *options):
        words = [word for name, value in SIZE.items() for word in (f"--{name}", value)]
        return run_cli(
            "fairseq-train", tiny_data_dir, "--user-dir", "fairseq_mhmoe", "--cpu", "--task", "gpt",
            "--arch", "mhmoe_lm_tiny", "--criterion", "moe_cross_entropy", "--batch-size", 4, "--optimizer", "adam",
            "--lr", 0.01, "--max-update", updates, "--save-dir", folder, "--save-interval-updates", 4,
            "--validate-interval-updates", 2, "--log-interval", 3, "--num-workers", 0, "--log-format", form, *words,
            *options,
        ).stdout  # fmt: skip

    return run


@pytest.fixture(scope="module")
def trained(train, tmp_path_factory):
    """Three logs of one training: JSON, resumed at update 4 after 8; the file of --log-file; text in one go."""
    folder = tmp_path_factory.mktemp("trained")
    text = train(folder / "json", "json", 8)
    text += train(folder / "json", "json", 12, "--restore-file", folder / "json/checkpoint_1_4.pt")
    (folder / "json/train.log").write_text(text)
    text = train(folder / "text", "simple", 12, "--log-file", folder / "file.log")
    (folder / "text/train.log").write_text(text)
    return folder


def test_both_formats_tell_the_same_training(trained):
    json_run, text_run, file_run = (read_run(trained / name) for name in ("json", "text", "file.log"))
    for tag, figures in (("valid", ("ppl", "loss", "moe_entropy", "bits_per_byte")), ("train_inner", ("ppl", "gnorm"))):
        for figure in figures:
            curves = [run.curve(tag, figure) for run in (json_run, text_run, file_run)]
            assert curves[0].updates.tolist() == ([2, 4, 6, 8, 10, 12] if tag == "valid" else [3, 6, 9, 12])
            for curve in curves[1:]:
                assert curve.updates.tolist() == curves[0].updates.tolist()
                assert curve.values.tolist() == curves[0].values.tolist()
                assert curve.over["tokens"].tolist() == curves[0].over["tokens"].tolist()
    assert json_run.curve("valid", "ppl").over["tokens"].tolist() == [4 * 32 * u for u in (2, 4, 6, 8, 10, 12)]
    assert (json_run.sessions, json_run.updates_lost, json_run.broken) == (2, 4, [])
    assert (text_run.sessions, text_run.updates_lost, text_run.broken) == (1, 0, [])


def test_cost_and_kind_come_from_the_checkpoint_or_the_log(trained, tiny_data_dir):
    words = [str(word) for name, value in SIZE.items() for word in (f"--{name}", value)]
    vocab_size = json.loads((tiny_data_dir / "manifest.json").read_text())["dictionary"]["size"]
    cost = model_cost(words_model(["--arch", "mhmoe_lm_tiny", *words], vocab_size).shape)
    expected = ModelFacts("mhmoe", 4, 2, cost.flops_per_token, cost.params_total, cost.params_activated)
    for name in ("json", "text/train.log", "file.log"):  # the last has no checkpoint beside it
        run = read_run(trained / name)
        assert run.model == expected and run.notes == []
    assert read_run(trained / "json", experts=9).model.experts == 9


def test_a_damaged_checkpoint_is_no_model(tmp_path):
    (tmp_path / "checkpoint_last.pt").write_bytes(b"PK\x03\x04 cut")
    found, problem = facts_of_checkpoint(tmp_path / "checkpoint_last.pt")
    assert found == ModelFacts() and str(tmp_path) in problem
    for text in (
        None,
        "{'model': {'moe_freq': }, 'task': {}}",
        "{'model': {'a': 1}, 'task': {'tokens_per_sample': 2}}",
    ):
        assert facts_of_log(text, 100)[0] == ModelFacts()


def test_a_checkpoint_among_several_logs_is_nobodys(tmp_path, trained):
    write_log(tmp_path, {5: 5}, name="one.log")
    write_log(tmp_path, {5: 5}, name="two.log")
    (tmp_path / "checkpoint_last.pt").write_bytes((trained / "json/checkpoint_last.pt").read_bytes())
    assert read_run(tmp_path / "one.log").model == ModelFacts()
    (tmp_path / "two.log").unlink()
    assert read_run(tmp_path / "one.log").model.kind == "mhmoe"

"""What is logged of the routing is that of all ranks, in the JSON log and in TensorBoard; and one rank writes it."""

import json

import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from .launcher import describe
from .sources import BYTES_PER_TOKEN, write_sources

LAYER = [f"moe_l1_{name}" for name in ("gate_loss", "dropped", "entropy", "load_max", "active")]
MODEL = [f"moe_{name}" for name in ("gate_loss", "z_loss", "dropped", "entropy", "load_max", "active")]
LOADS = [f"moe_l1_e{expert}_load" for expert in range(4)]
FIGURES = [*LAYER, *MODEL, *LOADS, "loss", "nll_loss", "ppl", "bits_per_byte"]
SPLITS = {1: 4, 2: 2, 4: 1}  # processes: --update-freq
UPDATES = 4


@pytest.fixture(scope="module")
def runs(train_ranks, tmp_path_factory):
    """{processes: (outputs of all ranks, folder with TensorBoard's files)} of the same training with validation."""
    done = {}
    for processes, update_freq in SPLITS.items():
        folder = tmp_path_factory.mktemp("run")
        ended = train_ranks(
            folder, processes, update_freq=update_freq, max_update=UPDATES, tensorboard_logdir=folder / "tb",
            moe_capacity_factor=1.0, moe_log_expert_load=True, moe_z_loss_wt=0.01, no_save=True, lr=0.1,
            moe_load_map_interval=2,
        )  # fmt: skip
        done[processes] = ended, folder / "tb"
    return done


def logged(ended, subset):
    """The figures of every line of a subset, without the subset's name in front of them."""
    mark = f"| {subset} | {{"
    lines = [json.loads(line[line.index("{") :]) for line in ended[0].output.splitlines() if mark in line]
    assert lines, describe(ended)
    return [{name.removeprefix(f"{subset}_"): value for name, value in line.items()} for line in lines]


@pytest.mark.parametrize("processes", [2, 4])
@pytest.mark.parametrize("subset", ["train_inner", "train", "valid"])
def test_the_log_has_the_figures_of_all_ranks(runs, processes, subset):
    one, several = (logged(runs[number][0], subset) for number in (1, processes))
    assert len(one) == len(several) == (UPDATES if subset == "train_inner" else 1)
    for ours, theirs in zip(several, one):
        for figure in FIGURES:
            assert float(ours[figure]) == pytest.approx(float(theirs[figure]), rel=2e-3, abs=2e-4), figure
    assert float(one[-1]["moe_l1_dropped"]) > 0


@pytest.mark.parametrize("processes", [2, 4])
@pytest.mark.parametrize("subset", ["train_inner", "train", "valid"])
def test_tensorboard_has_the_figures_of_all_ranks(runs, processes, subset):
    one, several = (scalars(runs[number][1] / subset) for number in (1, processes))
    for figure in FIGURES:
        assert [step for step, _ in several[figure]] == [step for step, _ in one[figure]], figure
        values = [value for _, value in one[figure]]
        assert [value for _, value in several[figure]] == pytest.approx(values, rel=2e-3, abs=2e-4), figure


@pytest.mark.parametrize("processes", [2, 4])
@pytest.mark.parametrize("subset, updates", [("train_inner", [2, 4]), ("valid", [4])])
def test_pictures_are_those_of_all_ranks(runs, processes, subset, updates):
    one, several = (loads(runs[number][1] / subset) for number in (1, processes))
    assert [step for step, _ in several] == [step for step, _ in one] == updates
    for (_, ours), (_, theirs) in zip(several, one):
        assert ours == pytest.approx(theirs, rel=1e-2)


def loads(folder):
    """[(update, figures of the histogram of loads)] of the pictures in a folder, which come one with each histogram."""
    events = EventAccumulator(str(folder), size_guidance={"images": 0, "histograms": 0}).Reload()
    drawn = [event.step for event in events.Images("moe_load_map")]
    written = [(event.step, event.histogram_value) for event in events.Histograms("moe_load_histogram")]
    assert drawn == [step for step, _ in written]
    return [(step, [value.num, value.min, value.max, value.sum_squares]) for step, value in written]


def scalars(folder):
    """{name: [(update, value)]} of TensorBoard's files in a folder."""
    events = EventAccumulator(str(folder)).Reload()
    return {name: [(event.step, event.value) for event in events.Scalars(name)] for name in events.Tags()["scalars"]}


@pytest.mark.parametrize("processes", [2, 4])
def test_one_rank_writes(runs, processes):
    ended, folder = runs[processes]
    for subset in ("train_inner", "train", "valid"):
        assert len(list((folder / subset).iterdir())) == 1
    for rank in ended[1:]:
        assert "moe_l1_load_max" not in rank.output


def test_the_share_of_each_expert_is_that_of_all_tokens(runs):
    for processes in SPLITS:
        for line in logged(runs[processes][0], "train_inner"):
            shares = [float(line[name]) for name in LOADS]
            assert sum(shares) == pytest.approx(1, abs=2e-3)
            assert max(shares) * 4 == pytest.approx(float(line["moe_l1_load_max"]), abs=5e-3)


@pytest.fixture(scope="module")
def runs_of_sources(train_ranks, tmp_path_factory):
    """{processes: outputs of all ranks}; four ranks have less to validate than one batch each."""
    data = write_sources(tmp_path_factory.mktemp("sources"))
    return {
        processes: train_ranks(
            data / "run", processes, data=data, update_freq=update_freq, max_update=2, no_save=True, batch_size=4,
            moe_gate_loss_wt=0, sampling_alpha=0.5,
        )
        for processes, update_freq in SPLITS.items() if processes != 2
    }  # fmt: skip


@pytest.mark.parametrize("subset", ["train_inner", "train", "valid"])
def test_figures_of_sources_are_those_of_all_ranks(runs_of_sources, subset):
    one, several = (logged(runs_of_sources[processes], subset) for processes in (1, 4))
    names = [f"src_{name}_{figure}" for name in BYTES_PER_TOKEN for figure in ("loss", "tokens", "bits_per_byte")]
    for ours, theirs in zip(several, one, strict=True):
        for name in (*names, "bits_per_byte"):
            if theirs[name] is None:
                assert ours[name] is None and "_sw_" in name, name
            else:
                assert float(ours[name]) == pytest.approx(float(theirs[name]), rel=2e-3), name

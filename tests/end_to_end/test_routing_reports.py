"""Pictures of the load in TensorBoard's files, and warnings about routers, in trainings with the stock program."""

import io

import numpy as np
import pytest
import torch
from PIL import Image
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from fairseq_mhmoe.criterions.load_picture import load_picture

SPARSE = {"arch": "smoe_lm_tiny", "moe_top_k": 1, "moe_freq": 1, "batch_size": 16}


def events(folder):
    return EventAccumulator(str(folder), size_guidance={"images": 0, "histograms": 0, "scalars": 0}).Reload()


def pictures(folder):
    """{update: pixels}; {} when there are none."""
    found = events(folder)
    if not found.Tags()["images"]:
        return {}
    assert found.Tags()["images"] == ["moe_load_map"]
    drawn = found.Images("moe_load_map")
    assert len({image.step for image in drawn}) == len(drawn)
    return {image.step: np.asarray(Image.open(io.BytesIO(image.encoded_image_string))) for image in drawn}


def loads(lines, layer):
    """[N] mean share of the choices per expert over log lines of one update each, all of as many choices."""
    return np.mean([[float(line[f"moe_l{layer}_e{expert}_load"]) for expert in range(4)] for line in lines], axis=0)


@pytest.fixture(scope="module")
def run(train, tmp_path_factory):
    """A training with pictures every 2 updates: to update 3, then, resumed, to 7; its log and TensorBoard's folder."""
    folder = tmp_path_factory.mktemp("pictures")
    options = {
        **SPARSE, "tensorboard_logdir": folder / "tb", "moe_load_map_interval": 2, "moe_log_expert_load": True,
        "validate_interval_updates": 3, "batch_size": 4, "update_freq": 2, "sample_break_mode": "none",
    }  # fmt: skip
    first = train(folder, max_update=3, **options)
    second = train(folder, max_update=7, **options)
    return first.json_lines("train_inner") + second.json_lines("train_inner"), folder / "tb"


def test_pictures_come_at_the_interval_and_at_validation(run):
    _, folder = run
    assert set(pictures(folder / "train_inner")) == {2, 4, 6}
    assert set(pictures(folder / "valid")) == {3, 6, 7}
    assert pictures(folder / "train") == {}
    histograms = events(folder / "train_inner").Histograms("moe_load_histogram")
    assert [histogram.step for histogram in histograms] == [2, 4, 6]
    assert all(histogram.histogram_value.num == 2 * 4 for histogram in histograms)  # L x N


def test_the_picture_is_that_of_the_load_since_the_last_one(run):
    """Updates 1 and 2; then 4 alone, because the training was resumed after 3; then 5 and 6. All of --update-freq 2."""
    lines, folder = run
    drawn = pictures(folder / "train_inner")
    by_update = {int(line["num_updates"]): line for line in lines}
    for update, of in ((2, (1, 2)), (4, (4,)), (6, (5, 6))):
        load = np.stack([loads([by_update[number] for number in of], layer) for layer in (0, 1)])
        expected = load_picture(load, [0, 1])
        assert drawn[update].shape == expected.shape
        assert np.abs(drawn[update].astype(int) - expected).max() <= 3  # the log has four digits
        assert len(np.unique(drawn[update].reshape(-1, 3), axis=0)) > 8


def test_the_default_draws_at_validation_and_0_never(train, tmp_path):
    options = {**SPARSE, "max_update": 2, "no_save": True}
    train(tmp_path, **options, tensorboard_logdir=tmp_path / "default")
    assert set(pictures(tmp_path / "default" / "valid")) == {2}
    train(tmp_path, **options, tensorboard_logdir=tmp_path / "never", moe_load_map_interval=0)
    assert pictures(tmp_path / "never" / "valid") == {}
    assert events(tmp_path / "never" / "valid").Tags()["scalars"]


def test_an_interval_without_tensorboard_is_told(train, tmp_path):
    options = {**SPARSE, "max_update": 2, "no_save": True, "disable_validation": True}
    told = "--moe-load-map-interval has no effect without --tensorboard-logdir"
    assert train(tmp_path, **options, moe_load_map_interval=1).output.count(told) == 1
    assert told not in train(tmp_path, **options).output


def test_a_dense_model_draws_nothing(train, tmp_path):
    options = {"arch": "dense_lm_tiny", "max_update": 2, "no_save": True, "tensorboard_logdir": tmp_path / "tb"}
    result = train(tmp_path, **options, moe_load_map_interval=1, moe_watch_window=1)
    assert "no effect on a model without MoE layers: --moe-load-map-interval, --moe-watch-window" in result.output
    assert pictures(tmp_path / "tb" / "valid") == pictures(tmp_path / "tb" / "train_inner") == {}


def with_dead_expert(path):
    """A router of layer 1 that can't choose expert 2: its logit is 0, and of two others one is at least that."""
    state = torch.load(path, weights_only=True)
    [name] = [name for name in state["model"] if "layers.1." in name and name.endswith("router.weight")]
    weight = state["model"][name]
    weight[0], weight[1], weight[2] = weight[3], -weight[3], 0.0
    torch.save(state, path)


def test_a_training_with_an_expert_that_can_not_be_chosen_warns_once(train, tmp_path):
    options = {**SPARSE, "lr": 1e-9, "disable_validation": True, "sample_break_mode": "none"}
    train(tmp_path, max_update=1, **options)
    with_dead_expert(tmp_path / "checkpoint_last.pt")
    result = train(tmp_path, max_update=40, moe_watch_window=10, moe_gate_loss_wt=0, **options)
    warnings = [line for line in result.output.splitlines() if "without a single choice" in line]
    assert len(warnings) == 1 and "layer 1: expert 2. They learn nothing" in warnings[0], result.output[-3000:]
    assert "| WARNING |" in warnings[0] and "--moe-gate-loss-wt 0.01 (now 0)" in warnings[0]
    quiet = train(tmp_path, max_update=60, moe_watch_window=0, **options)
    assert "without a single choice" not in quiet.output


def test_a_router_that_collapses_is_told(train, tmp_path):
    """Balance loss off and a learning rate that throws the router into a corner."""
    result = train(
        tmp_path, **{**SPARSE, "lr": 0.5}, max_update=30, moe_watch_window=10, moe_gate_loss_wt=0, no_save=True,
        disable_validation=True, sample_break_mode="none",
    )  # fmt: skip
    assert "has collapsed: in the last " in result.output

"""Task masked_multimodal through the stock programs: it learns, stops and goes on bit for bit, in any precision."""

import pytest
import torch

from ..distributed.watched_training import digest
from ..multimodal_training import EXPERTS, MULTIMODAL

# dropout, two batches per update and three per epoch, so that every second update has one, a stop within an epoch
SETTINGS = dict(
    moe_modality="separate",
    dropout=0.1,
    drop_path_rate=0.1,
    moe_second_expert_policy="sampling",
    train_subset="valid",
    batch_size=2,
    text_batch_size=70,
    update_freq=2,
    clip_norm=1.0,
    lr_scheduler="polynomial_decay",
    warmup_updates=2,
    total_num_update=5,
    save_interval_updates=1,
    store_ema=True,
    ema_decay=0.9,
    disable_validation=True,
    num_workers=1,
)


@pytest.fixture(scope="module")
def train(run_program, multimodal_data_dir, tmp_path_factory):
    """train(save_dir=None, arch=..., check=True, **options) -> (Result of fairseq-train, folder)."""

    def start(save_dir=None, arch="mhmoe_multimodal_tiny", check=True, **options):
        folder = save_dir or tmp_path_factory.mktemp("run")
        experts = {} if arch.startswith("dense") else EXPERTS
        defaults = {**MULTIMODAL, **experts, "arch": arch, "save_dir": folder, "max_update": 2}
        return run_program("fairseq-train", multimodal_data_dir, check=check, **{**defaults, **options}), folder

    return start


def numbers(result, figure, tag="train_inner"):
    return [float(line[figure]) for line in result.json_lines(tag)]


@pytest.fixture(scope="module")
def straight_and_resumed(train):
    """(log, state) of 5 updates at once, and of 1 and then 4 more."""
    whole, straight = train(max_update=5, **SETTINGS)
    _, resumed = train(max_update=1, **SETTINGS)
    second, _ = train(resumed, max_update=5, **SETTINGS)
    states = [torch.load(folder / "checkpoint_last.pt", weights_only=True) for folder in (straight, resumed)]
    return (whole, states[0]), (second, states[1])


def test_a_training_that_was_stopped_ends_in_the_same_state(straight_and_resumed):
    (_, straight), (_, resumed) = straight_and_resumed
    for part in ("model", "last_optimizer_state"):
        assert digest(straight[part]) == digest(resumed[part]), part
    for part in ("ema", "train_iterator"):
        assert digest(straight["extra_state"][part]) == digest(resumed["extra_state"][part]), part
    assert straight["extra_state"]["train_iterator"]["iterations_in_epoch"] > 0


def test_every_later_update_logs_the_same(straight_and_resumed):
    (whole, _), (second, _) = straight_and_resumed

    def lines(result):
        return [
            {
                key: value
                for key, value in line.items()
                if key.startswith(("loss", "stream", "moe", "gnorm", "lr", "num", "epoch"))
            }
            for line in result.json_lines("train_inner")
        ]

    assert len(lines(second)) == 4
    assert lines(second) == lines(whole)[1:]
    assert [line["epoch"] for line in lines(whole)] == [1, 1, 2, 2, 3]
    assert {"moe_l1_image_load_max", "moe_l1_text_load_max"} <= lines(whole)[0].keys()


@pytest.fixture(scope="module")
def learned(train):
    """40 updates with validations at the 20th and the 40th."""
    return train(max_update=40, validate_interval_updates=20, tokens_per_sample=128, text_batch_size=2)[0]


def test_it_learns(learned):
    losses = numbers(learned, "loss")
    assert sum(losses[-5:]) < 0.6 * sum(losses[:5])
    for part in ("image", "text", "pair_image", "pair_text"):
        losses = numbers(learned, f"stream_{part}_loss")
        assert sum(losses[-5:]) < 0.9 * sum(losses[:5]), part


def test_every_validation_reads_every_record(learned):
    first, last = learned.json_lines("valid")
    assert float(last["valid_loss"]) < float(first["valid_loss"])
    for part, masked in (("image", 3 * 6), ("pair_image", 5 * 6)):
        assert first[f"valid_stream_{part}_masked"] == last[f"valid_stream_{part}_masked"] == str(masked)
    assert first["valid_stream_text_masked"] == last["valid_stream_text_masked"]
    assert float(last["valid_ppl"]) == pytest.approx(2 ** float(last["valid_nll_loss"]), rel=2e-3)
    assert last["valid_loss"] == last["valid_nll_loss"]


@pytest.fixture(scope="module")
def exact(train):
    """Two updates in float32."""
    return train(disable_validation=True)[0]


@pytest.mark.parametrize(
    "options",
    [dict(bf16=True), dict(memory_efficient_fp16=True, fp16_init_scale=4)],
    ids=["bfloat16", "memory-efficient float16"],
)
def test_half_precision_is_near_float32(train, exact, options):
    half, _ = train(disable_validation=True, **options)
    assert numbers(half, "loss") == pytest.approx(numbers(exact, "loss"), rel=0.02)


def test_recomputation_changes_nothing(train):
    options = dict(image_batch_size=0, text_batch_size=0, dropout=0.1, disable_validation=True)
    (plain, folder), (_, again) = (train(checkpoint_activations=again, **options) for again in (False, True))
    states = [torch.load(each / "checkpoint_last.pt", weights_only=True)["model"] for each in (folder, again)]
    assert digest(states[0]) == digest(states[1])
    # streams that are off have no figures
    line = plain.json_lines("train_inner")[-1]
    assert line["stream_image_ppl"] is line["stream_text_ppl"] is None
    assert float(line["stream_pair_text_masked"]) > 0 and line["ppl_text"] == line["stream_pair_text_ppl"]


def test_weights_that_leave_all_out_are_refused(train):
    result, _ = train(image_loss_weight=0, text_loss_weight=0, pair_loss_weight=0, check=False)
    assert result.returncode != 0 and "are all 0: nothing would be learnt; give one of them a weight" in result.output

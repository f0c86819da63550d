"""20 updates at once equal 10, a checkpoint, and 10 more: bit for bit."""

import pytest
import torch

from ..distributed.watched_training import digest

# Dropout, several batches per update, an epoch border between update 10 and 20, and a stop within an epoch.
SETTINGS = dict(
    dropout=0.2,
    activation_dropout=0.1,
    moe_second_expert_policy="sampling",
    update_freq=2,
    batch_size=16,
    tokens_per_sample=128,
    clip_norm=1.0,
    lr_scheduler="polynomial_decay",
    warmup_updates=3,
    total_num_update=20,
    save_interval_updates=10,
    store_ema=True,
    ema_decay=0.9,
)


@pytest.fixture(scope="module")
def straight_and_resumed(train, tmp_path_factory):
    straight, resumed = tmp_path_factory.mktemp("straight"), tmp_path_factory.mktemp("resumed")
    whole = train(straight, max_update=20, **SETTINGS)
    train(resumed, max_update=10, **SETTINGS)
    second = train(resumed, max_update=20, **SETTINGS)
    states = [torch.load(folder / "checkpoint_last.pt", weights_only=True) for folder in (straight, resumed)]
    return whole, second, *states


@pytest.mark.parametrize("part", ["model", "last_optimizer_state"])
def test_weights_and_optimizer_are_identical(straight_and_resumed, part):
    _, _, straight, resumed = straight_and_resumed
    assert digest(straight[part]) == digest(resumed[part])


def test_the_average_of_weights_is_identical(straight_and_resumed):
    _, _, straight, resumed = straight_and_resumed
    assert digest(straight["extra_state"]["ema"]) == digest(resumed["extra_state"]["ema"])


def test_the_position_in_the_data_is_identical(straight_and_resumed):
    _, _, straight, resumed = straight_and_resumed
    assert straight["extra_state"]["train_iterator"] == resumed["extra_state"]["train_iterator"]
    assert straight["extra_state"]["train_iterator"]["iterations_in_epoch"] > 0


def test_the_learning_rate_schedule_is_identical(straight_and_resumed):
    _, _, straight, resumed = straight_and_resumed
    assert straight["optimizer_history"][-1] == resumed["optimizer_history"][-1]


def test_every_later_update_logs_the_same(straight_and_resumed):
    whole, second, _, _ = straight_and_resumed

    def updates(result):
        keys = ("num_updates", "loss", "nll_loss", "moe_gate_loss", "moe_entropy", "moe_l1_load_max", "gnorm", "lr")
        return [tuple(line[key] for key in keys) for line in result.json_lines("train_inner")]

    assert len(updates(second)) == 10
    assert updates(second) == updates(whole)[10:]


def test_the_checkpoint_was_taken_within_an_epoch(straight_and_resumed):
    whole, _, _, _ = straight_and_resumed
    epochs = {line["num_updates"]: line["update"] for line in whole.json_lines("train_inner")}
    assert epochs["10"] % 1 != 0
    assert int(epochs["20"]) > int(epochs["10"])


def test_the_same_command_again_trains_no_further(train, tmp_path):
    train(tmp_path, max_update=2, **SETTINGS)
    before = digest(torch.load(tmp_path / "checkpoint_last.pt", weights_only=True)["model"])
    again = train(tmp_path, max_update=2, **SETTINGS)
    assert again.json_lines("train_inner") == []
    assert digest(torch.load(tmp_path / "checkpoint_last.pt", weights_only=True)["model"]) == before

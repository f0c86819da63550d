"""What stock fairseq forgets between a checkpoint and the training that continues from it."""

import logging
import math
from pathlib import Path

import pytest
import torch
from fairseq import checkpoint_utils

from fairseq_mhmoe.integration import resume


def state_of(batches, ranks):
    position = {"epoch": 1, "iterations_in_epoch": batches}
    return {
        "cfg": {"distributed_training": {"distributed_world_size": ranks}},
        "extra_state": {"train_iterator": position},
    }  # fmt: skip


@pytest.mark.parametrize(
    ("batches", "before", "now", "expected", "again"),
    [(6, 2, 2, 6, 0), (6, 2, 1, 12, 0), (12, 1, 4, 3, 0), (4, 3, 2, 6, 0), (5, 3, 2, 7, 1), (1, 1, 4, 0, 1)],
)
def test_the_position_counts_the_same_batches(caplog, batches, before, now, expected, again):
    state = state_of(batches, before)
    with caplog.at_level(logging.WARNING):
        resume.fit_position(state, now)
    assert state["extra_state"]["train_iterator"]["iterations_in_epoch"] == expected
    warnings = [message for message in caplog.messages if f"the last {again} of them are used again" in message]
    assert len(warnings) == len(caplog.messages) == (1 if again else 0)


def test_a_file_that_does_not_say_comes_from_one_process():
    assert resume.processes_of({"cfg": None}) == 1
    assert resume.processes_of({}) == 1


def test_master_weights_survive_half_precision(make_trainer, train):
    trainer = make_trainer("--bf16")
    train(trainer, 3)
    masters = [weights.data.clone() for weights in trainer.optimizer.fp32_params]
    assert any(not torch.equal(weights, weights.bfloat16().float()) for weights in masters)
    again = make_trainer("--bf16")
    train(again, 0)
    for found, expected in zip(again.optimizer.fp32_params, masters):
        assert torch.equal(found, expected)


def test_a_checkpoint_without_master_weights_continues_from_the_rounded_ones(make_trainer, train):
    trainer = make_trainer("--bf16")
    train(trainer, 1)
    path = Path(trainer.cfg.checkpoint.save_dir, "checkpoint_last.pt")
    state = torch.load(path, weights_only=True)
    del state["last_optimizer_state"]["master_weights"]
    torch.save(state, path)
    again = make_trainer("--bf16")
    train(again, 0)
    for found, own in zip(again.optimizer.fp32_params, again.optimizer.fp16_params):
        assert torch.equal(found, own.float())


@pytest.mark.parametrize("precision", ["--fp16", "--memory-efficient-fp16"])
def test_the_loss_scale_grows_when_it_would_have(make_trainer, train, precision):
    options = (precision, "--fp16-init-scale", "4", "--fp16-scale-window", "4")
    straight = make_trainer(*options)
    train(straight, 3)
    scaler = straight.optimizer.scaler
    again = make_trainer(*options)
    train(again, 0)
    assert (again.optimizer.scaler._iter, again.optimizer.scaler.loss_scale) == (scaler._iter, scaler.loss_scale)
    before = again.optimizer.scaler.loss_scale
    again.optimizer.scaler.update()
    straight.optimizer.scaler.update()
    assert again.optimizer.scaler.loss_scale == straight.optimizer.scaler.loss_scale
    assert scaler._iter == 4 and before <= again.optimizer.scaler.loss_scale


def test_the_average_is_updated_when_it_would_have_been(make_trainer, train):
    options = ("--store-ema", "--ema-decay", "0.9", "--ema-update-freq", "3")
    trainer = make_trainer(*options)
    train(trainer, 2)
    assert trainer.ema.update_freq_counter == 2
    again = make_trainer(*options)
    train(again, 0)
    assert again.ema.update_freq_counter == 2


def test_an_average_starts_from_the_checkpoint_that_has_none(make_trainer, train, caplog):
    trainer = make_trainer()
    train(trainer, 2)
    again = make_trainer("--store-ema", "--ema-fp32")
    train(again, 0)
    assert "the checkpoint has no average of weights" in caplog.text
    for name, weights in trainer.get_model().state_dict().items():
        assert torch.equal(again.ema.get_model().state_dict()[name], weights)
        assert torch.equal(again.ema.fp32_params[name], weights)


def test_an_average_that_is_not_continued_is_not_dropped_in_silence(make_trainer, train, caplog):
    train(make_trainer("--store-ema"), 1)
    train(make_trainer(), 0)
    assert "give --store-ema to continue it" in caplog.text


@pytest.mark.parametrize("option", ["--reset-optimizer", "--reset-dataloader", "--reset-meters"])
def test_what_is_reset_is_reset(make_trainer, train, option):
    train(make_trainer(), 2)
    again = make_trainer(option)
    _, epoch = checkpoint_utils.load_checkpoint(again.cfg.checkpoint, again)
    assert (again.get_num_updates() == 0) == (option == "--reset-optimizer")
    assert (epoch.iterations_in_epoch == 0) == (option == "--reset-dataloader")


def test_a_complete_training_has_no_epoch_left(make_trainer, train, caplog):
    train(make_trainer("--max-update", "2"), 2)
    caplog.set_level(logging.INFO)
    for most, left in ((2, False), (3, True), (0, True)):
        again = make_trainer("--max-update", most)
        _, epoch = checkpoint_utils.load_checkpoint(again.cfg.checkpoint, again)
        assert (epoch.next_epoch_idx <= (again.cfg.optimization.max_epoch or math.inf)) == left
    assert caplog.text.count("nothing to train: 2 of 2 updates are made") == 1


def test_patience_goes_on_counting(make_trainer, train, monkeypatch):
    from fairseq_cli.train import should_stop_early

    for name, value in (("best", 2.5), ("num_runs", 3)):
        monkeypatch.setattr(should_stop_early, name, value, raising=False)
    train(make_trainer(), 1)
    for options, expected in ((("--reset-meters",), (9.0, 0)), ((), (2.5, 3))):
        should_stop_early.best, should_stop_early.num_runs = 9.0, 0
        trainer = make_trainer(*options)
        checkpoint_utils.load_checkpoint(trainer.cfg.checkpoint, trainer)
        assert (should_stop_early.best, should_stop_early.num_runs) == expected

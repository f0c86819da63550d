"""A loss spike that lasts is undone: the last good checkpoint, and on with the data after the spike."""

import json
import re

import pytest
import torch
from fairseq import checkpoint_utils
from fairseq.trainer import Trainer

from fairseq_mhmoe.checkpoint import load_merged
from fairseq_mhmoe.checkpoint.reading import verify
from fairseq_mhmoe.criterions.moe_cross_entropy import MoECrossEntropy
from fairseq_mhmoe.integration.hooks import wrap

from ..distributed.launcher import describe, program_ranks, train_words

WATCH = dict(on_loss_spike="rewind", loss_spike_window=8, loss_spike_updates=3)
SETTINGS = [word for name, value in WATCH.items() for word in (f"--{name.replace('_', '-')}", value)]
SAVING = ["--save-interval-updates", 5, "--keep-interval-updates", 2, "--store-ema", "--lr-scheduler", "inverse_sqrt"]
SPOILT = range(10, 15)  # batches of an epoch in order, thus updates 11 to 15; it lasts at 13, and update 5 is safe


class Killed(BaseException):
    """What stands for a kill."""


@pytest.fixture
def run(make_trainer, tmp_path):
    """run(folder, batches, *words, spoilt=SPOILT, kill=False) -> trainer that has read so many batches in order.

    It goes on from what is in the folder, and saves when fairseq's loop would; kill: in its first rewind's save.
    """

    def start(folder, until, *words, spoilt=SPOILT, kill=False):
        torch.manual_seed(1)
        trainer = make_trainer("--max-update", 100, *SAVING, "--save-dir", tmp_path / folder, *words)
        _, epoch = checkpoint_utils.load_checkpoint(trainer.cfg.checkpoint, trainer)
        batches = epoch.next_epoch_itr(shuffle=False)
        forward, save = trainer.criterion.forward, trainer.save_checkpoint

        def spoil(model, sample, reduce=True):
            loss, size, logged = forward(model, sample, reduce)
            factor = 5 if batches.n - 1 in spoilt else 1
            return loss * factor, size, {**logged, "loss": logged["loss"] * factor}

        def save_or_die(*args):
            if kill and trainer.mhmoe_spikes.rewinds:
                raise Killed
            return save(*args)

        trainer.criterion.forward, trainer.save_checkpoint = spoil, save_or_die
        while batches.n < until:
            trainer.train_step([next(batches)])
            if trainer.get_num_updates() % 5 == 0:
                checkpoint_utils.save_checkpoint(trainer.cfg.checkpoint, trainer, epoch, None)
        return trainer

    return start


def assert_equal(found, expected):
    def state_of(trainer):
        trainer.consolidate_optimizer()
        state = trainer.state_dict()
        keys = "model", "last_optimizer_state", "extra_state", "optimizer_history"
        model, optimizer, extra, history = (state[key] for key in keys)
        position = trainer.mhmoe_epoch_itr.state_dict()
        return [model, optimizer, extra["ema"], history[-1]["lr_scheduler_state"], trainer.get_lr(), position]

    torch.testing.assert_close(state_of(found), state_of(expected), rtol=0, atol=0)


def test_the_data_of_the_spike_are_left_out_and_nothing_else(run, tmp_path):
    found = run("rewound", 20, *SETTINGS)
    assert found.get_num_updates() == 12
    run("by hand", 5)
    path = tmp_path / "by hand" / "checkpoint_last.pt"
    state = torch.load(path, weights_only=True)
    state["extra_state"]["train_iterator"]["iterations_in_epoch"] = 13
    torch.save(state, path)
    assert_equal(found, run("by hand", 20))


@pytest.mark.parametrize("kill", [True, False], ids=["before its checkpoint", "two updates later"])
def test_a_training_killed_after_going_back_goes_on_as_if_it_had_not_been(run, tmp_path, kill):
    expected = run("whole", 20, *SETTINGS)
    if kill:
        with pytest.raises(Killed):
            run("killed", 20, *SETTINGS, kill=True)
    else:
        run("killed", 15, *SETTINGS)
    assert_equal(run("killed", 20, *SETTINGS), expected)
    logs = [json.loads((tmp_path / folder / "rewinds.json").read_text()) for folder in ("whole", "killed")]
    assert logs[0] == logs[1] and len(logs[0]) == 1


def test_the_folder_tells_what_was_undone(run, tmp_path):
    trainer = run("run", 13, *SETTINGS)
    folder = tmp_path / "run"
    assert trainer.get_num_updates() == 5
    [undone] = json.loads((folder / "rewinds.json").read_text())
    assert trainer.mhmoe_spikes.rewinds == [undone]
    assert (undone["spike_began"], undone["from_update"], undone["to_update"]) == (11, 13, 5)
    assert undone["checkpoint"] == "checkpoint_1_5.pt" and len(undone["losses"]) == 3
    assert undone["goes_on_at"] == {"epoch": 1, "batches_of_the_epoch_read": 13}
    names = {path.name for path in folder.glob("checkpoint*")}
    assert names == {"checkpoint_1_5.pt", "checkpoint_1_10.pt.undone", "checkpoint_last.pt"}
    last = load_merged(folder / "checkpoint_last.pt")
    assert last["optimizer_history"][-1]["num_updates"] == 5
    assert last["extra_state"]["train_iterator"]["iterations_in_epoch"] == 13


def test_a_spike_that_ends_by_itself_is_not_undone(run, tmp_path):
    trainer = run("run", 14, *SETTINGS, spoilt=(10, 11))
    assert trainer.get_num_updates() == 14 and trainer.mhmoe_spikes.total == 2
    assert not (tmp_path / "run" / "rewinds.json").exists()


def test_without_a_checkpoint_from_before_it_says_so_and_goes_on(run, caplog):
    trainer = run("run", 14, *SETTINGS, "--save-interval-updates", 50, spoilt=range(8, 14))
    assert trainer.get_num_updates() == 14
    assert "no complete checkpoint from before update 8" in caplog.text


def test_too_many_rewinds_end_the_training(run):
    with pytest.raises(FloatingPointError, match=r"lasts, after 0 rewinds .*--max-rewinds 0.*--restore-file .*_1_5.pt"):
        run("run", 20, *SETTINGS, "--max-rewinds", 0)


@pytest.mark.parametrize("words", [["--no-save"], ["--no-save-optimizer-state"], ["--no-last-checkpoints"]])
def test_it_is_refused_where_there_would_be_nothing_to_go_back_to(make_trainer, words):
    with pytest.raises(ValueError, match=f"--on-loss-spike rewind .* which {words[0]} does not write"):
        make_trainer(*SETTINGS, *words)


def test_it_is_refused_where_ranks_would_decide_alone(make_trainer):
    with pytest.raises(ValueError, match="--on-loss-spike rewind needs a loss that all ranks share"):
        make_trainer(*SETTINGS, "--use-bmuf")


def test_the_moments_make_room_before_others_are_loaded(run, monkeypatch):
    kept, load = [], Trainer.load_checkpoint

    def look(trainer, *args, **kwargs):
        kept.append(len(trainer.optimizer.optimizer.state))
        return load(trainer, *args, **kwargs)

    monkeypatch.setattr(Trainer, "load_checkpoint", look)
    assert len(run("run", 13, *SETTINGS).optimizer.optimizer.state) > 0
    assert kept[-1] == 0


def spoil_batches():
    seen = []

    def forward(original, self, *args, **kwargs):
        loss, size, logged = original(self, *args, **kwargs)
        if not self.training:
            return loss, size, logged
        seen.append(1)
        factor = 5 if len(seen) - 1 in SPOILT else 1
        return loss * factor, size, {**logged, "loss": logged["loss"] * factor}

    wrap(MoECrossEntropy, "forward", forward)


@pytest.mark.parametrize("processes", [1, 2])
def test_fairseq_train_goes_back_with_all_its_ranks(tiny_data_dir, tmp_path, processes):
    words = train_words(
        tiny_data_dir, tmp_path, max_update=14, save_interval_updates=5, lr=0.1, valid_subset="valid", **WATCH
    )
    ended = program_ranks("fairseq-train", words, processes, before=spoil_batches)
    assert all(rank.status == 0 for rank in ended), describe(ended)
    found = re.findall(r"train_inner .*\"num_updates\": \"(\d+)\"", ended[0].output)
    assert list(map(int, found)) == [*range(1, 13), *range(6, 15)]
    assert "went back from update 13 to checkpoint_1_5.pt (update 5)" in ended[0].output
    path = tmp_path / "checkpoint_last.pt"
    verify(path)
    state = load_merged(path)
    assert state["optimizer_history"][-1]["num_updates"] == 14
    assert state["extra_state"]["train_iterator"]["iterations_in_epoch"] == 22

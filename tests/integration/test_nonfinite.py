"""An update with NaN or infinity: the training ends with a line that says where, or it is as if the batch never was."""

import json
import logging
import math
import os
import re

import pytest
import torch
import torch.distributed as dist
from fairseq import checkpoint_utils
from fairseq.logging import metrics
from fairseq.trainer import Trainer

from fairseq_mhmoe.checkpoint import load_merged
from fairseq_mhmoe.criterions.moe_cross_entropy import MoECrossEntropy
from fairseq_mhmoe.integration.hooks import wrap

from ..distributed.launcher import describe, program_ranks, train_words

SKIP = ("--on-nonfinite", "skip", "--max-nonfinite", "3")
PRECISIONS = {
    "fp32": ["--store-ema"],
    "clipped fp32": ["--clip-norm", "0.1"],
    "bf16": ["--bf16", "--optimizer", "sgd", "--lr", "0.5"],
    "clipped bf16": ["--bf16", "--clip-norm", "0.1"],
    "memory-efficient bf16": ["--memory-efficient-bf16"],
    "fp16": ["--fp16", "--fp16-init-scale", "4"],
    "memory-efficient fp16": ["--memory-efficient-fp16", "--fp16-init-scale", "4"],
}


@pytest.fixture
def run(make_trainer):
    """run(words, batches, spoilt={number: factor}) -> trainer after these batches, some with a spoilt loss."""

    def start(words, batches, spoilt=None):
        torch.manual_seed(1)
        trainer = make_trainer("--max-update", "20", *words)
        _, epoch = checkpoint_utils.load_checkpoint(trainer.cfg.checkpoint, trainer)
        every = list(epoch.next_epoch_itr(shuffle=False))
        forward, number = trainer.criterion.forward, [None]

        def spoil(model, sample, reduce=True):
            loss, size, logged = forward(model, sample, reduce)
            factor = (spoilt or {}).get(number[0], 1)
            return loss * factor, size, {**logged, "loss": logged["loss"] * factor}

        trainer.criterion.forward = spoil
        with metrics.aggregate("train"):
            for number[0] in batches:
                trainer.train_step([every[number[0]]])
        return trainer

    return start


def state_of(trainer):
    trainer.consolidate_optimizer()
    state = trainer.state_dict()
    extra = {key: state["extra_state"][key] for key in ("ema",) if key in state["extra_state"]}
    return {"model": state["model"], "optimizer": state["last_optimizer_state"], **extra}


@pytest.mark.parametrize("words", PRECISIONS.values(), ids=PRECISIONS)
def test_an_update_left_out_leaves_no_trace(run, words):
    expected = state_of(run([*words, *SKIP], [0, 1, 3, 4]))
    trainer = run([*words, *SKIP], [0, 1, 2, 3, 4], {2: math.nan})
    assert trainer.get_num_updates() == 4 and trainer.mhmoe_nonfinite.total == 1
    found = state_of(trainer)
    if "loss_scaler" in found["optimizer"]:
        assert found["optimizer"]["loss_scale"] == 4
    torch.testing.assert_close(found, expected, rtol=0, atol=0)
    logged = metrics.get_smoothed_values("train")
    assert all(math.isfinite(value) for value in logged.values() if isinstance(value, float))
    assert logged["nonfinite"] == 1


def test_an_infinite_gradient_beside_a_finite_loss_is_left_out_and_named(run, make_trainer, caplog):
    trainer = run(SKIP, [0])
    weights = {name: p.detach().clone() for name, p in trainer.model.named_parameters()}
    name, parameter = list(trainer.model.named_parameters())[5]
    handle = parameter.register_hook(lambda gradient: gradient * math.inf)
    trainer.train_step([trainer.mhmoe_epoch_itr.first_batch])
    handle.remove()
    assert trainer.get_num_updates() == 1
    assert all(torch.equal(p, weights[n]) for n, p in trainer.model.named_parameters())
    message = next(r.getMessage() for r in caplog.records if r.name.endswith("nonfinite"))
    assert re.match(
        rf"update 2: the norm of the gradients is \w+, for those of 1 of \d+ parameters, first {name}, ", message
    )
    assert message.endswith("left out, 1 in a row (--max-nonfinite 3), 1 in all")


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_by_default_the_training_ends_and_says_why(run, value):
    with pytest.raises(
        FloatingPointError, match=r"^update 3: the loss is (nan|inf), at learning rate 0.01.*: no step was"
    ):
        run([], [0, 1, 2], {2: value})


def test_a_loss_that_is_not_finite_counts_even_where_the_gradients_are(run):
    trainer = run(SKIP, [0])
    forward = trainer.criterion.forward

    def log_infinity(*args):
        loss, size, logged = forward(*args)
        return loss, size, {**logged, "loss": logged["loss"] + math.inf}

    trainer.criterion.forward = log_infinity
    trainer.train_step([trainer.mhmoe_epoch_itr.first_batch])
    assert (trainer.get_num_updates(), trainer.mhmoe_nonfinite.total) == (1, 1)


def test_the_line_names_the_module_in_which_it_began(run):
    trainer = run([], [0])

    def spoil(module, inputs, output):
        return output * math.nan

    trainer.model.decoder.layers[1].self_attn.out_proj.register_forward_hook(spoil)
    with pytest.raises(
        FloatingPointError, match="rate 0.01, seen first in the forward pass of decoder.layers.1.self_attn.out_proj: no"
    ):
        trainer.train_step([trainer.mhmoe_epoch_itr.first_batch])


def test_too_many_in_a_row_end_the_training(run):
    bad = dict.fromkeys((1, 2, 3), math.nan)
    with pytest.raises(FloatingPointError, match=r"3 updates in a row \(--max-nonfinite 3\)"):
        run(SKIP, [0, 1, 2, 3], bad)


def test_a_good_update_between_them_starts_the_count_again(run):
    trainer = run(SKIP, [0, 1, 2, 4, 3, 5], dict.fromkeys((1, 2, 3), math.nan))
    assert trainer.mhmoe_nonfinite.total == 3 and trainer.get_num_updates() == 3


def test_weights_that_are_not_finite_end_the_training_at_once(run):
    trainer = run(SKIP, [0])
    name, parameter = list(trainer.model.named_parameters())[2]
    parameter.data.view(-1)[0] = math.nan
    with pytest.raises(FloatingPointError, match=f"weights themselves are not finite .first {name}.*--restore-file"):
        trainer.train_step([trainer.mhmoe_epoch_itr.first_batch])


def test_a_training_that_goes_on_goes_on_counting(run, make_trainer, train):
    trainer = run(SKIP, [0, 1, 2], dict.fromkeys((1, 2), math.nan))
    checkpoint_utils.save_checkpoint(trainer.cfg.checkpoint, trainer, trainer.mhmoe_epoch_itr, None)
    with pytest.raises(FloatingPointError, match="3 updates in a row"):
        run(SKIP, [3], {3: math.nan})


@pytest.mark.parametrize("words", [["--amp"], ["--use-bmuf"], ["--ddp-backend", "slowmo"]])
def test_leaving_out_is_refused_where_ranks_step_on_their_own(make_trainer, words):
    with pytest.raises(ValueError, match=f"--on-nonfinite skip can't be combined with {words[0]}"):
        make_trainer(*SKIP, *words)


def spoil_second_batch_of_last_rank():
    calls = []

    def forward(original, self, *args, **kwargs):
        loss, size, logged = original(self, *args, **kwargs)
        if self.training and dist.get_rank() == 1:
            calls.append(1)
            if len(calls) == 2:
                return loss * math.nan, size, {**logged, "loss": logged["loss"] * math.nan}
        return loss, size, logged

    def train_step(original, self, *args, **kwargs):
        before = [parameter.detach().clone() for parameter in self.model.parameters()]
        output = original(self, *args, **kwargs)
        changed = sum(not torch.equal(old, new) for old, new in zip(before, self.model.parameters()))
        os.write(1, f"step: {self.get_num_updates()} {'kept' if changed == 0 else 'changed'}\n".encode())
        return output

    wrap(MoECrossEntropy, "forward", forward)
    wrap(Trainer, "train_step", train_step)


def test_all_ranks_leave_it_out_and_spread_experts_stay_whole(tiny_data_dir, tmp_path, caplog):
    caplog.set_level(logging.INFO)
    words = train_words(
        tiny_data_dir, tmp_path, max_update=3, disable_validation=True, on_nonfinite="skip", optimizer="adam", lr=0.01
    )
    ended = program_ranks("fairseq-train", words, before=spoil_second_batch_of_last_rank)
    for rank in ended:
        assert rank.status == 0, describe(ended)
        assert re.findall(r"^step: (.+)$", rank.output, re.MULTILINE) == [
            "1 changed",
            "1 kept",
            "2 changed",
            "3 changed",
        ]
    assert "update 2: the loss is nan on rank 1 of 2, at learning rate 0.01: left out, 1 in a row" in ended[0].output
    lines = [
        json.loads(line.partition("| train_inner | ")[2])
        for line in ended[0].output.splitlines()
        if "| train_inner | {" in line
    ]
    assert [line["num_updates"] for line in lines] == ["1", "2", "3"]
    assert [line.get("nonfinite") for line in lines] == [None, "1", "1"]
    assert all(math.isfinite(float(line["loss"])) for line in lines)
    state = load_merged(tmp_path / "checkpoint_last.pt")
    assert all(weights.isfinite().all() for weights in state["model"].values())
    assert state["extra_state"]["nonfinite"] == {"total": 1, "in_a_row": 0}

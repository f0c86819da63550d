"""The usual range of the loss, and what is said and remembered when the loss leaves it."""

import logging
from types import SimpleNamespace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fairseq_mhmoe.integration.loss_range import LossRange
from fairseq_mhmoe.integration.loss_spikes import Spikes

WINDOW = 16
noise = st.floats(-1, 1)


def spikes(**state):
    model = SimpleNamespace(loss_spike_window=8, loss_spike_threshold=6.0, loss_spike_updates=3)
    cfg = SimpleNamespace(model=model, distributed_training=SimpleNamespace(distributed_rank=0))
    return Spikes(cfg, **state)


def observe_all(watch, losses, start=1):
    return [watch.observe(update, loss) for update, loss in enumerate(losses, start)]


@given(st.floats(0.1, 12), st.floats(0, 0.02), st.lists(noise, min_size=40, max_size=60), st.floats(0, 0.05))
def test_a_falling_loss_with_noise_is_never_strange(level, fall, noises, size):
    watch = LossRange(WINDOW, 6.0)
    losses = [level * (1 + (1 - fall) ** i + size * x) for i, x in enumerate(noises)]
    assert not any(watch.observe(loss) for loss in losses)


@given(st.floats(0.1, 12), st.lists(noise, min_size=WINDOW, max_size=40), st.floats(0, 0.05), st.floats(0.5, 100))
def test_a_jump_of_half_the_loss_is_always_strange(level, noises, size, jump):
    watch = LossRange(WINDOW, 6.0)
    for x in noises:
        watch.observe(level * (1 + size * x))
    scatter = 6 * max(1.4826 * size, 0.01)  # of values within +-size the median deviation is at most size
    assert watch.observe(level * (1 + size + scatter + jump))


@given(st.lists(st.floats(0, 20), min_size=10, max_size=60), st.integers(0, 60))
def test_a_range_that_was_saved_goes_on_as_it_would_have(losses, cut):
    whole, first = LossRange(8, 3.0), LossRange(8, 3.0)
    expected = [whole.observe(loss) for loss in losses]
    before = [first.observe(loss) for loss in losses[:cut]]
    second = LossRange(8, 3.0, **first.state())
    assert before + [second.observe(loss) for loss in losses[cut:]] == expected
    assert second.state() == whole.state()


def test_nothing_is_judged_before_the_window_is_full():
    watch = LossRange(8, 6.0)
    assert not any(watch.observe(loss) for loss in [1, 1, 1, 1, 1, 1, 1, 1000])
    assert watch.observe(1000)


def test_strange_losses_do_not_widen_the_range():
    watch = LossRange(8, 6.0)
    for loss in [2.0] * 8 + [9.0] * 5:
        watch.observe(loss)
    assert watch.limit() == pytest.approx(2.12)


def test_a_level_that_stays_for_a_window_becomes_usual():
    watch = LossRange(8, 6.0)
    strange = [watch.observe(loss) for loss in [2.0] * 8 + [9.0] * 12]
    assert strange == [False] * 8 + [True] * 8 + [False] * 4


@pytest.mark.parametrize("loss", [float("nan"), float("inf")])
def test_a_loss_that_is_not_a_number_is_strange_and_not_kept(loss):
    watch = LossRange(8, 6.0)
    assert [watch.observe(x) for x in [2.0] * 8 + [loss, 2.0]] == [False] * 8 + [True, False]
    assert watch.limit() == pytest.approx(2.12)


def test_a_spike_lasts_once_when_enough_updates_in_a_row_are_above():
    lasts = observe_all(spikes(), [2.0] * 8 + [9, 9, 2, 9, 9, 9, 9])
    assert [number for number, last in enumerate(lasts, 1) if last] == [14]


def test_what_happens_is_said_once(caplog):
    caplog.set_level(logging.INFO)
    watch = spikes()
    observe_all(watch, [2.0] * 8 + [9, 8, 7, 7, 2])
    assert [record.getMessage() for record in caplog.records] == [
        "loss spike: 9 at update 9; usual is 2, up to 2.12 (--loss-spike-threshold 6, --loss-spike-window 8)",
        "the loss spike lasts: 3 updates since 9, loss 7, usual 2",
        "the loss spike is over at update 13: loss 2, highest 9",
    ]
    assert watch.total == 4


def test_spikes_go_on_from_a_saved_state():
    losses = [2.0] * 8 + [9, 9, 9, 2, 9, 9, 9]
    expected = observe_all(spikes(), losses)
    for cut in (4, 9, 10, 12, 13):
        first = spikes()
        before = observe_all(first, losses[:cut])
        assert before + observe_all(spikes(**first.state()), losses[cut:], cut + 1) == expected


def test_the_state_is_in_checkpoints_and_comes_back(make_trainer, train):
    first = make_trainer("--max-update", "9")
    train(first, 2)
    state = first.mhmoe_spikes.state()
    assert len(state["losses"]) == 2
    second = make_trainer("--max-update", "9")
    train(second, 0)
    assert second.mhmoe_spikes.state() == state


def test_switched_off_nothing_is_kept(make_trainer):
    trainer = make_trainer("--on-loss-spike", "off")
    trainer.consolidate_optimizer()
    assert trainer.mhmoe_spikes is None and "loss_spikes" not in trainer.state_dict()["extra_state"]

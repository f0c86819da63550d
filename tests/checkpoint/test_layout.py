"""Experts come out of a saved state and go back in, bit for bit, and nothing else moves."""

import copy

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from fairseq_mhmoe.checkpoint import put_experts, slice_experts, take_experts

from .states import INDICES, NAMES, SECTIONS, make_state, same


@given(sections=st.sets(st.sampled_from(SECTIONS)), dtype=st.sampled_from([torch.float32, torch.bfloat16]))
def test_put_is_the_inverse_of_take(sections, dtype):
    state = make_state(4, dtype, sections)
    before = copy.deepcopy(state)
    rest, experts = take_experts(state, NAMES, INDICES)
    assert same(put_experts(rest, experts), before)
    assert same(state, before)  # and nobody changed the argument


def test_what_is_taken():
    rest, experts = take_experts(make_state(), NAMES, INDICES)
    assert list(experts) == ["model", "optimizer", "master", "ema", "ema_fp32"]
    assert list(experts["model"]) == list(experts["ema"]) == list(experts["ema_fp32"]) == NAMES
    assert list(experts["optimizer"]) == ["2.exp_avg", "2.exp_avg_sq", "3.exp_avg", "3.exp_avg_sq"]
    assert list(experts["master"]) == ["2", "3"]
    assert not set(NAMES) & set(rest["model"])
    assert set(rest["last_optimizer_state"]["state"][2]) == {"step"}
    assert set(rest["last_optimizer_state"]["master_weights"]) == {0, 1, 4}


def test_sections_that_are_absent_stay_absent():
    rest, experts = take_experts(make_state(sections=()), NAMES, INDICES)
    assert list(experts) == ["model"]
    assert "last_optimizer_state" not in rest


def test_slices_are_the_rows_of_a_rank():
    experts = {"model": {"w": torch.arange(12).reshape(6, 2)}}
    assert slice_experts(experts, 1, 3)["model"]["w"].tolist() == [[4, 5], [6, 7]]


def test_a_size_that_does_not_divide_is_refused_with_those_that_do():
    with pytest.raises(ValueError, match=r"6 experts of w can't be split over 4 ranks; \[1, 2, 3, 6\] would fit"):
        slice_experts({"model": {"w": torch.zeros(6, 2)}}, 0, 4)


def test_a_name_of_another_model_is_refused():
    with pytest.raises(ValueError, match="encoder.w is not in the model"):
        take_experts(make_state(), ["encoder.w"], [])


def test_moments_that_are_not_kept_by_expert_are_refused():
    state = make_state()
    state["last_optimizer_state"]["state"][3]["exp_avg_sq_col"] = torch.zeros(2)
    with pytest.raises(ValueError, match=r"3.exp_avg_sq_col of optimizer has shape \(2,\)"):
        take_experts(state, NAMES, INDICES)


def test_experts_without_their_section_are_refused():
    rest, experts = take_experts(make_state(), NAMES, INDICES)
    del rest["last_optimizer_state"]
    with pytest.raises(ValueError, match="no last_optimizer_state.state, but there are experts for it"):
        put_experts(rest, experts)

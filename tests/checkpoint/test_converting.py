"""One file becomes shards and shards become one file, without the model and without guessing."""

import copy
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from fairseq_mhmoe.checkpoint import load, load_merged, read_experts, reference_of, remove_unnamed_experts, verify
from fairseq_mhmoe.checkpoint.converting import expert_indices, expert_names, merge, split

from .states import INDICES, NAMES, SECTIONS, TRAINED, flip, make_state, same, save, shards_of


@settings(max_examples=30)
@given(
    size=st.sampled_from([2, 3, 6]),
    saved=st.sampled_from([1, 2, 6]),
    sections=st.sets(st.sampled_from(SECTIONS)),
    named=st.booleans(),
)
def test_merging_what_was_split_gives_the_same(size, saved, sections, named):
    state = make_state(6, torch.bfloat16, sections)
    if not named and saved == 1:
        del state["mhmoe_parameters"]
    with TemporaryDirectory() as folder:
        source = save(Path(folder), state, saved, "checkpoint_best.pt")
        target, whole = Path(folder, "split.pt"), Path(folder, "whole.pt")
        split(source, target, size)
        verify(target)
        assert len(list((target.parent / reference_of(target)["folder"]).glob("*.pt"))) == size
        merge(target, whole)
        assert reference_of(whole) is None
        assert same(load(whole), state)


def test_a_split_file_holds_what_ranks_would_have_written(tmp_path):
    state = make_state(4)
    by_ranks = save(tmp_path, state, 2)
    split(save(tmp_path, state, 1, "one.pt"), tmp_path / "split.pt", 2)
    split_experts, rank_experts = (
        read_experts(path, reference_of(path), 1, 2) for path in (tmp_path / "split.pt", by_ranks)
    )
    assert same(split_experts, rank_experts)
    without = [{key: value for key, value in load(path).items() if key != "mhmoe_experts"}
               for path in (tmp_path / "split.pt", by_ranks)]  # fmt: skip
    assert same(*without)


def test_optimizer_entries_are_found_by_name_and_by_shape():
    state = make_state()
    assert expert_names(state) == NAMES
    assert expert_indices(state, NAMES) == INDICES
    del state["mhmoe_parameters"]
    assert expert_indices(state, NAMES) == INDICES


def test_experts_of_each_modality_are_experts():
    names = [
        "layers.1.moe_layer.A.experts.w_in",
        "layers.1.moe_layer.B.experts.w_in",
        "layers.1.moe_layer.experts.w_in",
    ]
    others = ["layers.1.moe_layer.A.router.weight", "layers.1.moe_layer.shared.w_in", "layers.1.ffn.A.fc1.weight"]
    assert expert_names({"model": dict.fromkeys(names + others)}) == names


def test_an_order_that_differs_from_the_models_is_followed():
    state = make_state()
    moved = [4, 3, 2, 1, 0]
    moments = state["last_optimizer_state"]
    for key in ("state", "master_weights"):
        moments[key] = {moved[index]: value for index, value in moments[key].items()}
    state["mhmoe_parameters"] = TRAINED[::-1]
    assert expert_indices(state, NAMES) == [2, 1]


@pytest.mark.parametrize("named", [True, False])
def test_without_moments_there_is_nothing_to_find(named):
    state = make_state(sections=())
    state["last_optimizer_state"] = {"state": {}, "param_groups": [{"params": [0, 1, 2, 3, 4]}]}
    if not named:
        del state["mhmoe_parameters"]
    assert expert_indices(state, NAMES) == []


def test_factored_moments_fit_their_parameter():
    state = make_state(sections=("optimizer",))
    del state["mhmoe_parameters"]
    kept = state["last_optimizer_state"]["state"]
    kept[2] = {"exp_avg_sq_row": torch.zeros(4, 2), "exp_avg_sq_col": torch.zeros(4, 3)}
    assert expert_indices(state, NAMES) == INDICES


def ambiguous():
    """A frozen twin before the experts: five entries, and two tensors that could be the third."""
    state = make_state()
    del state["mhmoe_parameters"]
    model = state["model"]
    twin = NAMES[0].replace("layers.1", "layers.0")
    state["model"] = {}
    for name, tensor in model.items():
        if name == NAMES[0]:
            state["model"][twin] = tensor.clone()
        state["model"][name] = tensor
    return state, "can't be told for sure"


def flat():
    """Moments of all parameters in one vector, as stock fp16 keeps them."""
    state = make_state()
    del state["mhmoe_parameters"]
    state["last_optimizer_state"] = {
        "state": {0: {"exp_avg": torch.zeros(62)}}, "param_groups": [{"params": [0]}]
    }  # fmt: skip
    return state, "do not follow the model's tensors"


def other_shapes():
    state = make_state()
    state["last_optimizer_state"]["state"][1]["exp_avg"] = torch.zeros(9)
    return state, r"\(9,\).* for decoder.layers.1.moe_layer.router.weight"


def other_number():
    state = make_state()
    state["mhmoe_parameters"] = TRAINED[:-1]
    return state, "entries for 5 parameters, the file names 4"


def frozen_experts():
    state = make_state()
    state["mhmoe_parameters"] = ["decoder.other" if name == NAMES[1] else name for name in TRAINED]
    return state, "experts.b_in is not among the parameters that the optimizer trains"


def dense_model():
    state = make_state()
    for name in NAMES:
        del state["model"][name]
    return state, "has no experts"


@pytest.mark.parametrize("case", [ambiguous, flat, other_shapes, other_number, frozen_experts, dense_model])
def test_what_can_not_be_known_is_not_guessed(tmp_path, case):
    state, message = case()
    source = save(tmp_path, state, 1)
    with pytest.raises(ValueError, match=message):
        split(source, tmp_path / "out" / "split.pt", 2)
    assert [file.name for file in tmp_path.iterdir()] == [source.name]


@pytest.mark.parametrize("saved", [1, 2])
def test_a_number_of_shards_that_does_not_divide(tmp_path, saved):
    source = save(tmp_path, make_state(4), saved)
    before = sorted(tmp_path.rglob("*"))
    for size, message in [(3, r"4 experts .* over 3 ranks; \[1, 2, 4\] would fit"), (1, "at least 2"), (0, "at least")]:
        with pytest.raises(ValueError, match=message):
            split(source, tmp_path / "split.pt", size)
    assert sorted(tmp_path.rglob("*")) == before


def test_damaged_sources_are_not_converted(tmp_path):
    source = save(tmp_path, make_state(), 2)
    flip(shards_of(source)[1], 900)
    for convert in (lambda: merge(source, tmp_path / "out.pt"), lambda: split(source, tmp_path / "out.pt", 4)):
        with pytest.raises(ValueError, match="its hash is not the manifest's"):
            convert()
    assert not (tmp_path / "out.pt").exists()


def test_a_replaced_file_takes_its_shards_with_it(tmp_path):
    state = make_state()
    target = save(tmp_path, make_state(seed=1), 2, "split.pt")
    split(save(tmp_path, copy.deepcopy(state), 1, "one.pt"), target, 4)
    assert len(list((tmp_path / "experts").iterdir())) == 1
    merge(target, target)
    assert same(load_merged(target), state)
    assert not list((tmp_path / "experts").iterdir())
    assert remove_unnamed_experts(tmp_path) == []

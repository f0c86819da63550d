"""What a trainer has to save: names in the optimizer's order, experts of this rank, plain data."""

from argparse import Namespace
from enum import Enum

import torch

from fairseq_mhmoe.integration import checkpoint_contents as contents


def test_all_experts_here_are_no_rows(make_trainer):
    model = make_trainer().get_model()
    assert contents.expert_names(model) == []


def test_spread_experts_are_found(make_trainer):
    model = make_trainer(place=(1, 2)).get_model()
    names = contents.expert_names(model)
    assert names and all(".moe_layer.experts." in name for name in names)


def test_float32_copies_have_the_names_of_their_originals(make_trainer):
    trainer = make_trainer("--bf16")
    names = contents.optimizer_order(trainer)
    assert names == [name for name, _ in contents.trained_parameters(trainer)]
    model = dict(trainer.get_model().named_parameters())
    for name, copy in zip(names, contents.parameters_of(trainer.optimizer.optimizer)):
        assert torch.equal(model[name].float(), copy)


def test_frozen_parameters_have_no_number(make_trainer):
    trainer = make_trainer(place=(0, 2))
    frozen = contents.expert_names(trainer.get_model())[0]
    dict(trainer.get_model().named_parameters())[frozen].requires_grad_(False)
    order = contents.optimizer_order(trainer)
    assert frozen not in order
    assert contents.numbers_of([frozen, order[3], order[1]], order) == [1, 3]


def test_a_composite_optimizer_numbers_nothing():
    assert contents.parameters_of(Namespace(optimizers={})) == []


class Colour(Enum):
    RED = 3


def test_plain_data():
    value = {"a": Namespace(b=[Colour.RED, Namespace(c=(1, None))]), "d": "text"}
    assert contents.plain(value) == {"a": {"b": ["RED", {"c": (1, None)}]}, "d": "text"}
